"""Measure on a throw-away server what a part of the kit costs.

mfa    processor time of the server for the login of a device, of an account with 1 and with 20 of them, as a ratio
       to a login with Prosody's own internal_hashed: three accounts of one server, in turn

The ratios go to reports/bench.json. Exit status 1: one of them is above its target.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import tempfile
from dataclasses import dataclass, field

from cli import deploy
from cli.common import FAILED, GOOD, ROOT, progress, timed_line, tool
from cli.lab import Failed, play, quiet, read_yaml

INVENTORY = ROOT / "inventories" / "bench" / "hosts.yml"
REACHED = INVENTORY.parent / "host_vars" / "bench.yml"
RESULT = ROOT / "reports" / "bench.json"
ROUNDS = 15
LOGINS = 20  # of each account in each round
TARGETS = {"1 device": 1.3, "20 devices": 1.6}


@dataclass
class Account:
    """One that logs in, and the milliseconds of the server's processor that each round's logins took on average."""

    name: str
    jid: str
    password: str
    login_password: str = ""
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Milliseconds a login."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of the rounds, in milliseconds."""
        first, _, third = statistics.quantiles(self.rounds, n=4)
        return (third - first) / 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("part", metavar="PART", choices=["mfa"], help="what to measure: mfa")


def needs(_: argparse.Namespace) -> list[str]:
    """What must be installed besides .venv."""
    return ["containers"]


def run(_: argparse.Namespace) -> int:
    """Boot, deploy, measure, tell, remove. Returns the exit status."""
    try:
        with timed_line("Boot a throw-away Debian server"):
            play("create", INVENTORY)
        accounts = [
            Account(name, f"{secrets.token_hex(4)}@{domain}.example", secrets.token_urlsafe(12))
            for name, domain in (("internal_hashed", "plain"), ("1 device", "mfa"), ("20 devices", "mfa"))
        ]
        with timed_line("Deploy onto it, and make three accounts"):
            quiet([tool("ansible-playbook"), "-i", str(INVENTORY), str(deploy.PLAYBOOK)])
            create(accounts)
        with timed_line(f"Log each in {ROUNDS * LOGINS} times, in turn"):
            measure(accounts)
        return tell(accounts)
    except Failed as failure:
        progress("")
        print(failure)
        return FAILED
    finally:
        play("destroy", INVENTORY)


def create(accounts: list[Account]) -> None:
    """Create the accounts and, for those of the second factor, their devices. Raises Failed."""
    from verification.probes import second_factor, xmpp  # noqa: PLC0415 - see __init__.py

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"xmpp_accounts": [{"jid": each.jid, "password": each.password} for each in accounts]}, file)
        file.flush()
        playbook = str(ROOT / "playbooks" / "accounts.yml")
        quiet([tool("ansible-playbook"), "-i", str(INVENTORY), playbook, "-e", f"@{file.name}"])
    port = int(read_yaml(REACHED)["lab_ports"]["5222"])
    for account in accounts:
        account.login_password = account.password
        if account.name in TARGETS:
            with xmpp.Client.login("127.0.0.1", port, account.jid, account.password) as client:
                second_factor.set_up(client, account.password)
                for number in range(int(account.name.split()[0])):
                    name = f"device {number}"
                    account.login_password = second_factor.add_device(client, account.password, name)


def measure(accounts: list[Account]) -> None:
    """Log the accounts in and out in turn, and note what it costs the server."""
    from verification.probes import xmpp  # noqa: PLC0415 - see __init__.py

    port = int(read_yaml(REACHED)["lab_ports"]["5222"])
    for number in range(ROUNDS + 1):
        for account in accounts:
            before = processor_time()
            for _ in range(LOGINS):
                xmpp.Client.login("127.0.0.1", port, account.jid, account.login_password).stream.close()
            if number > 0:  # the first round warms the server up
                account.rounds.append((processor_time() - before) / LOGINS)
        progress(f"  {number} of {ROUNDS} rounds")


def processor_time() -> float:
    """Milliseconds of processor time that Prosody's one thread has used. Raises Failed."""
    reading = ["sh", "-c", "cat /proc/$(systemctl show prosody --property=MainPID --value)/schedstat"]
    said = quiet(["podman", "exec", read_yaml(REACHED)["lab_container"], *reading]).stdout
    return int(said.split()[0]) / 1e6


def tell(accounts: list[Account]) -> int:
    """Print the table, write the ratios, and return the exit status."""
    from rich import box  # noqa: PLC0415 - see __init__.py
    from rich.table import Table  # noqa: PLC0415 - see __init__.py

    from verification.report import terminal  # noqa: PLC0415 - see __init__.py

    base, *others = accounts
    ratios = {account.name: account.median / base.median for account in others}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2))
    for heading in ("A login with", "ms of processor", "spread", "ratio", "target"):
        table.add_column(heading, justify="left" if heading == "A login with" else "right", header_style="bold")
    table.add_row(base.name, f"{base.median:.2f}", f"± {base.spread:.2f}", "1", "")
    for account in others:
        ratio, target = ratios[account.name], TARGETS[account.name]
        shown = f"[{'green' if ratio <= target else 'red'}]{ratio:.2f}[/]"
        table.add_row(account.name, f"{account.median:.2f}", f"± {account.spread:.2f}", shown, f"at most {target}")
    console = terminal.console()
    console.print()
    console.print(table)
    RESULT.parent.mkdir(exist_ok=True)
    keys = {name: f"mfa login, {name}" for name in ratios}
    RESULT.write_text(json.dumps({"ratios": {keys[name]: round(ratios[name], 3) for name in ratios}}, indent=2) + "\n")
    console.print(f"  {RESULT.relative_to(ROOT)} has the ratios.\n")
    return GOOD if all(ratios[name] <= target for name, target in TARGETS.items()) else FAILED
