"""The fixtures of the verification, and accounts that are made for one test."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from verification.conftest import evidence, target
from verification.probes import second_factor, xmpp
from verification.probes.prosody_console import Prosody, User
from verification.probes.second_factor import Factor
from verification.probes.xmpp import Client
from verification.targets import Target, load

KIT = Path(__file__).resolve().parents[3]
Play = Callable[..., subprocess.CompletedProcess]

numbers = itertools.count(1)


@dataclass
class Member:
    """An account and whoever owns it."""

    target: Target
    jid: str
    password: str
    factor: Factor | None = None

    @property
    def username(self) -> str:
        """The part before the @."""
        return self.jid.partition("@")[0]

    def log_in(self, password: str = "", resource: str = "") -> Client:
        """Log in with a password, its own by default. Raises AuthenticationFailed."""
        address, port = self.target.at(xmpp.C2S)
        return Client.login(address, port, self.jid, password or self.password, resource=resource)

    def enrol(self) -> Client:
        """Set up the second factor, and return the session that did, in which a code is fresh."""
        client = self.log_in()
        self.factor = second_factor.set_up(client, self.password)
        return client

    def enrol_with_device(self, name: str = "phone") -> str:
        """Set up the second factor and return the password of a first device."""
        with self.enrol() as client:
            return second_factor.add_device(client, self.password, name)

    def revoke(self, client: Client, name: str) -> None:
        """Revoke a device, with a recovery code."""
        revoking = second_factor.command(client, "revoke-device")
        proof = {"password": self.password, "code": self.factor.recovery.pop()}
        revoking.submit(**proof, device=revoking.choices[name])


@pytest.fixture
def member(host, target) -> Callable[..., Member]:
    """A function that makes an account of the first virtual host, or of another."""

    def made(domain: str = "", name: str = "") -> Member:
        jid = f"{name or f'member-{secrets.token_hex(3)}-{next(numbers)}'}@{domain or target.domain}"
        password = secrets.token_urlsafe(12)
        host.check_output("printf '%%s\\n' %s %s | prosodyctl adduser %s", password, password, jid)
        return Member(target, jid, password)

    return made


@pytest.fixture(scope="session")
def clients(pytestconfig: pytest.Config) -> Target:
    """The machine with the clients."""
    return load(pytestconfig.getoption("ansible_inventory"), "client")


@pytest.fixture
def shell(host) -> Callable[[str], str]:
    """A function that runs a command of `prosodyctl shell mfa` and returns what it prints; it must succeed."""

    def run(command: str) -> str:
        return host.check_output(f"prosodyctl shell mfa {command}")

    return run


@pytest.fixture
def journal(host) -> Callable[[], list[str]]:
    """A function that returns the lines that Prosody has logged since the test began."""
    cursor = host.check_output("journalctl --lines=0 --show-cursor --quiet").partition("cursor: ")[2]

    def lines() -> list[str]:
        return host.check_output(
            "journalctl --sync; journalctl --no-pager --quiet --output=cat --unit=prosody --after-cursor=%s", cursor
        ).splitlines()

    return lines


@pytest.fixture
def play(pytestconfig: pytest.Config) -> Play:
    """A function that runs a playbook of the kit with the variables given to it, and returns what became of it."""

    def run(name: str, *options: str, **variables: object) -> subprocess.CompletedProcess:
        playbook = [str(Path(sys.executable).with_name("ansible-playbook")), f"playbooks/{name}.yml", *options]
        return subprocess.run(
            [*playbook, "-i", pytestconfig.getoption("ansible_inventory"), "-e", json.dumps(variables)],
            cwd=KIT,
            env={**os.environ, "ANSIBLE_CONFIG": str(KIT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def prosody(_testinfra_host) -> Prosody:
    """The running server, from inside."""
    return Prosody(_testinfra_host)


@pytest.fixture(scope="module")
def make_user(prosody, target):
    """A function that makes an account, enrolled or not, of a domain (by default the primary); removed at the end."""
    made: list[User] = []

    def make(domain: str = "", *, enrolled: bool = True) -> User:
        made.append(User.create(prosody, domain or target.domain, enrolled=enrolled))
        return made[-1]

    yield make
    prosody.remove(made)


@pytest.fixture(scope="module")
def alice(make_user) -> User:
    """An account with a second factor, for all tests of a module."""
    return make_user()


@pytest.fixture(scope="module")
def bob(make_user) -> User:
    """An account without one, for all tests of a module."""
    return make_user(enrolled=False)
