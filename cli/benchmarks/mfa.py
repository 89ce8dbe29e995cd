"""What the second factor costs: the server's processor time for a login

Three accounts of one server log in, in turn: one of Prosody's own internal_hashed, one with a device, one with twenty.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from dataclasses import dataclass, field

from cli import deploy
from cli.benchmarks import Figure, paired
from cli.common import ROOT, progress, timed_line, tool
from cli.lab import play, quiet, read_yaml

NEEDS = ["containers"]
INVENTORY = ROOT / "inventories" / "bench" / "mfa" / "hosts.yml"
REACHED = INVENTORY.parent / "host_vars" / "bench.yml"
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


def measure() -> list[Figure]:
    """Boot, deploy, measure, remove. Raises Failed."""
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
            log_in(accounts)
    finally:
        play("destroy", INVENTORY)
    base, *others = accounts
    return [
        Figure(
            key=f"mfa.login_cpu_over_internal_hashed.{account.name.replace(' ', '_')}",
            label=f"A login of an account with {account.name}",
            unit="ms",
            sides={"internal_hashed": base.rounds, "ours": account.rounds},
            ratio=paired(account.rounds, base.rounds),
            target=TARGETS[account.name],
        )
        for account in others
    ]


def create(accounts: list[Account]) -> None:
    """Create the accounts and, for those of the second factor, their devices. Raises Failed."""
    from verification.probes import second_factor, xmpp  # noqa: PLC0415 - see cli/__init__.py

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


def log_in(accounts: list[Account]) -> None:
    """Log the accounts in and out in turn, and note what it costs the server."""
    from verification.probes import xmpp  # noqa: PLC0415 - see cli/__init__.py

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
