"""A server that dies under load: what it had acknowledged is not lost."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from verification.probes.inside import query
from verification.probes.tls import Refused
from verification.probes.xmpp import Client, StreamEnded

pytestmark = pytest.mark.alone

SM = "urn:xmpp:sm:3"
MESSAGES = 3000  # more than are handled before the server dies
AT_ONCE = 20
KILL = "kill -KILL $(systemctl show prosody --property=MainPID --value)"


@contextmanager
def dying(host, seconds: float) -> Iterator[None]:
    """Kill Prosody so long from now, and wait until systemd has brought it back."""
    restarts = restarts_of(host)
    killer = threading.Timer(seconds, host.check_output, [KILL])
    killer.start()
    try:
        yield
    finally:
        killer.join()
        deadline = time.monotonic() + 30
        while restarts_of(host) == restarts or not host.socket("tcp://5222").is_listening:
            assert time.monotonic() < deadline, "Prosody does not come back"
            time.sleep(0.2)


def restarts_of(host) -> str:
    """How often systemd has brought Prosody back."""
    return host.check_output("systemctl show prosody --property=NRestarts --value")


def flood(client: Client, to: str, marker: str) -> int:
    """Write numbered messages, ask after each whether it was handled, and return how many were when the server died."""
    client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=client.bare.rpartition("@")[2])
    client.send(f"<enable xmlns='{SM}'/>")
    client.wait("enabled")
    handled = 0
    try:
        for first in range(1, MESSAGES, AT_ONCE):
            client.send(
                "".join(
                    f"<message type='chat' to='{to}'><body>{marker} {number:05}.</body></message><r xmlns='{SM}'/>"
                    for number in range(first, first + AT_ONCE)
                )
            )
            for _ in range(AT_ONCE):
                handled = int(client.wait("a").get("h", "0"))
    except (OSError, Refused, StreamEnded):
        return handled
    pytest.fail(f"the server lived through {MESSAGES} messages")


@pytest.mark.control("CHAT-15")
@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.7])
def test_what_was_acknowledged_survives_a_kill(seconds, host, login, marker, evidence) -> None:
    alice, bob = login(0), login(1)
    bob.send("<presence/>")
    bob.wait("presence", from_=bob.jid)
    with dying(host, seconds):
        handled = flood(alice, bob.bare, marker)
    archived = query(host, f"select value from prosodyarchive where instr(value, '{marker}')")
    kept = Counter(int(re.findall(rf"{marker} (\d+)", value)[0]) for (value,) in archived)
    lost = [number for number in range(1, handled + 1) if kept[number] != 2]
    assert not lost, f"of {handled} acknowledged messages these are not in both archives: {lost}"
    assert handled > 20, "the server died before there was any load"
    evidence(f"killed after {seconds} s: all {handled} acknowledged messages are in both archives")
