"""Boot a throw-away server on this machine, deploy onto it, prove it, and show how to log in.

It is deployed over SSH exactly as in production; only the server is a podman container, and the CA the kit's own.
Run it again after a change: it deploys onto the same server.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

from cli import deploy, verify
from cli.common import FAILED, GOOD, ROOT, environment, progress, timed_line, tool

INVENTORY = ROOT / "inventories" / "demo" / "hosts.yml"
REACHED = INVENTORY.parent / "host_vars" / "demo.yml"
LAB = ROOT / ".cache" / "lab" / "demo"
ACCOUNTS = LAB / "accounts.yml"
CA_FILE = LAB / "ca" / "ca.pem"
REPORT = ROOT / "reports" / "demo"
LOG = REPORT / "verify.log"
GREETING = "Is anybody listening? Nobody but you."


class Failed(Exception):
    """A part of the demo went wrong; the text is what it said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--remove", action="store_true", help="remove the server and everything the demo made")


def needs(_: argparse.Namespace) -> list[str]:
    """What must be installed besides .venv."""
    return ["containers"]


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    try:
        return remove() if arguments.remove else show()
    except Failed as failure:
        progress("")
        print(failure)
        return FAILED


def remove() -> int:
    """Remove the server, its network and what is kept of it."""
    with timed_line("Remove the server and what is known of it"):
        play("destroy")
    shutil.rmtree(REPORT, ignore_errors=True)
    return GOOD


def show() -> int:
    """Boot, deploy, log in, verify, tell."""
    print("Portcullis demo\n")
    with timed_line("Boot a throw-away Debian server (the first time: make its image)"):
        play("create")
    print("\n  Deploy onto it over SSH\n", flush=True)
    outcome = deploy.play(ROOT / "playbooks" / "demo.yml", [str(INVENTORY)])
    if outcome.status != GOOD:
        return outcome.status
    if outcome.changed == 0:
        print("  Nothing had to change: the server was as it should be.")
    print(flush=True)
    with timed_line("Two clients log in, by STARTTLS and by direct TLS, and one writes to the other"):
        talk()
    with timed_line("Verify every promise, from outside and from inside"):
        status = prove()
    from cli.screen import tell  # noqa: PLC0415 - see __init__.py

    tell(
        report=REPORT / "verify.json",
        log=LOG,
        accounts=ACCOUNTS,
        ca_file=CA_FILE,
        reached=read_yaml(REACHED),
    )
    return status


def play(name: str) -> None:
    """Run a playbook of molecule/shared quietly. Raises Failed with what it said."""
    command = [tool("ansible-playbook"), "-i", str(INVENTORY), str(ROOT / "molecule" / "shared" / f"{name}.yml")]
    quiet(command)


def quiet(command: list[str], accepted: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of the kit without a word, unless it fails. Raises Failed with what it said."""
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
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


def talk() -> None:
    """Let one account write to the other with a real client. Raises Failed."""
    from verification.probes.client import Login, LoginFailed, exchange  # noqa: PLC0415 - see __init__.py

    ports = read_yaml(REACHED)["lab_ports"]
    alice, bob = (
        Login(**account, address="127.0.0.1", port=int(ports[port]), ca_file=CA_FILE, direct_tls=port == "5223")
        for account, port in zip(read_yaml(ACCOUNTS), ("5222", "5223"))
    )
    try:
        asyncio.run(exchange(alice, bob, GREETING))
    except (LoginFailed, TimeoutError) as error:
        raise Failed(f"The clients could not talk: {error}") from error


def prove() -> int:
    """Verify the server into REPORT and return the exit status. Raises Failed where verification itself breaks."""
    result = quiet(verify.command(str(INVENTORY), REPORT, accounts=ACCOUNTS), accepted=(GOOD, FAILED))
    LOG.write_text(result.stdout, encoding="utf-8")
    return result.returncode
