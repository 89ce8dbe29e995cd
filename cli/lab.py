"""A throw-away server on this machine: what the commands that boot one share."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cli.common import ROOT, environment, tool


class Failed(Exception):
    """A part of the work went wrong; the text is what it said."""


def play(name: str, inventory: Path) -> None:
    """Run a playbook of molecule/shared quietly. Raises Failed with what it said."""
    quiet([tool("ansible-playbook"), "-i", str(inventory), str(ROOT / "molecule" / "shared" / f"{name}.yml")])


def quiet(command: list[str], accepted: tuple[int, ...] = (0,), **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of the kit without a word, unless it fails. Raises Failed with what it said.

    `changes` are variables of its environment.
    """
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode not in accepted:
        raise Failed(result.stdout)
    return result


def read_yaml(path: Path) -> Any:
    """What a YAML file of the lab says."""
    import yaml  # noqa: PLC0415 - see __init__.py

    return yaml.safe_load(path.read_text(encoding="utf-8"))
