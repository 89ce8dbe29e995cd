"""Options and fixtures of the verification tests.

A test states the control it proves with `@pytest.mark.control("TLS-01")`. One that looks from outside takes `target`
alone; one that looks inside takes `host` (testinfra) as well. `pytest.skip("not shown: ...")` says why it cannot be
tried here, and holds the proof back; skipping for another reason says that there is nothing to try.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from verification import catalogue, targets
from verification.probes import xmpp
from verification.probes.tls import Channel
from verification.probes.xmpp import Client

Evidence = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the verification."""
    group = parser.getgroup("verification")
    group.addoption("--only", metavar="ID,...", default="", help="prove these controls alone")
    group.addoption("--accounts", metavar="FILE", help="YAML list of {jid, password}: accounts to log in with")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse an unknown control before anything runs."""
    # testinfra calls ansible-inventory by its name: the one beside this Python is meant.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # And it looks as root, as the deployment does.
    os.environ.setdefault("ANSIBLE_BECOME", "true")
    # With xdist: the fixtures of a file are set up once, in one worker.
    if config.getoption("dist", "no") == "load":
        config.option.dist = "loadfile"
    config.addinivalue_line("markers", "control(id): the control of the catalogue that this test proves")
    unknown = selected(config) - {control.id for control in catalogue.load()}
    if unknown:
        pytest.exit(f"--only: no such control: {', '.join(sorted(unknown))}", returncode=2)
    if config.getoption("--accounts"):
        _check_accounts(Path(config.getoption("--accounts")))


def _check_accounts(file: Path) -> None:
    try:
        accounts = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        pytest.exit(f"--accounts: {error}", returncode=2)
    if not isinstance(accounts, list) or not all(
        isinstance(account, dict) and {"jid", "password"} <= set(account) for account in accounts
    ):
        pytest.exit(f"--accounts: {file} is not a list of {{jid, password}}", returncode=2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the selected controls, and tell each report which control and host it is about."""
    only = selected(config)
    dropped = [item for item in items if only and not only & controls_of(item)]
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)
    for item in items:
        item.user_properties += [("control", control) for control in sorted(controls_of(item))]
        item.user_properties.append(("host", _host_name(item)))


def selected(config: pytest.Config) -> set[str]:
    """The control ids given by --only; empty means all."""
    return {item.strip() for item in config.getoption("--only").split(",") if item.strip()}


def controls_of(item: pytest.Item) -> set[str]:
    """The controls a test is marked with."""
    return {marker.args[0] for marker in item.iter_markers("control")}


def _host_name(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    host = callspec.params.get("_testinfra_host") if callspec else None
    return host.backend.get_pytest_id().rpartition("://")[2] if host else ""


@pytest.fixture(scope="module")
def target(_testinfra_host, pytestconfig: pytest.Config) -> targets.Target:
    """The host under test as the outside sees it; nothing here logs in to it."""
    name = _testinfra_host.backend.get_pytest_id().rpartition("://")[2]
    return targets.load(pytestconfig.getoption("ansible_inventory"), name)


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Keep a line for the report: what was tried and what came back, such as "5223 TLSv1.1 -> protocol version"."""

    def keep(line: str) -> None:
        request.node.user_properties.append(("evidence", line))

    return keep


@pytest.fixture
def federation(target: targets.Target) -> None:
    """The test is about a server that speaks with others."""
    if not target.federates:
        pytest.skip("federation is off")


@pytest.fixture
def reachable(request: pytest.FixtureRequest, target: targets.Target) -> Callable[[int], int]:
    """A function that returns an XMPP port, or skips the test: federation is off, or there is no direct TLS."""

    def require(port: int) -> int:
        if port in (xmpp.S2S, xmpp.S2S_DIRECT):
            request.getfixturevalue("federation")
        if port in xmpp.DIRECT_TLS:
            try:
                Channel.connect(target.address, target.port(port)).close()
            except OSError as error:
                pytest.skip(f"not shown: {port}: {error.strerror or error}")
        return port

    return require


@pytest.fixture(scope="session")
def given_accounts(pytestconfig: pytest.Config) -> list[dict[str, str]]:
    """The accounts of --accounts."""
    path = pytestconfig.getoption("--accounts")
    return yaml.safe_load(Path(path).read_text()) if path else []


@pytest.fixture
def accounts(given_accounts, target, tmp_path_factory, worker_id) -> Iterator[list[dict[str, str]]]:
    """At least two accounts {jid, password} of one virtual host of this target, for one test at a time."""
    for domain in target.domains:
        here = [account for account in given_accounts if account["jid"].rpartition("@")[2] == domain]
        if len(here) >= 2:
            break
    else:
        pytest.skip("not shown: no test accounts were given")
    directory = tmp_path_factory.getbasetemp()
    with (directory if worker_id == "master" else directory.parent).joinpath("accounts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield here


@pytest.fixture
def login(target: targets.Target, accounts: list[dict[str, str]]):
    """A function that logs in as account number `index` and returns a Client; all are closed at the end."""
    clients: list[Client] = []

    def log_in(index: int = 0, port: int = xmpp.C2S, resource: str = "", bind: bool = True) -> Client:
        account = accounts[index]
        client = Client.login(
            target.address,
            target.port(port),
            account["jid"],
            account["password"],
            standard_port=port,
            resource=resource,
            bind=bind,
        )
        clients.append(client)
        return client

    yield log_in
    for client in clients:
        client.stream.close()
