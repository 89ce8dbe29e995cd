"""The other side: crowds that are no attack."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from attacks.stage import Victim

from verification.probes import xmpp
from verification.probes.prosody_console import Prosody
from verification.test_bans import PROGRAM

PEOPLE = 200
STREAMS = 60  # a large server opens two for each pair of domains that talk
MESSAGES = 20  # on each


@pytest.fixture
def people(victims: dict[str, Victim]):
    """The office's accounts: their addresses and the password of them all; removed at the end."""
    ours = victims["ours"]
    prosody, password = Prosody(ours.host), secrets.token_hex(12)
    each = f"for number = 1, {PEOPLE} do usermanager.%s('person' .. number, %s'{ours.domain}') end return true"
    prosody.run(each % ("create_user", f"'{password}', "))
    yield [f"person{number}@{ours.domain}" for number in range(1, PEOPLE + 1)], password
    prosody.run(each % ("delete_user", ""))


def refused(victim: Victim) -> dict[str, int]:
    """The firewall's counters of connections that it did not take: name -> packets."""
    listing = victim.host.check_output("nft --json list counters table inet portcullis")
    counters = [entry["counter"] for entry in json.loads(listing)["nftables"] if "counter" in entry]
    return {counter["name"]: counter["packets"] for counter in counters if "_over_" in counter["name"]}


@pytest.mark.control("FLOOD-20")
def test_an_office_comes_back_at_once(victims, people, evidence):
    ours = victims["ours"]
    jids, password = people
    before, together = refused(ours), Barrier(PEOPLE)

    def come_back(jid: str) -> xmpp.Client:
        together.wait(60)
        return xmpp.Client.login(*ours.office.at(xmpp.C2S_DIRECT), jid, password, standard_port=xmpp.C2S_DIRECT)

    started = time.monotonic()
    with contextlib.ExitStack() as sessions, ThreadPoolExecutor(PEOPLE) as pool:
        clients = [sessions.enter_context(client) for client in pool.map(come_back, jids)]
        took = time.monotonic() - started
        for client in clients:
            client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=ours.domain)
    evidence(f"{len(clients)} of {PEOPLE} clients behind one address are back in {took:.0f} s, each at the first try")
    assert refused(ours) == before, "connections of the office were refused"


@pytest.mark.control("FLOOD-20")
@pytest.mark.control("FLOOD-06")
def test_a_burst_of_a_large_server_is_no_attack(victims, evidence):
    ours = victims["ours"]
    before = refused(ours)
    with contextlib.ExitStack() as streams, ours.log_in("alice", ours.office) as alice:
        with ThreadPoolExecutor(10) as pool:
            peers = list(pool.map(lambda _: ours.trusted_peer(ours.office), range(STREAMS)))
        for peer in peers:
            streams.enter_context(peer)
        for number, peer in enumerate(peers):
            sender = f"m{number}@{peer.sender}"
            messages = (
                f"<message from='{sender}' to='{alice.jid}' id='{number}-{count}'><body>hello</body></message>"
                for count in range(MESSAGES)
            )
            peer.send("".join(messages))
        arrived = {alice.wait("message").get("id") for _ in range(STREAMS * MESSAGES)}
    evidence(f"{STREAMS} streams and {len(arrived)} messages at once from one server: all are taken")
    assert len(arrived) == STREAMS * MESSAGES
    assert refused(ours) == before, "connections of the server were refused"
    assert ours.clients.address not in ours.host.check_output(PROGRAM)
