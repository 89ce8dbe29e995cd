"""How a deployment grows with the number of hosts

Runs that find nothing to do, on 1, 2, 4 and 8 servers of this one machine, in turn: their processors are the control
node's as well, so the growth is the worst there is. The memory is measured in runs of their own, which take longer.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path

from cli import deploy
from cli.benchmarks import Figure, paired
from cli.benchmarks.plays import play, play_again
from cli.common import ROOT, progress, timed_line
from cli.lab import play as lab

NEEDS = ["containers"]
INVENTORY = ROOT / "inventories" / "bench" / "fleet" / "hosts.yml"
SIZES = (1, 2, 4, 8)
ROUNDS = 4
WATCH_EVERY = 0.2  # seconds


def measure() -> list[Figure]:
    """Boot, deploy, deploy again, remove. Raises Failed."""
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    memory: dict[str, list[float]] = {}
    try:
        lab("destroy", INVENTORY)
        with timed_line(f"Boot {SIZES[-1]} Debian servers"):
            lab("create", INVENTORY)
        with timed_line("Deploy the whole kit onto all of them, in one play"):
            play(INVENTORY, deploy.PLAYBOOK, "--forks", str(SIZES[-1]))
        with timed_line(f"Deploy again onto {', '.join(map(str, SIZES))} of them, {ROUNDS} times in turn"):
            for number in range(ROUNDS + 1):
                for size in SIZES:
                    run = play_again(INVENTORY, deploy.PLAYBOOK, "--limit", limit(size))
                    if number > 0:  # the first round warms the caches up
                        seconds[size].append(run.seconds)
                progress(f"  {number} of {ROUNDS} rounds")
        with timed_line("Once more each, and watch the memory of the control node"):
            for size in SIZES:
                with watched() as peak:
                    play_again(INVENTORY, deploy.PLAYBOOK, "--limit", limit(size))
                memory[hosts(size)] = [max(peak)]
    finally:
        lab("destroy", INVENTORY)
    one, *_, most = SIZES
    slope = (statistics.median(seconds[most]) - statistics.median(seconds[one])) / (most - one)
    return [
        Figure(
            key="fleet.eight_over_one",
            label="A run that finds nothing to do",
            unit="s",
            sides={hosts(size): values for size, values in seconds.items()},
            ratio=paired(seconds[most], seconds[one]),
            target=3.0,
            note=f"Each further host takes {slope:.2f} s of this machine, which also is the hosts.",
        ),
        Figure(
            key="fleet.memory",
            label="Memory of the control node at its peak, Ansible and its forks",
            unit="MB",
            sides=memory,
            note="Pages that the forks share are counted once.",
        ),
    ]


def hosts(size: int) -> str:
    """Such as "8 hosts"."""
    return "1 host" if size == 1 else f"{size} hosts"


def limit(size: int) -> str:
    """The first so many hosts, as a pattern."""
    return f"xmpp[0:{size - 1}]"


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Collect, while the block runs, the megabytes of all processes that descend from this one."""
    seen, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_EVERY):
            seen.append(sum(map(proportional, descendants())) / 1e3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def descendants() -> list[Path]:
    """The directories in /proc of the processes that this one has started, and of those that they have."""
    children: dict[str, list[Path]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(parent, []).append(process)
    found = children.get(str(os.getpid()), []).copy()
    for process in found:
        found += children.get(process.name, [])
    return found


def proportional(process: Path) -> int:
    """Kilobytes of a process: its own pages, and its share of those that others have as well."""
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
