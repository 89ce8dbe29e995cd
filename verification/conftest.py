"""Options and fixtures of the verification tests.

A test states the control it proves with `@pytest.mark.control("TLS-01")`. One that looks from outside takes `target`
alone; one that looks inside takes `host` (testinfra) as well. `pytest.skip("not shown: ...")` says why it cannot be
tried here, and holds the proof back; skipping for another reason says that there is nothing to try.
"""

from __future__ import annotations

import fcntl
import functools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from verification import catalogue, targets
from verification.probes import xmpp
from verification.probes.tls import Channel
from verification.probes.xmpp import Client
from verification.turns import Turns

Evidence = Callable[[str], None]
INSIDE = {"host", "sshd"}
# What takes long begins first, beside the others. These look at all hosts at the same time, in one worker.
TOGETHER = (
    "test_the_playbook_would_change_nothing",
    "test_a_login_without_a_session_does_not_last",
    "test_silent_connections_are_closed",
    "test_half_sent_requests_are_cut_off",
)
LONG = (
    *TOGETHER,
    "test_accounts_cannot_send_faster_than_the_stated_rate",
    "test_lynis_warns_of_nothing",
    "test_sslyze_agrees_with_mozilla",
    "test_testssl_finds_nothing",
)
LONG_FILES = ("test_bans.py",)
T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the verification."""
    group = parser.getgroup("verification")
    group.addoption("--only", metavar="ID,...", default="", help="prove these controls alone")
    group.addoption("--from-outside", action="store_true", help="log in to no host: run what a stranger can")
    group.addoption("--judges", action="store_true", help="ask the judges that take minutes as well")
    group.addoption("--accounts", metavar="FILE", help="YAML list of {jid, password}: accounts to log in with")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse an unknown control before anything runs."""
    # testinfra calls ansible-inventory by its name: the one beside this Python is meant.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # And it looks as root, as the deployment does.
    os.environ.setdefault("ANSIBLE_BECOME", "true")
    config.option.loadscopereorder = False
    config.addinivalue_line("markers", "speaks(port): the test speaks to that standard port")
    config.addinivalue_line("markers", "kit: the test knows what the kit installs, and would misjudge another server")
    config.addinivalue_line("markers", "alone: the tests of the file need the servers for themselves")
    config.addinivalue_line("markers", "control(id): the control of the catalogue that this test proves")
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Turns(Path(config.option.ansible_inventory)))
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With xdist: what shares a worker, so that the fixtures of a file are set up once for each host."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - xdist may be missing

    reporter = config.pluginmanager.getplugin("verification-reporter")
    names = sorted(reporter.results.hosts if reporter else [], key=len, reverse=True)

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        """The tests of a file about one host; a long one is alone, perhaps about all of them."""

        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            name = test.partition("[")[0]
            if name in LONG:
                return name if name in TOGETHER else nodeid
            return f"{file} {next((name for name in names if f'://{name}' in test), '')}"

    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the selected controls, and tell each report which control and host it is about."""
    only = selected(config)
    dropped = [item for item in items if only and not only & controls_of(item)]
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)
    if config.getoption("--from-outside"):
        _keep_outside(items)
    items.sort(key=_place)
    for item in items:
        item.user_properties += [("control", control) for control in sorted(controls_of(item))]
        item.user_properties.append(("host", _host_name(item)))


def _place(item: pytest.Item) -> int:
    """What takes long comes first, the longest before all, and last what has to wait until nothing else runs."""
    if item.get_closest_marker("alone"):
        return len(LONG) + 2
    name = getattr(item, "originalname", "")
    if name in LONG:
        return LONG.index(name)
    return len(LONG) + (item.path.name not in LONG_FILES)


def _keep_outside(items: list[pytest.Item]) -> None:
    """Skip what takes a login to the host, or knows what is installed there."""
    inside = {item: INSIDE & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("kit") for item in items}
    seen = {control for item in items if not inside[item] for control in controls_of(item)}
    for item in items:
        if inside[item]:
            # Where another test of the control runs, this one is missing from the proof.
            lead = "not shown: " if controls_of(item) & seen else ""
            item.add_marker(pytest.mark.skip(f"{lead}it cannot be judged from outside"))


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


@pytest.fixture(scope="session")
def _measured() -> dict[str, dict[str, Future[Any]]]:
    return {}


@pytest.fixture
def at_once(request: pytest.FixtureRequest, target, _measured) -> Callable[[Callable[[targets.Target], T]], T]:
    """A function that measures this host, and all others of the test at the same time: for what mostly waits."""
    test = request.node.originalname

    def measure(how: Callable[[targets.Target], T]) -> T:
        if test not in _measured:
            inventory = request.config.getoption("ansible_inventory")
            hosts = {_host_name(item) for item in request.session.items if getattr(item, "originalname", "") == test}
            everywhere = [targets.load(inventory, host) for host in hosts]
            with ThreadPoolExecutor(len(everywhere)) as pool:
                _measured[test] = {other.name: pool.submit(how, other) for other in everywhere}
        return _measured[test][target.name].result()

    return measure


@pytest.fixture(autouse=True)
def _offered(request: pytest.FixtureRequest) -> None:
    """Skip a test about a port that the host does not offer, unless it is about offering it."""
    if "target" not in request.fixturenames or "TLS-07" in controls_of(request.node):
        return
    callspec = getattr(request.node, "callspec", None)
    ports = [value for value in callspec.params.values() if isinstance(value, int)] if callspec else []
    ports += [port for marker in request.node.iter_markers("speaks") for port in marker.args]
    absent = request.getfixturevalue("target").absent
    for port in ports:
        if port in absent:
            pytest.skip(absent[port])


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
        if port in xmpp.DIRECT_TLS and (why := closed(*target.at(port))):
            pytest.skip(f"{port}: {why}")  # TLS-07 asks for it
        return port

    return require


@functools.cache
def closed(address: str, port: int) -> str:
    """Why nothing answers at a port; "" where something does. Asked once, for a firewall that drops takes its time."""
    try:
        Channel.connect(address, port).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


@pytest.fixture(scope="session")
def given_accounts(pytestconfig: pytest.Config) -> list[dict[str, str]]:
    """The accounts of --accounts."""
    path = pytestconfig.getoption("--accounts")
    return yaml.safe_load(Path(path).read_text()) if path else []


@pytest.fixture
def accounts_here(given_accounts, target) -> list[dict[str, str]]:
    """At least two accounts {jid, password} of one virtual host of this target; other tests may use them meanwhile."""
    return target.accounts_among(given_accounts) or pytest.skip("not shown: no test accounts were given")


@pytest.fixture
def accounts(accounts_here, tmp_path_factory, worker_id) -> Iterator[list[dict[str, str]]]:
    """The same accounts, for one test at a time."""
    directory = tmp_path_factory.getbasetemp()
    domain = accounts_here[0]["jid"].rpartition("@")[2]
    shared = directory if worker_id == "master" else directory.parent
    with (shared / f"accounts-{domain}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield accounts_here


@pytest.fixture
def login(target: targets.Target, accounts: list[dict[str, str]]):
    """A function that logs in as account number `index` and returns a Client; all are closed at the end."""
    clients: list[Client] = []

    def log_in(index: int = 0, port: int = xmpp.C2S, resource: str = "", bind: bool = True) -> Client:
        account = accounts[index]
        client = Client.login(
            *target.at(port),
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
