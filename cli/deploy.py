"""Deploy the servers of an inventory: playbooks/site.yml with the pinned Ansible.

Every other argument goes to ansible-playbook, such as --check --diff, --limit HOST, --ask-vault-pass, -v.
Exit status 2 means that the inventory was refused, and nothing was changed on any host.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cli.common import FAILED, GOOD, ROOT, WRONG, environment, inventory, tool

PLAYBOOK = ROOT / "playbooks" / "site.yml"


@dataclass(frozen=True)
class Outcome:
    """How a play ended. `changed` counts tasks over all hosts; `status` is an exit status of ours."""

    status: int
    changed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.usage = "portcullis deploy -i INVENTORY [ANSIBLE-PLAYBOOK ARGUMENTS ...]"
    parser.add_argument("-i", "--inventory", metavar="INVENTORY", type=inventory, action="append", required=True)


def needs(_: argparse.Namespace) -> list[str]:
    """What must be installed besides .venv."""
    return []


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    return play(PLAYBOOK, arguments.inventory, arguments.rest).status


def play(playbook: Path, inventories: list[str], extra: list[str] | None = None) -> Outcome:
    """Run a playbook with the kit's terse output (plugins/callback/portcullis.py) and tell how it ended."""
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:
        told = Path(directory) / "outcome.json"
        sources = [argument for source in inventories for argument in ("-i", source)]
        status = subprocess.run(
            [tool("ansible-playbook"), *sources, str(playbook), *(extra or [])],
            env=environment(**{"ANSIBLE_STDOUT_CALLBACK": "portcullis", "PORTCULLIS_OUTCOME": str(told)}),
            check=False,
        ).returncode
        if not told.exists():  # it never came to a play: the arguments, the inventory or the vault
            return Outcome(GOOD if status == 0 else WRONG)
        outcome = json.loads(told.read_text(encoding="utf-8"))
    if outcome["refused"] and not outcome["changed"]:
        return Outcome(WRONG)
    return Outcome(FAILED if status or outcome["refused"] else GOOD, outcome["changed"])
