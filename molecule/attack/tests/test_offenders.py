"""Bans, from the failed login to the address that is refused, among hosts with addresses of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from attacks import passwords
from attacks.catalogue import Succeeded
from attacks.stage import Origin, Victim

from verification.probes import crowd, ports, xmpp
from verification.probes.tls import Refused
from verification.probes.xmpp import Refusal
from verification.test_bans import PATIENCE, PROGRAM, WAIT, line_about

SSH = 22
EVERYTHING = [SSH, 80, 443, xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT]
FAILURES = 3  # that lead to a ban while a test needs it soon


@pytest.fixture
def ours(victims: dict[str, Victim]) -> Victim:
    """Our server."""
    return victims["ours"]


@pytest.fixture
def bans(ours: Victim, origins: dict[str, Origin]) -> Iterator[Callable[..., str]]:
    """A function that runs portcullis-bans with the words given to it; in the end nobody is banned."""

    def run(*words: str) -> str:
        return ours.host.check_output(" ".join([PROGRAM, *words]))

    yield run
    for origin in origins.values():
        ours.host.run(f"{PROGRAM} lift {origin.address}")


@pytest.fixture
def hasty(ours: Victim, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """fail2ban bans after a few failures, and nobody guesses more often."""
    monkeypatch.setattr(passwords, "GUESSES", FAILURES)
    failures = "fail2ban-client set portcullis-xmpp maxretry {}"
    ours.host.check_output(failures.format(FAILURES))
    yield
    ours.host.check_output(failures.format(ours.target.variables["bans_login_failures"]))


def ban_of(origin: Origin, bans: Callable[..., str]) -> str:
    """What the operator is shown of a ban, as soon as there is one."""
    deadline = time.monotonic() + PATIENCE
    while (listing := line_about(origin.address, bans("list"))) is None:
        assert time.monotonic() < deadline, f"{origin.name} is not banned"
        time.sleep(0.2)
    return listing


def open_to(origin: Origin, victim: Victim) -> list[int]:
    """The ports at which the server takes connections from there."""
    answers = origin.call(ports, "answering", victim.address, EVERYTHING, WAIT)
    return sorted(int(port) for port, answer in answers.items() if answer == "open")


@pytest.mark.control("FLOOD-23")
def test_who_guesses_is_refused_everywhere_and_nobody_else_is(ours, origins, bans, evidence):
    mallory, trudy, office = origins.values()
    with ours.log_in("alice", ours.office) as alice:
        times = ours.target.variables["bans_login_failures"] + 10
        answers = mallory.call(crowd, "guess", ours.address, xmpp.C2S_DIRECT, f"nobody@{ours.domain}", times)
        listing = ban_of(mallory, bans)
        evidence(f"{len(answers)} guesses -> {listing}")
        assert open_to(mallory, ours) == [SSH]
        assert open_to(trudy, ours) == EVERYTHING
        assert open_to(office, ours) == EVERYTHING
        alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=ours.domain)
    with ours.log_in("bob", ours.office):
        evidence(f"{mallory.address} reaches SSH alone; two other addresses reach everything, and log in")
    evidence(bans("lift", mallory.address))
    assert open_to(mallory, ours) == EVERYTHING


def lying(way: Callable[[Victim, dict[str, str]], str]) -> Callable[[Victim], str]:
    """A way in over HTTP, and the guesser says that it is the office."""

    def guess(victim: Victim) -> str:
        liar = victim.clients.address
        return way(victim, {"X-Forwarded-For": liar, "X-Real-IP": liar, "Forwarded": f"for={liar}"})

    return guess


WAYS = {
    "SASL": passwords.guesses_sasl,
    "SASL2": passwords.guesses_sasl2,
    "FAST": passwords.guesses_fast,
    "BOSH": passwords.guesses_bosh,
    "BOSH, as from the office": lying(passwords.guesses_bosh),
    "WebSocket": passwords.guesses_websocket,
    "WebSocket, as from the office": lying(passwords.guesses_websocket),
    "account page": passwords.guesses_page,
    "account page, as from the office": lying(passwords.guesses_page),
}
FROM_MALLORY = {"SASL", "SASL2", "BOSH", "BOSH, as from the office"}


@pytest.mark.control("FLOOD-23")
@pytest.mark.control("WEB-08")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_leads_to_a_ban(ours, origins, bans, hasty, evidence, way):
    attacker = origins["mallory" if way in FROM_MALLORY else "trudy"]
    with contextlib.suppress(Succeeded, Refused, Refusal, OSError):  # the ban may come in between
        WAYS[way](ours)
    listing = ban_of(attacker, bans)
    evidence(f"{way} -> {listing}")
    assert open_to(attacker, ours) == [SSH]
    assert line_about(ours.clients.address, bans("list")) is None


@pytest.mark.control("FLOOD-23")
def test_a_ban_ends_by_itself(ours, origins, bans, evidence):
    trudy = origins["trudy"]
    bans("add", "--for", "8", trudy.address)
    assert open_to(trudy, ours) == [SSH]
    deadline = time.monotonic() + PATIENCE
    while open_to(trudy, ours) != EVERYTHING:
        assert time.monotonic() < deadline, "a ban of 8 seconds does not end"
    evidence("banned for 8 seconds: refused, and let in again")


@pytest.fixture
def blind(ours: Victim) -> Iterator[None]:
    """fail2ban goes on, its jail does not: so it was seen when the kernel had no inotify instances left."""
    ours.host.check_output("systemctl start portcullis-bans-check")
    ours.host.check_output("fail2ban-client set portcullis-xmpp idle on")
    yield
    ours.host.check_output("fail2ban-client set portcullis-xmpp idle off; systemctl start portcullis-bans-check")


@pytest.mark.control("FLOOD-26")
def test_a_jail_that_reads_nothing_is_noticed_and_started_anew(ours, origins, bans, blind, evidence):
    mallory = origins["mallory"]
    times = ours.target.variables["bans_login_failures"] + 10
    guesses = mallory.call(crowd, "guess", ours.address, xmpp.C2S_DIRECT, f"nobody@{ours.domain}", times)
    deadline = time.monotonic() + PATIENCE
    while (look := ours.host.run(f"{PROGRAM} check")).rc == 0:
        assert time.monotonic() < deadline, f"{len(guesses)} guesses are not read, and nobody is told"
        time.sleep(1)
    assert line_about(mallory.address, bans("list")) is None
    assert ours.host.run("systemctl start portcullis-bans-check").rc, "the unit does not fail"
    assert ours.host.check_output("systemctl is-failed portcullis-bans-check") == "failed"
    evidence(f"{look.stderr.strip()}; started anew -> {ban_of(mallory, bans)}")


DATABASE = "/var/lib/fail2ban/fail2ban.sqlite3"
STOP_ALL = "fail2ban-client status | sed -n 's/.*Jail list:[[:space:]]*//p' | tr -d , | xargs -n1 fail2ban-client stop"
BROKEN = {
    "it does not run": ("systemctl stop fail2ban", "fail2ban-client status"),
    "it has no jail": (STOP_ALL, "fail2ban has no jail"),
    "it notes nothing": (f"mv {DATABASE} {DATABASE}.kept", "fail2ban's database"),
}


@pytest.mark.control("FLOOD-26")
@pytest.mark.parametrize("trouble", BROKEN)
def test_a_fail2ban_that_cannot_ban_is_noticed(ours, evidence, trouble):
    damage, words = BROKEN[trouble]
    try:
        ours.host.check_output(damage)
        look = ours.host.run(f"{PROGRAM} check")
    finally:
        ours.host.check_output(f"[ ! -e {DATABASE}.kept ] || mv {DATABASE}.kept {DATABASE}")
        ours.host.check_output("systemctl restart fail2ban")
        deadline = time.monotonic() + PATIENCE
        while ours.host.run(f"{PROGRAM} check").rc:  # its jails come one after another
            assert time.monotonic() < deadline, "fail2ban does not recover"
            time.sleep(1)
        ours.host.check_output("systemctl start portcullis-bans-check")
    assert (look.rc, words in look.stderr) == (1, True), look
    evidence(look.stderr.strip())
