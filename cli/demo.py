"""Boot a throw-away server on this machine, deploy onto it, prove it, and show how to log in.

It is deployed over SSH exactly as in production; only the server is a podman container, and the CA the kit's own.
Run it again after a change: it deploys onto the same server.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil

from cli import deploy, verify
from cli.common import FAILED, GOOD, ROOT, progress, timed_line
from cli.lab import Failed, play, quiet, read_yaml

INVENTORY = ROOT / "inventories" / "demo" / "hosts.yml"
REACHED = INVENTORY.parent / "host_vars" / "demo.yml"
LAB = ROOT / ".cache" / "lab" / "demo"
ACCOUNTS = LAB / "accounts.yml"
SECOND_FACTOR = LAB / "second-factor.yml"
CA_FILE = LAB / "ca" / "ca.pem"
REPORT = ROOT / "reports" / "demo"
LOG = REPORT / "verify.log"
GREETING = "Is anybody listening? Nobody but you."


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
        play("destroy", INVENTORY)
    shutil.rmtree(REPORT, ignore_errors=True)
    return GOOD


def show() -> int:
    """Boot, deploy, log in, verify, tell."""
    print("Portcullis demo\n")
    with timed_line("Boot a throw-away Debian server (the first time: make its image)"):
        play("create", INVENTORY)
    print("\n  Deploy onto it over SSH\n", flush=True)
    outcome = deploy.play(ROOT / "playbooks" / "demo.yml", [str(INVENTORY)])
    if outcome.status != GOOD:
        return outcome.status
    if outcome.changed == 0:
        print("  Nothing had to change: the server was as it should be.")
    print(flush=True)
    with timed_line("Two clients log in, by STARTTLS and by direct TLS, and one writes to the other"):
        talk()
    with timed_line("A third sets up a second factor, and logs in with a device password alone"):
        enrol()
    with timed_line("Verify every promise, from outside and from inside"):
        status = prove()
    from cli.screen import tell  # noqa: PLC0415 - see __init__.py

    tell(
        report=REPORT / "verify.json",
        log=LOG,
        accounts=ACCOUNTS,
        second_factor=SECOND_FACTOR,
        ca_file=CA_FILE,
        reached=read_yaml(REACHED),
    )
    return status


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


def enrol() -> None:
    """Set up the second factor of an account, once, and log in with the password of its device. Raises Failed.

    What its owner would keep is written beside the password: the device's password, the key of the authenticator app
    and the recovery codes.
    """
    import yaml  # noqa: PLC0415 - see __init__.py

    from verification.probes import second_factor, tls, xmpp  # noqa: PLC0415 - see __init__.py

    account = read_yaml(SECOND_FACTOR)[0]
    port = int(read_yaml(REACHED)["lab_ports"]["5222"])

    def log_in(password: str) -> xmpp.Client:
        return xmpp.Client.login("127.0.0.1", port, account["jid"], password)

    try:
        if "device" not in account:
            with log_in(account["password"]) as client:
                factor = second_factor.set_up(client, account["password"])
                account["device"] = second_factor.add_device(client, account["password"], "demo")
            account |= {"app": factor.secret, "recovery": factor.recovery}
            SECOND_FACTOR.write_text(yaml.safe_dump([account], sort_keys=False), encoding="utf-8")
        log_in(account["device"]).stream.close()
    except (OSError, second_factor.Refused, tls.Refused, xmpp.AuthenticationFailed, xmpp.StreamEnded) as error:
        raise Failed(f"The second factor does not work: {error}") from error
    try:
        log_in(account["password"]).stream.close()
    except xmpp.AuthenticationFailed:
        return
    raise Failed(f"The password of {account['jid']} alone opens it, although it has a second factor.")


def prove() -> int:
    """Verify the server into REPORT and return the exit status. Raises Failed where verification itself breaks."""
    result = quiet(verify.command(str(INVENTORY), REPORT, accounts=ACCOUNTS), accepted=(GOOD, FAILED))
    LOG.write_text(result.stdout, encoding="utf-8")
    return result.returncode
