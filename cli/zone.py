"""Print the DNS records that the servers of an inventory need: playbooks/dns.yml.

It says which are missing or differ, and changes nothing. Every other argument goes to ansible-playbook, such as
-e dns_file=zone.txt, --limit HOST, --ask-vault-pass. Exit status 1 means that the DNS is not as it should be.
"""

from __future__ import annotations

import argparse

from cli.common import ROOT, inventory
from cli.deploy import needs, play

__all__ = ["add_arguments", "needs", "run"]

PLAYBOOK = ROOT / "playbooks" / "dns.yml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.usage = "portcullis dns -i INVENTORY [ANSIBLE-PLAYBOOK ARGUMENTS ...]"
    parser.add_argument("-i", "--inventory", metavar="INVENTORY", type=inventory, action="append", required=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    return play(PLAYBOOK, arguments.inventory, arguments.rest).status
