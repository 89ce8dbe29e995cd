"""Prove what a deployed server promises, from outside and from inside.

The tests of verification/ are run against every host of the group xmpp, and told per control of the catalogue.
They change nothing there and put no load on it. With --from-outside the services of a domain are found as clients
find them, by SRV records and host-meta, and what takes a login to the host is left out.

Exceptions are written in waivers.yml beside the inventory: control, host, reason, owner, and the day on which each
ends. How to have it run by the clock is in docs/verify.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from cli.common import FAILED, GOOD, ROOT, WRONG, WrongInput, environment, inventory

EVERY_HOST = "xmpp"  # the group


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("-i", "--inventory", metavar="INVENTORY", type=inventory)
    whom.add_argument("--from-outside", metavar="DOMAIN", help="judge any XMPP domain as a stranger, without a login")
    parser.add_argument("--connect", metavar="HOST", help="with --from-outside: ask this host, not DNS")
    parser.add_argument("--ca-file", metavar="FILE", type=Path, help="with --from-outside: trust these roots alone")
    parser.add_argument(
        "--report", metavar="DIR", type=Path, help="write verify.html, verify.json and verify.junit.xml there"
    )
    parser.add_argument("--limit", metavar="HOST,...", default=EVERY_HOST, help="with -i: verify these hosts alone")
    parser.add_argument("--only", metavar="ID,...", help="prove these controls alone, such as TLS-01,AUTH-02")
    parser.add_argument("--judges", action="store_true", help="ask testssl.sh and lynis as well, which takes minutes")
    parser.add_argument("--metrics", metavar="FILE", type=Path, help="write the verdict there for node_exporter")
    parser.add_argument("--mail", metavar="ADDRESS", action="append", help="mail a verdict that is not good there")
    parser.add_argument("--accounts", metavar="FILE", type=Path, help="YAML list of {jid, password} to log in with")


def needs(arguments: argparse.Namespace) -> list[str]:
    """What must be installed besides .venv."""
    return ["judges"] if arguments.judges else []


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    if arguments.accounts and not arguments.accounts.is_file():
        raise WrongInput(f"there is no file of accounts {str(arguments.accounts)!r}")
    if arguments.inventory and (arguments.connect or arguments.ca_file):
        raise WrongInput("--connect and --ca-file belong to --from-outside; the inventory says it otherwise")
    if arguments.from_outside and arguments.limit != EVERY_HOST:
        raise WrongInput("--limit belongs to -i: from outside there is one domain")
    if not (arguments.metrics or arguments.mail):
        return verify(arguments)
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:
        arguments.report = arguments.report or Path(directory)
        (arguments.report / "verify.json").unlink(missing_ok=True)
        status = verify(arguments)
        return tell(arguments, status)


def verify(arguments: argparse.Namespace) -> int:
    """Verify by an inventory or from outside, and return the exit status."""
    if arguments.from_outside:
        return judge_from_outside(arguments)
    given = (arguments.report, arguments.only, arguments.accounts, arguments.judges, arguments.limit)
    return judge(command(arguments.inventory, *given))


def tell(arguments: argparse.Namespace, status: int) -> int:
    """Export the verdict, and mail it where it is not good; the exit status, also that of a mail that was not sent."""
    from verification.report import mail, metrics  # noqa: PLC0415 - see cli/__init__.py

    report = arguments.report / "verify.json"
    document = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
    if arguments.metrics:
        metrics.write(arguments.metrics, document, status)
    if arguments.mail and status != GOOD:
        try:
            mail.send(mail.message(document, arguments.mail, report.with_suffix(".html")))
        except mail.NotSent as error:
            raise WrongInput(f"--mail: {error}") from error
    return status


def judge(words: list[str]) -> int:
    """Run pytest and return the exit status, WRONG where it was ended by a signal."""
    status = subprocess.run(words, cwd=ROOT, env=environment(), check=False).returncode
    return status if status in (GOOD, FAILED) else WRONG


def judge_from_outside(arguments: argparse.Namespace) -> int:
    """Find the services of a domain, then run what a stranger can. Raises WrongInput for what is not a domain."""
    from verification import outside  # noqa: PLC0415 - see cli/__init__.py

    ca_file = arguments.ca_file
    if ca_file and not ca_file.is_file():
        raise WrongInput(f"there is no file of roots {str(ca_file)!r}")
    try:
        domain = outside.domain_name(arguments.from_outside)
        connect = outside.endpoint(arguments.connect) if arguments.connect else None
    except ValueError as error:
        raise WrongInput(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:
        path = Path(directory) / "hosts.yml"
        roots = ca_file.resolve() if ca_file else outside.tls.SYSTEM_TRUST
        outside.discover(domain, connect, roots).write(path, roots)
        words = command(str(path), arguments.report, arguments.only, arguments.accounts, arguments.judges)
        return judge([*words, "--from-outside"])


def command(
    source: str,
    report: Path | None = None,
    only: str | None = None,
    accounts: Path | None = None,
    judges: bool = False,
    limit: str = EVERY_HOST,
) -> list[str]:
    """The pytest command line that verifies the servers of an inventory; to be run in the root of the kit."""
    options: dict[str, str | Path | None] = {
        "--hosts": ",".join(f"ansible://{host}" for host in limit.split(",")),
        "--ansible-inventory": source,
        "--report-dir": report and report.resolve(),
        "--only": only,
        "--accounts": accounts and accounts.resolve(),
    }
    given = [f"{name}={value}" for name, value in options.items() if value]
    how = ["-p", "verification.report.plugin", "-p", "no:cacheprovider", "--numprocesses=auto"]
    given += ["--judges"] * judges
    return [sys.executable, "-m", "pytest", "verification", *how, *given]
