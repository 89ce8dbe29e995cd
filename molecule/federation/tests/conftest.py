"""Fixtures of the verification, and those of a stage with other servers on it."""

from __future__ import annotations

import contextlib

import pytest
import testinfra

from verification import targets
from verification.conftest import evidence, given_accounts, target
from verification.probes import xmpp
from verification.probes.tls import Channel
from verification.probes.xmpp import Client, Stream

NEIGHBOURS = {"a": "b", "b": "a"}


@pytest.fixture(scope="module")
def inventory(pytestconfig: pytest.Config) -> str:
    """The inventory of the scenario."""
    return pytestconfig.getoption("ansible_inventory")


@pytest.fixture(scope="module")
def neighbour(inventory: str, target: targets.Target) -> targets.Target:
    """The other server of ours."""
    return targets.load(inventory, NEIGHBOURS[target.name])


@pytest.fixture(scope="module")
def stranger(inventory: str) -> targets.Target:
    """The server that is not ours."""
    return targets.load(inventory, "peer")


@pytest.fixture(scope="module")
def stranger_host(inventory: str) -> testinfra.host.Host:
    """The inside of the server that is not ours."""
    return testinfra.get_host(f"ansible://peer?ansible_inventory={inventory}")


@pytest.fixture
def alice(given_accounts: list[dict[str, str]], target: targets.Target):
    """An account of the server under test, logged in."""
    with log_in(target, "alice", given_accounts) as client:
        yield client


@pytest.fixture
def bob(given_accounts: list[dict[str, str]], neighbour: targets.Target):
    """An account of the other server of ours, logged in."""
    with log_in(neighbour, "bob", given_accounts) as client:
        yield client


def log_in(server: targets.Target, name: str, accounts: list[dict[str, str]]) -> Client:
    """Log in with one of the accounts, by its local name."""
    jid = f"{name}@{server.domain}"
    password = next(account["password"] for account in accounts if account["jid"] == jid)
    return Client.login(*server.at(xmpp.C2S), jid, password)


@pytest.fixture
def log_in_at(stranger: targets.Target):
    """A function that logs in anonymously at a domain of the stranger's server."""
    with contextlib.ExitStack() as clients:

        def enter(domain: str) -> Client:
            stream = Stream(Channel.connect(*stranger.at(xmpp.C2S)), domain)
            client = clients.enter_context(Client(stream, domain))
            stream.open()
            xmpp.sasl(stream, "ANONYMOUS", "")
            client.features = stream.open()
            client.bind()
            return client

        yield enter
