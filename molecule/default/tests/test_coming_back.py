"""Whatever ends the server under load, people's clients come back by themselves, and what was acknowledged is there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from people import Crowd

from verification.probes.client import Login
from verification.probes.inside import query
from verification.probes.prosody_console import Prosody
from verification.probes.xmpp import C2S
from verification.targets import Target

pytestmark = pytest.mark.alone

SM = "urn:xmpp:sm:3"
TALKERS, LISTENERS = 4, 2
MEBIBYTE = 1 << 20
ROOM = 64 * MEBIBYTE  # left to Prosody before the kernel ends it
EATS = "local hoard = {} for n = 1, 1e6 do hoard[n] = string.rep('x', 1000) .. n end"  # a gigabyte
CGROUP1 = Path("/sys/fs/cgroup/memory")
TO_REMOVE = 10  # seconds, for the kernel


@pytest.fixture
def crowd(target: Target, accounts, marker) -> Iterator[Crowd]:
    """Alice's clients and Bob's, all of which are here."""
    logins = [Login(who["jid"], who["password"], *target.at(C2S), target.ca_file) for who in accounts[:2]]
    crowd = Crowd([logins[0]] * TALKERS, [logins[1]] * LISTENERS, marker)
    try:
        crowd.wait_until(lambda person: person.here, "logged in")
        yield crowd
    finally:
        crowd.leave()


def pid_of(host, unit: str) -> str:
    """The main process of a unit; "0" while it has none."""
    return host.check_output("systemctl show %s --property=MainPID --value", unit)


def killed(host, target: Target) -> str:
    """Prosody's process is gone at once."""
    host.check_output("kill -KILL %s", pid_of(host, "prosody"))
    return "killed"


def out_of_memory(host, target: Target) -> str:
    """The kernel kills Prosody over the bound of its unit, and nothing else."""
    others = {unit: pid_of(host, unit) for unit in ("nginx", "ssh", "fail2ban", "systemd-journald")}
    with bounded_memory(host, target) as kills:
        before = kills()
        with contextlib.suppress(AssertionError, RuntimeError):
            Prosody(host).run(EATS)
        ended = kills() - before
    assert ended == 1, f"the kernel has ended {ended} processes for want of memory"
    assert {unit: pid_of(host, unit) for unit in others} == others, "another service was ended"
    return "killed by the kernel over its bound of memory, and nothing beside it"


@contextlib.contextmanager
def bounded_memory(host, target: Target) -> Iterator[Callable[[], int]]:
    """Bound the memory that Prosody may take from now on; yields a function that tells how often that has ended it.

    By the unit, as everywhere, or where this machine has no cgroups of version 2 that could, by one of version 1.
    """
    pid = pid_of(host, "prosody")
    unit = Path("/sys/fs/cgroup" + host.check_output("cut -d: -f3 /proc/%s/cgroup | tail -n 1", pid))
    if host.file(str(unit / "memory.max")).exists:
        taken = int(host.check_output("cat %s", str(unit / "memory.current")))
        host.check_output("systemctl set-property --runtime prosody MemoryMax=%s", str(taken + ROOM))
        yield lambda: number_after("oom_kill ", host.check_output("cat %s", str(unit / "memory.events")))
        host.check_output(
            "systemctl set-property --runtime prosody MemoryMax=%s", target.variables["prosody_memory_max"]
        )
        return
    if not os.access(CGROUP1, os.W_OK):
        pytest.skip("not shown: nothing bounds memory on this machine")
    group = CGROUP1 / f"portcullis-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(ROOM))
        (group / "cgroup.procs").write_text(str(pid_outside(target, pid)))
        yield lambda: number_after("oom_kill ", (group / "memory.oom_control").read_text())
    finally:
        remove(group)


def remove(group: Path) -> None:
    """Remove a cgroup as soon as the kernel has put away what was killed in it."""
    deadline = time.monotonic() + TO_REMOVE
    while True:
        try:
            return group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def pid_outside(target: Target, pid: str) -> int:
    """What this machine calls a process of a container."""
    container = target.variables["lab_container"]
    inspect = ["podman", "inspect", "--format", "{{.State.Pid}}", container]
    first = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip()
    space = os.readlink(f"/proc/{first}/ns/pid")
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            inner = re.search(r"^NSpid:.*\s(\d+)$", status.read_text(), re.MULTILINE)
            if inner and inner[1] == pid and os.readlink(status.with_name("ns") / "pid") == space:
                return int(status.parent.name)
    raise LookupError(pid)


def number_after(word: str, text: str) -> int:
    """The number that follows a word."""
    return int(text.partition(word)[2].split()[0])


def rebooted(host, target: Target) -> str:
    """The whole host shuts down and boots."""
    subprocess.run(["podman", "restart", "--time", "30", target.variables["lab_container"]], check=True, timeout=60)
    return "the host rebooted"


@pytest.mark.control("FLOOD-24")
@pytest.mark.parametrize("fate", [killed, out_of_memory, rebooted], ids=lambda fate: fate.__name__.replace("_", " "))
def test_clients_come_back_and_nothing_is_lost(fate, host, target, crowd, marker, evidence) -> None:
    begun = {person: person.begun for person in crowd.everybody}
    crowd.talk()
    time.sleep(1)
    words = fate(host, target)
    ended = time.monotonic()
    crowd.wait_until(lambda person: person.here and person.begun > begun[person], "back")
    away = time.monotonic() - ended
    time.sleep(1)
    crowd.hush()
    lost = crowd.acknowledged - in_both_archives(host, marker)
    evidence(
        f"{words}: {len(begun)} clients are back {away:.0f} s later, each by itself; "
        f"all of {len(crowd.acknowledged)} acknowledged messages are in both archives"
    )
    assert not lost, f"acknowledged, and not in both archives: {sorted(lost)}"


def in_both_archives(host, marker: str) -> set[str]:
    """The messages that both accounts find in their archives."""
    rows = query(host, f"select user, value from prosodyarchive where store = 'archive' and instr(value, '{marker}')")
    kept = Counter(body for _, body in {(user, re.findall(rf"{marker} [\d-]+\.", value)[0]) for user, value in rows})
    return {body for body, archives in kept.items() if archives == 2}


@pytest.mark.control("FLOOD-24")
def test_clients_that_lose_their_connection_resume(crowd, evidence) -> None:
    crowd.talk()
    for round_ in (1, 2):
        time.sleep(1)
        crowd.lose_connections()
        crowd.wait_until(lambda person, times=round_: person.here and person.resumed == times, "resumed")
    crowd.hush()
    crowd.wait_until(lambda person: person in crowd.talkers or len(person.heard) == len(crowd.acknowledged), "told all")
    for person in crowd.listeners:
        assert set(person.heard.values()) == {1}, f"heard twice: {person.heard.most_common(1)}"
    assert all(person.begun == 1 for person in crowd.everybody)
    evidence(
        f"{len(crowd.everybody)} clients lose their connections twice under load: each resumes, "
        f"and all of {len(crowd.acknowledged)} messages are heard once"
    )


@pytest.mark.control("FLOOD-24")
def test_a_session_goes_on_that_was_cut_within_a_stanza(login, evidence) -> None:
    alice = login()
    alice.send(f"<enable xmlns='{SM}' resume='true'/>")
    token = alice.wait("enabled").get("id")
    alice.send(f"<r xmlns='{SM}'/><message to='{alice.bare}'><body>of this the other ha")
    alice.wait("a")
    alice.stream.channel.close()
    again = login(bind=False)
    again.send(f"<resume xmlns='{SM}' h='0' previd='{token}'/>")
    again.wait("resumed")
    again.send(f"<message to='{alice.bare}'><store xmlns='urn:xmpp:hints'/></message><r xmlns='{SM}'/>")
    handled = again.wait("a").get("h")
    evidence(f"cut within a stanza, resumed: what is said next is handled ({handled}), the half of a stanza is not")
    assert handled == "1"


@pytest.mark.control("FLOOD-24")
def test_a_stop_in_order_tells_what_was_handled(host, login, evidence) -> None:
    alice = login()
    alice.send(f"<enable xmlns='{SM}' resume='true'/>")
    token = alice.wait("enabled").get("id")
    alice.send(
        "".join(f"<message to='{alice.bare}' id='{n}'><store xmlns='urn:xmpp:hints'/></message>" for n in range(7))
    )
    alice.send(f"<r xmlns='{SM}'/>")
    handled = alice.wait("a").get("h")
    Prosody(host).restart()
    again = login(bind=False)
    again.send(f"<resume xmlns='{SM}' h='0' previd='{token}'/>")
    told = again.wait("failed").get("h")
    evidence(f"{handled} stanzas handled, restarted; an attempt to resume is told h={told}: none need be sent again")
    assert told == handled == "7"


@pytest.mark.control("FLOOD-24")
def test_a_stop_in_order_keeps_what_was_on_its_way(host, login, marker, evidence) -> None:
    """For a client that asks no archive; the others ask theirs."""
    alice, bob = login(0), login(1)
    bob.send(f"<enable xmlns='{SM}' resume='true'/><presence/>")
    bob.wait("presence", from_=bob.jid)
    alice.send(f"<message type='chat' to='{bob.bare}'><body>{marker}</body></message>")
    bob.wait("message", from_=alice.jid)
    Prosody(host).restart()
    again = login(1)
    again.send("<presence/>")
    kept = again.wait("message", from_=alice.jid).findtext("{jabber:client}body")
    evidence("a message that the client had not acknowledged when the server stopped is delivered after the restart")
    assert kept == marker


@pytest.mark.control("FLOOD-24")
def test_it_is_started_again_however_often_it_dies(host, evidence) -> None:
    times = 7  # systemd's own patience ends with the sixth start in ten seconds
    host.check_output(f"""
        for time in $(seq {times}); do
            looks=0
            until pid=$(systemctl show prosody --property=MainPID --value); [ $pid != 0 ]; do
                looks=$((looks + 1)); [ $looks -lt 100 ] || exit 1; sleep 0.1
            done
            kill -KILL $pid
        done
    """)
    Prosody(host).wait()
    evidence(f"killed {times} times, each time as soon as it had begun: started again each time")
