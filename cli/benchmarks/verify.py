"""How long a verification takes

Five servers of this one machine are verified from inside and outside as those of a production are: one of them, then
all of them in one run, in turn. Their processors are the control node's as well, so the growth is the worst there is.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cli import deploy, verify
from cli.benchmarks import Figure, paired
from cli.common import ROOT, progress, timed_line, tool
from cli.lab import play as lab
from cli.lab import quiet

NEEDS = ["containers"]
INVENTORY = ROOT / "inventories" / "bench" / "verify" / "hosts.yml"
ACCOUNTS = ROOT / ".cache" / "lab" / "bench-verify" / "accounts.yml"
HOSTS = 5
ROUNDS = 2
LONGEST = 60.0  # seconds, for one host


@dataclass
class Verified:
    """A verification that found nothing wrong.

    Attributes:
        seconds: from its first test to its last.
        connections: how many bare TLS connections to each port, one after another, take as long.
    """

    seconds: float
    connections: float


def measure() -> list[Figure]:
    """Boot, deploy, verify, remove. Raises Failed."""
    one: list[Verified] = []
    five: list[Verified] = []
    try:
        lab("destroy", INVENTORY)
        with timed_line(f"Boot {HOSTS} Debian servers"):
            lab("create", INVENTORY)
        with timed_line("Deploy the whole kit onto all of them"):
            quiet([tool("ansible-playbook"), "-i", str(INVENTORY), str(deploy.PLAYBOOK)])
            lab("accounts", INVENTORY)
        with timed_line(f"Verify one, and all {HOSTS}, {ROUNDS} times in turn"):
            for number in range(ROUNDS):
                one.append(verified("server1"))
                five.append(verified(verify.EVERY_HOST))
                progress(f"  {number + 1} of {ROUNDS} rounds")
    finally:
        lab("destroy", INVENTORY)
    seconds = {"ours": [run.seconds for run in one], f"{HOSTS} hosts": [run.seconds for run in five]}
    return [
        Figure(
            key="verify.five_over_one",
            label="A verification from inside and outside",
            unit="s",
            sides=seconds,
            ratio=paired(*reversed(seconds.values())),
            target=2.0,
        ),
        Figure(
            key="verify.five_over_two_minutes",
            label=f"A verification of {HOSTS} hosts",
            unit="s",
            sides={"two minutes": [2 * LONGEST] * ROUNDS, "ours": seconds[f"{HOSTS} hosts"]},
            ratio=paired(seconds[f"{HOSTS} hosts"], [2 * LONGEST] * ROUNDS),
            target=1.0,
        ),
        Figure(
            key="verify.one_over_minute",
            label="A verification of one host",
            unit="s",
            sides={"minute": [LONGEST] * ROUNDS, "ours": seconds["ours"]},
            ratio=paired(seconds["ours"], [LONGEST] * ROUNDS),
            target=1.0,
            note=f"As long as {one[-1].connections:.0f} bare connections to each port, one after another.",
        ),
    ]


def verified(hosts: str) -> Verified:
    """Verify these hosts. Raises Failed when something is wrong with them."""
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:
        quiet(verify.command(str(INVENTORY), Path(directory), accounts=ACCOUNTS, limit=hosts))
        report = json.loads((Path(directory) / "verify.json").read_text(encoding="utf-8"))
    return Verified(report["seconds"], report["times_bare_connections"])
