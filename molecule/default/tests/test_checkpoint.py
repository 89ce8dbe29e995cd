"""What is archived goes from SQLite's log into the database in a process of its own; Prosody does not stop for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.alone  # so that nobody else writes meanwhile

SERVICE = "prosody-checkpoint"
MESSAGES = 150
SQLITES = 1000  # pages that SQLite by itself lets wait
FEW = 250  # that the service does
PATIENCE = 10  # seconds
WAITING = """\
import struct
index = open("/var/lib/prosody/prosody.sqlite-shm", "rb").read(100)
last, done = (struct.unpack_from("=I", index, offset)[0] for offset in (16, 96))
print(max(0, last - done))
"""


@pytest.fixture
def without_the_service(host) -> Iterator[None]:
    """It is stopped; in the end it runs again."""
    with host.sudo():
        host.check_output("systemctl stop %s", SERVICE)
        yield
        host.check_output("systemctl start %s", SERVICE)


def waiting(host) -> int:
    """How many pages of the log are not in the database yet (https://www.sqlite.org/walformat.html section 2.1)."""
    with host.sudo():
        return int(host.check_output("python3 -c %s", WAITING))


def waiting_at_last(host) -> int:
    """The same, when they have become few or for long enough have not."""
    deadline = time.monotonic() + PATIENCE
    while (pages := waiting(host)) >= FEW and time.monotonic() < deadline:
        time.sleep(0.2)
    return pages


def write(login) -> None:
    """Have so many messages archived, each for two accounts."""
    alice, bob = login(0), login(1)
    for number in range(MESSAGES):
        alice.send(f"<message type='chat' to='{bob.bare}'><body>{number}</body></message>")
    alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=alice.bare.rpartition("@")[2], timeout=60)


@pytest.mark.control("FLOOD-21")
def test_the_log_goes_into_the_database_in_time(host, login, evidence):
    write(login)
    pages = waiting_at_last(host)
    evidence(f"{MESSAGES} archived messages: {pages} pages wait in the log")
    assert pages < FEW


@pytest.mark.control("FLOOD-21")
def test_prosody_itself_does_not_stop_for_it(host, login, without_the_service, evidence):
    write(login)
    pages = waiting(host)
    evidence(f"{MESSAGES} archived messages without the service: {pages} pages wait, and Prosody waited for no disk")
    assert pages > SQLITES
