"""Seeded faults: the right controls go red, only those, and green again when each fault is taken back.

Every fault is in place at first, on three servers, and the complete catalogue is tried. Then they are taken back one
after another; each time its own controls turn green while those of the faults that remain stay red. So no fault hides
behind another, and none is red for another's reason.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
import yaml
from conftest import LAB, NOT_SHOWN_HERE, STAGE, Report, report

INVENTORY = STAGE / "inventory/hosts.yml"
REPLACE = """
import pathlib, sys
path, old, new = sys.argv[1:]
text = pathlib.Path(path).read_text()
if text.count(old) != 1:
    sys.exit(f"{path}: {text.count(old)} times {old!r}")
pathlib.Path(path).write_text(text.replace(old, new))
"""


@dataclass(frozen=True)
class Seed:
    """One fault, as seeds.yml has it."""

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


def seeds() -> list[Seed]:
    """The list."""
    entries = yaml.safe_load(Path(__file__).with_name("seeds.yml").read_text(encoding="utf-8"))
    return [Seed(is_=entry.pop("is", ""), **entry) for entry in entries]


SEEDS = seeds()
DRIFT = "CONF-10"  # red as long as any fault is in place, and dear: tried with all of them and with none
HOSTS = list(dict.fromkeys(seed.host for seed in SEEDS))


def change(seeds: list[Seed], broken: bool) -> None:
    """Break these things, or put them back, and make that effective, on every host at once."""

    def change_on(host: str) -> None:
        here = [seed for seed in seeds if seed.host == host]
        commands = [seed.command(broken) for seed in here] + [*dict.fromkeys(seed.then for seed in here if seed.then)]
        machine(host).check_output("sh -ec %s", "\n".join(commands))

    with ThreadPoolExecutor() as pool:
        list(pool.map(change_on, {seed.host for seed in seeds}))


def judge(name: str, only: set[str] | None = None) -> Report:
    """The report about our servers."""
    narrowed = ["--only", ",".join(sorted(only))] if only else []
    return report(name, "-i", INVENTORY, "--accounts", LAB / "accounts.yml", *narrowed)


def expected(broken: list[Seed], host: str) -> set[str]:
    """The controls that are red with these faults in place, but for drift."""
    return {control for seed in broken if seed.host == host for control in seed.red}


@pytest.fixture(scope="module")
def everything_broken() -> Iterator[tuple[Report, dict[str, Report]]]:
    """The report with every fault in place, and by the name of each fault the one after it was taken back."""
    change(SEEDS, broken=True)
    broken = [*SEEDS]
    try:
        first = judge("seeds")
        after: dict[str, Report] = {}
        while broken:
            tried = {control for seed in broken for control in seed.red}
            back = [next(seed for seed in broken if seed.host == host) for host in {seed.host for seed in broken}]
            change(back, broken=False)
            broken = [seed for seed in broken if seed not in back]
            tried |= set() if broken else {DRIFT}
            after |= dict.fromkeys((seed.name for seed in back), judge("seeds-taken-back", tried))
        yield first, after
    finally:
        if broken:
            change(broken, broken=False)


@pytest.mark.parametrize("host", HOSTS)
def test_the_right_controls_go_red_and_no_others(everything_broken, host: str) -> None:
    first, _ = everything_broken
    red, wanted = first.having("failed", host), expected(SEEDS, host) | {DRIFT}
    assert red == wanted, f"wrongly red {red - wanted}, wrongly green {wanted - red}{first.words(host, red - wanted)}"
    assert first.exit_status == 1


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_not_broken_is_proven(everything_broken, host: str) -> None:
    first, _ = everything_broken
    held_back = first.having("not_shown", host) - NOT_SHOWN_HERE
    assert not held_back, first.words(host, held_back)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_a_fault_alone_turns_its_controls_red(everything_broken, seed: Seed) -> None:
    _, after = everything_broken
    position = [other.name for other in SEEDS if other.host == seed.host].index(seed.name)
    remaining = [other for other in SEEDS if other.host == seed.host][position + 1 :]
    found = after[seed.name]
    tried = {control for name, control in found.verdicts if name == seed.host}
    red = found.having("failed", seed.host)
    assert set(seed.red) <= tried
    assert red == expected(remaining, seed.host), found.words(seed.host, red ^ expected(remaining, seed.host))
    assert set(seed.red) - red <= found.having("proven", seed.host), found.words(seed.host, set(seed.red))


def test_the_list_is_long_enough() -> None:
    assert len(SEEDS) >= 25
    assert {Path(seed.file).is_absolute() for seed in SEEDS if seed.file} == {True}
