"""The last screen of the demo: what was proven, how to log in, how to remove it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from cli.common import ROOT
from verification import catalogue
from verification.report import terminal
from verification.report.results import FAILED


def tell(report: Path, log: Path, accounts: Path, second_factor: Path, ca_file: Path, reached: dict[str, Any]) -> None:
    """Print the screen.

    Args:
        report: verify.json of the server.
        log: what the verification printed.
        accounts: YAML file of the accounts, {jid, password} each.
        second_factor: YAML file of the account that has one, with all that its owner keeps.
        ca_file: the CA that a client must trust.
        reached: how the server is reached, as molecule/shared/create.yml wrote it down.
    """
    verdicts = json.loads(report.read_text(encoding="utf-8"))
    console = terminal.console()
    console.print()
    console.print(proof(verdicts))
    if verdicts["summary"][FAILED]:
        failed = [control["id"] for control in verdicts["controls"] if control["status"] == FAILED]
        console.print(f"  Not kept: {', '.join(failed)}; {relative(log)} has the evidence.\n", style="bold red")
    log_in(console, accounts, ca_file, reached)
    show_account_page(console, second_factor, reached)
    console.print(f"  The report     {relative(report.with_suffix('.html'))}, for a browser")
    console.print("  Deploy again   ./portcullis demo")
    console.print("  Remove it all  ./portcullis demo --remove\n")


def proof(verdicts: dict[str, Any]) -> Table:
    """How many controls of each area have which status."""
    counts: dict[str, Counter[str]] = {}
    for control in verdicts["controls"]:
        counts.setdefault(control["id"].rpartition("-")[0], Counter())[control["status"]] += 1
    statuses = [status for status in terminal.STYLES if verdicts["summary"][status]]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2), show_footer=True)
    table.add_column("What was proven", "All of it", min_width=28, header_style="bold")
    for status in statuses:
        style = terminal.STYLES[status]
        total = str(verdicts["summary"][status])
        table.add_column(terminal.WORDS[status], total, justify="right", style=style, header_style=style)
    for area, title in catalogue.areas().items():
        if area in counts:
            table.add_row(title, *(str(counts[area][status] or "") for status in statuses))
    return table


def log_in(console: Console, accounts: Path, ca_file: Path, reached: dict[str, Any]) -> None:
    """How a client on this machine logs in."""
    ports = reached["lab_ports"]
    jids = [account["jid"] for account in yaml.safe_load(accounts.read_text(encoding="utf-8"))]
    for label, text in {
        "Accounts": ", ".join(jids),
        "Passwords": f"{relative(accounts)} (only you can read it)",
        "Server": f"127.0.0.1, port {ports['5222']} with STARTTLS, port {ports['5223']} with direct TLS",
        "CA to trust": relative(ca_file),
        "Look inside": f"podman exec -it {reached['lab_container']} bash",
    }.items():
        console.print(f"  [bold]{label:<13}[/]  {text}", soft_wrap=True)
    console.print()


def show_account_page(console: Console, second_factor: Path, reached: dict[str, Any]) -> None:
    """Where a browser on this machine finds the account page, and whose second factor it can show."""
    jid = yaml.safe_load(second_factor.read_text(encoding="utf-8"))[0]["jid"]
    domain = jid.rpartition("@")[2]
    port = reached["verification_ports"].get("443", "443")
    for label, text in {
        "Account page": f"https://{domain}{'' if port == '443' else f':{port}'}/account/",
        "": f"with '{reached['verification_connect']} {domain}' in /etc/hosts, and the CA trusted",
        "Second factor": f"{jid}: {relative(second_factor)} has the password, the app's key and a device's password",
    }.items():
        console.print(f"  [bold]{label:<13}[/]  {text}", soft_wrap=True)
    console.print()


def relative(path: Path) -> str:
    """A path as a person in the root of the kit would type it."""
    return str(path.relative_to(ROOT))
