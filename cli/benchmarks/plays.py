"""A play and how long it took: what the parts that measure deployments share."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.common import tool
from cli.lab import Failed, quiet


@dataclass(frozen=True)
class Played:
    """A finished play.

    Attributes:
        seconds: from the start of ansible-playbook to its end.
        changed: tasks that changed something, over all hosts.
        tasks: each task's role, name and seconds, in their order.
    """

    seconds: float
    changed: int
    tasks: list[dict[str, Any]]


def play(inventory: Path, playbook: Path, *arguments: str) -> Played:
    """Run a playbook to its end. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:
        told = Path(directory) / "outcome.json"
        began = time.perf_counter()
        quiet(
            [tool("ansible-playbook"), "-i", str(inventory), str(playbook), *arguments],
            ANSIBLE_STDOUT_CALLBACK="portcullis",
            PORTCULLIS_OUTCOME=str(told),
        )
        seconds = time.perf_counter() - began
        outcome = json.loads(told.read_text(encoding="utf-8"))
    return Played(seconds, outcome["changed"], outcome["tasks"])


def play_again(inventory: Path, playbook: Path, *arguments: str) -> Played:
    """Run a playbook that has nothing left to do. Raises Failed, also where it does something."""
    played = play(inventory, playbook, *arguments)
    if played.changed:
        raise Failed(f"{playbook.name} has changed something again, on hosts that were as it wants them.")
    return played
