"""Seeded faults: the right controls go red, only those, and green again when each fault is taken back.

At first nothing is broken on the three servers, and every control that any fault concerns is green. Then every fault is
in place, and the complete catalogue is tried: whatever else turned red would be a false alarm, whatever stayed green
hides a fault. So much is the short form. Then come rounds in which every control that any fault concerns is tried on
all three servers, while each fault is in place in rounds of its own choice (CHOICES): what is red in exactly those is
red because of this fault. A verification for each fault would say the same, in six times as many runs.
"""

from __future__ import annotations

import functools
import itertools
import os
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
import yaml
from conftest import ELSEWHERE, INVENTORY, LAB, NOT_SHOWN_HERE, Report, report

from cli.test import SHORT
from verification import targets
from verification.probes import xmpp
from verification.probes.tls import Refused
from verification.probes.xmpp import StreamEnded

REPLACE = """
import pathlib, sys
path, old, new = sys.argv[1:]
text = pathlib.Path(path).read_text()
if text.count(old) != 1:
    sys.exit(f"{path}: {text.count(old)} times {old!r}")
pathlib.Path(path).write_text(text.replace(old, new))
"""


@dataclass(frozen=True)
class Fault:
    """One fault, as faults.yml has it."""

    name: str
    host: str
    red: list[str]
    file: str = ""
    is_: str = ""
    becomes: str = ""
    run: str = ""
    undo: str = ""
    then: str = ""

    def command(self, broken: bool) -> str:
        """What breaks it, or puts it back; `then` is not done."""
        if not self.file:
            return self.run if broken else self.undo
        instead = self.becomes or f"# {self.name}"  # what can be found again
        old, new = (self.is_, instead) if broken else (instead, self.is_)
        return shlex.join(["python3", "-c", REPLACE, self.file, old, new])


@functools.cache
def machine(name: str) -> testinfra.host.Host:
    """The inside of a server, as root."""
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}", sudo=True)


def wait_for_prosody(name: str, patience: float = 60) -> None:
    """Wait until a server that was perhaps restarted speaks again: systemd calls it started before it listens."""
    target = targets.load(str(INVENTORY), name)
    deadline = time.monotonic() + patience
    while True:
        try:
            target.channel(xmpp.C2S).close()
            return
        except (OSError, StreamEnded, Refused):
            assert time.monotonic() < deadline, f"{name}: no stream {patience:.0f} seconds after the change"
            time.sleep(0.2)


def faults() -> list[Fault]:
    """The list."""
    entries = yaml.safe_load(Path(__file__).with_name("faults.yml").read_text(encoding="utf-8"))
    return [Fault(is_=entry.pop("is", ""), **entry) for entry in entries]


FAULTS = faults()
DRIFT = "CONF-10"  # red as long as any fault is in place, and dear: tried with all of them and with none
HOSTS = list(dict.fromkeys(fault.host for fault in FAULTS))
ROUNDS = 5
CHOICES = [choice for size in (2, 3) for choice in itertools.combinations(range(ROUNDS), size)]
# What is red because of an option, and truly so: providers.xmpp.net wants room for larger files.
TRUE = {"tuned": {"CHAT-14"}}
CONCERNED = {control for fault in FAULTS for control in fault.red}


def in_place(number: int) -> list[Fault]:
    """The faults of a round."""
    return [fault for fault in FAULTS if number in CHOICES[position(fault)]]


def position(fault: Fault) -> int:
    """Its number among the faults of its host."""
    return [other for other in FAULTS if other.host == fault.host].index(fault)


def expected(broken: list[Fault], host: str) -> set[str]:
    """The controls that are red with these faults in place, but for drift."""
    return TRUE.get(host, set()) | {control for fault in broken if fault.host == host for control in fault.red}


class Servers:
    """Our servers, and what is broken on them."""

    def __init__(self) -> None:
        self.broken: list[Fault] = []

    def break_(self, wanted: list[Fault]) -> None:
        """Have these faults in place and no others, on every host at once."""
        back = [fault for fault in self.broken if fault not in wanted]
        new = [fault for fault in wanted if fault not in self.broken]

        def change(host: str) -> None:
            changed = [(fault, fault in new) for fault in back + new if fault.host == host]
            commands = [fault.command(broken) for fault, broken in changed]
            commands += dict.fromkeys(fault.then for fault, _ in changed if fault.then)
            machine(host).check_output("sh -ec %s", "\n".join(commands))
            wait_for_prosody(host)

        with ThreadPoolExecutor() as pool:
            list(pool.map(change, {fault.host for fault in back + new}))
        self.broken = wanted


def judge(name: str, only: set[str] = frozenset()) -> Report:
    """The report about our servers."""
    narrowed = ["--only", ",".join(sorted(only))] if only else []
    return report(name, "-i", INVENTORY, "--accounts", LAB / "accounts.yml", *narrowed)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Our servers; in the end nothing is broken."""
    servers = Servers()
    yield servers
    servers.break_([])


@pytest.fixture(scope="module")
def nothing(servers: Servers) -> Report:
    """The report with no fault in place."""
    servers.break_([])
    return judge("nothing-broken", CONCERNED | {DRIFT})


@pytest.fixture(scope="module")
def everything(servers: Servers) -> Report:
    """The report with every fault in place."""
    servers.break_(FAULTS)
    return judge("everything-broken")


@pytest.fixture(scope="module")
def rounds(servers: Servers) -> list[Report]:
    """The report of each round."""

    def play(number: int) -> Report:
        servers.break_(in_place(number))
        return judge(f"round-{number + 1}", CONCERNED)

    return [play(number) for number in range(ROUNDS)]


@pytest.mark.parametrize("host", HOSTS)
def test_while_nothing_is_broken_nothing_is_red(nothing: Report, host: str) -> None:
    red = nothing.having("failed", host)
    assert red == expected([], host), nothing.words(host, red)
    not_proven = (expected(FAULTS, host) | {DRIFT}) - expected([], host) - nothing.having("proven", host)
    assert not not_proven, nothing.words(host, not_proven)


@pytest.mark.parametrize("host", HOSTS)
def test_the_right_controls_go_red_and_no_others(everything: Report, host: str) -> None:
    red, wanted = everything.having("failed", host), expected(FAULTS, host) | {DRIFT}
    assert red == wanted, (
        f"wrongly red {red - wanted}, wrongly green {wanted - red}{everything.words(host, red ^ wanted)}"
    )
    assert everything.exit_status == 1


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_not_broken_is_proven(everything: Report, host: str) -> None:
    held_back = {
        control
        for control in everything.having("not_shown", host) - NOT_SHOWN_HERE
        if not everything.evidence[host, control][0].startswith(ELSEWHERE)
    }
    assert not held_back, everything.words(host, held_back)


@pytest.mark.skipif(SHORT in os.environ, reason="the short form: all faults together, and none")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_turns_its_own_controls_red(rounds: list[Report], fault: Fault) -> None:
    for number, found in enumerate(rounds):
        others = expected([other for other in in_place(number) if other != fault], fault.host)
        own = set(fault.red) - others
        red = found.having("failed", fault.host) - others
        assert red == (own if fault in in_place(number) else set()), found.words(fault.host, red ^ own)
        assert own - red <= found.having("proven", fault.host), found.words(fault.host, own)


def test_the_list_is_long_enough() -> None:
    assert len(FAULTS) >= 25
    assert all(position(fault) < len(CHOICES) for fault in FAULTS)
    assert {Path(fault.file).is_absolute() for fault in FAULTS if fault.file} == {True}
