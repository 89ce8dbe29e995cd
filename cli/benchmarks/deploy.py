"""A deployment beside bare apt and the smallest role of others

The first run of the whole kit on a fresh host, beside `apt-get install` of the packages that it installs, on another.
Then runs that find nothing to do, in turn with those of the smallest peer (inventories/bench/deploy/peer.yml).
"""

from __future__ import annotations

import time
from typing import Any

from cli import deploy
from cli.benchmarks import Figure, paired
from cli.benchmarks.plays import Played, play, play_again
from cli.common import ROOT, progress, timed_line
from cli.lab import play as lab
from cli.lab import quiet, read_yaml

NEEDS = ["containers"]
INVENTORY = ROOT / "inventories" / "bench" / "deploy" / "hosts.yml"
PEER = INVENTORY.parent / "peer.yml"
FRESH_ROUNDS = 2
ROUNDS = 7
SHOWN = 0.02  # seconds; shorter tasks are shown as one


def measure() -> list[Figure]:
    """Boot, deploy, deploy again, remove. Raises Failed."""
    ours: list[Played] = []
    apt: list[float] = []
    again: list[Played] = []
    peer: list[float] = []
    try:
        for number in range(1, FRESH_ROUNDS + 1):
            lab("destroy", INVENTORY)
            with timed_line(f"Boot two fresh Debian servers ({number} of {FRESH_ROUNDS})"):
                lab("create", INVENTORY)
            given = chosen("bare")
            with timed_line("Deploy the whole kit onto one"):
                ours.append(play(INVENTORY, deploy.PLAYBOOK))
            with timed_line("Install the same packages on the other, by bare apt-get"):
                apt.append(installed(sorted(chosen("kit") - given)))
        with timed_line("Deploy the smallest peer there"):
            play(INVENTORY, PEER)
        with timed_line(f"Deploy both again, {ROUNDS} times in turn"):
            for number in range(ROUNDS + 1):
                kit, other = play_again(INVENTORY, deploy.PLAYBOOK), play_again(INVENTORY, PEER)
                if number > 0:  # the first round warms the caches up
                    again.append(kit)
                    peer.append(other.seconds)
                progress(f"  {number} of {ROUNDS} rounds")
    finally:
        lab("destroy", INVENTORY)
    first, second = [run.seconds for run in ours], [run.seconds for run in again]
    return [
        Figure(
            key="deploy.first_run_over_apt",
            label="The first run on a fresh host",
            unit="s",
            sides={"apt": apt, "ours": first},
            ratio=paired(first, apt),
            target=1.5,
            note="apt: `apt-get update` and `apt-get install` of the same packages, and nothing configured.",
        ),
        Figure(
            key="deploy.second_run_over_smallest_peer",
            label="A run that finds nothing to do",
            unit="s",
            sides={"smallest peer": peer, "ours": second},
            ratio=paired(second, peer),
            target=1.5,
            note="The peer has five tasks and one service; the kit checks every file and service of eight roles.",
        ),
        Figure(
            key="deploy.second_run_by_task",
            label="Where the time of such a run goes",
            unit="s",
            sides=by_task(again),
        ),
    ]


def chosen(host: str) -> set[str]:
    """The packages that somebody has asked for on a host; what they depend on comes by itself."""
    return set(on(host, "apt-mark", "showmanual").split())


def installed(packages: list[str]) -> float:
    """Install packages on the bare host. Returns the seconds it took."""
    began = time.perf_counter()
    on("bare", "apt-get", "--quiet", "update")
    options = ["--quiet", "--yes", "--no-install-recommends"]
    on("bare", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, "install", *packages)
    return time.perf_counter() - began


def on(host: str, *command: str) -> str:
    """Run a command as root on a host and return its output. Raises Failed."""
    container = read_yaml(INVENTORY.parent / "host_vars" / f"{host}.yml")["lab_container"]
    return quiet(["podman", "exec", container, *command]).stdout


def by_task(runs: list[Played]) -> dict[str, list[float]]:
    """The seconds of each task in each run, in order; those of no account together, and what is not in any task."""
    columns: list[list[dict[str, Any]]] = [list(column) for column in zip(*(run.tasks for run in runs), strict=True)]
    sides: dict[str, list[float]] = {}
    rest = [0.0] * len(runs)
    for column in columns:
        seconds = [task["seconds"] for task in column]
        if max(seconds) < SHOWN:
            rest = [sum(pair) for pair in zip(rest, seconds)]
        else:
            name = f"{column[0]['role']}: {column[0]['name']}"
            sides[name] = [sum(pair) for pair in zip(sides.get(name, [0.0] * len(runs)), seconds)]
    sides["shorter tasks"] = rest
    sides["before and after the tasks"] = [run.seconds - sum(task["seconds"] for task in run.tasks) for run in runs]
    return sides
