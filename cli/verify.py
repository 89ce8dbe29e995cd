"""Prove what a deployed server promises, from outside and from inside.

The tests of verification/ are run against every host of the group xmpp, and told per control of the catalogue.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from cli.common import ROOT, WRONG, WrongInput, environment, inventory

WORKERS = 4  # the tests mostly wait for a server to hang up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("-i", "--inventory", metavar="INVENTORY", type=inventory, required=True)
    parser.add_argument("--report", metavar="DIR", type=Path, help="write verify.json there")
    parser.add_argument("--only", metavar="ID,...", help="prove these controls alone, such as TLS-01,AUTH-02")
    parser.add_argument("--accounts", metavar="FILE", type=Path, help="YAML list of {jid, password} to log in with")


def needs(_: argparse.Namespace) -> list[str]:
    """What must be installed besides .venv."""
    return []


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    if arguments.accounts and not arguments.accounts.is_file():
        raise WrongInput(f"there is no file of accounts {str(arguments.accounts)!r}")
    status = subprocess.run(
        command(arguments.inventory, arguments.report, arguments.only, arguments.accounts),
        cwd=ROOT,
        env=environment(),
        check=False,
    ).returncode
    return min(status, WRONG)


def command(
    source: str, report: Path | None = None, only: str | None = None, accounts: Path | None = None
) -> list[str]:
    """The pytest command line that verifies the servers of an inventory; to be run in the root of the kit."""
    options: dict[str, str | Path | None] = {
        "--ansible-inventory": source,
        "--report-dir": report and report.resolve(),
        "--only": only,
        "--accounts": accounts and accounts.resolve(),
    }
    given = [f"{name}={value}" for name, value in options.items() if value]
    how = ["-p", "verification.report.plugin", "-p", "no:cacheprovider", f"--numprocesses={WORKERS}"]
    return [sys.executable, "-B", "-m", "pytest", "verification", *how, "--hosts=ansible://xmpp", *given]
