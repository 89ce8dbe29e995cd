"""The fixtures of the verification, and a stage on which the CA, the name server and the services can fail."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra

from plugins.zone.check import Authority
from verification import targets
from verification.conftest import accounts, accounts_here, evidence, given_accounts, login, target
from verification.probes import xmpp
from verification.test_certificates import HTTPS, handshake

KIT = Path(__file__).resolve().parents[3]
ORDER = "/usr/local/lib/portcullis/certificate-order"
SETTINGS = "/etc/portcullis/acme/order.json"
HOOKS = "/etc/portcullis/certificates/deploy.d"
METRICS = "/var/lib/portcullis/certificates/certificates.prom"
PORTS = (xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT, HTTPS)
SWITCH = 10  # seconds, for all ports to serve the certificate that one of them serves

Run = Callable[..., subprocess.CompletedProcess]


def playing(playbook: str, inventory: str) -> Run:
    """A function that runs a playbook with the extra variables given to it, and returns what became of it."""

    def run(**variables: object) -> subprocess.CompletedProcess:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), playbook]
        return subprocess.run(
            [*command, "-i", inventory, "-e", json.dumps(variables)],
            cwd=KIT,
            env={**os.environ, "ANSIBLE_CONFIG": str(KIT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def deploy(pytestconfig: pytest.Config) -> Run:
    """A function that deploys the site with other variables."""
    return playing("playbooks/site.yml", pytestconfig.getoption("ansible_inventory"))


@pytest.fixture(scope="module")
def deploy_certificates(pytestconfig: pytest.Config) -> Run:
    """A function that deploys, with other variables, what of the site concerns the certificates alone."""
    return playing("molecule/certificates/certificates.yml", pytestconfig.getoption("ansible_inventory"))


@pytest.fixture
def order(host):
    """A function that runs certificate-order as root."""

    def run(*arguments: str, prefix: str = ""):
        with host.sudo():
            return host.run(f"{prefix} {shlex.join([ORDER, *arguments])}")

    return run


@pytest.fixture
def ordered(host):
    """A function during which certificate-order has other settings."""

    @contextlib.contextmanager
    def change(**settings: object) -> Iterator[None]:
        with host.sudo():
            before = host.check_output(f"cat {SETTINGS}")
            changed = json.dumps({**json.loads(before), **settings})
            host.check_output(f"printf %%s %s > {SETTINGS}", changed)
        try:
            yield
        finally:
            with host.sudo():
                host.check_output(f"printf '%%s\n' %s > {SETTINGS}", before)

    return change


@pytest.fixture
def served(target):
    """A function that returns the certificate of a domain, valid now, which every port has to present.

    The host's timer may be about to switch them; that takes a moment, which they are given.
    """

    def presented(port: int, domain: str):
        with handshake(target, port, domain) as channel:
            return channel.chain[0]

    def ask(domain: str):
        deadline = time.monotonic() + SWITCH
        while len(certificates := {presented(port, domain) for port in PORTS}) > 1:
            assert time.monotonic() < deadline, f"the ports of {domain} do not agree"
        certificate = certificates.pop()
        now = datetime.datetime.now(datetime.timezone.utc)
        assert certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
        return certificate

    return ask


@pytest.fixture(scope="module")
def faketime(_testinfra_host):
    """A function that returns what to put before a command so that it sees another time, such as "+20d"."""
    with _testinfra_host.sudo():
        _testinfra_host.check_output("apt-get install -qq --no-install-recommends faketime")
    return "faketime -f {}".format


@pytest.fixture
def told(host):
    """A function that asserts that the operator is told of a domain's trouble: by a failed unit, its log, a metric."""

    def look(domain: str, words: str) -> str:
        with host.sudo():
            host.run("systemctl start portcullis-certificates")
            assert host.run("systemctl is-failed portcullis-certificates").stdout.strip() == "failed"
            invocation = host.check_output("systemctl show --property=InvocationID --value portcullis-certificates")
            log = host.check_output("journalctl --output=cat _SYSTEMD_INVOCATION_ID=%s", invocation.strip())
            metrics = dict(line.rsplit(" ", 1) for line in host.check_output(f"cat {METRICS}").splitlines())
        line = next(line for line in log.splitlines() if line.startswith(f"{domain}: "))
        assert words in log
        assert int(metrics[f'portcullis_certificate_failed_attempts{{domain="{domain}"}}']) >= 1
        return line

    return look


@pytest.fixture
def hook(host):
    """A function that gives the operator's deploy hooks one more while it is entered."""

    @contextlib.contextmanager
    def install(name: str, script: str) -> Iterator[None]:
        path = f"{HOOKS}/{name}"
        with host.sudo():
            host.check_output("printf '#!/bin/sh\n%%s\n' %s > %s && chmod 755 %s", script, path, path)
        try:
            yield
        finally:
            with host.sudo():
                host.check_output("rm %s", path)

    return install


@pytest.fixture
def sessions(login):
    """A function during which many clients are logged in; all of them have to be there still at its end."""

    @contextlib.contextmanager
    def hold(count: int) -> Iterator[None]:
        clients = []
        for number in range(count):
            port = (xmpp.C2S, xmpp.C2S_DIRECT)[number // 2 % 2]
            clients.append(login(number % 2, port=port, resource=f"session-{number}"))
            time.sleep(0.11)  # the firewall lets ten connections in per second
        yield
        for client in clients:
            client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=client.stream.domain)

    return hold


@pytest.fixture(scope="module")
def name_server(pytestconfig: pytest.Config) -> testinfra.host.Host:
    """The host with the name server and the CA."""
    return testinfra.get_host(f"ansible://ns?ansible_inventory={pytestconfig.getoption('ansible_inventory')}")


@pytest.fixture
def authority(pytestconfig: pytest.Config) -> Authority:
    """The name server as the control node reaches it."""
    variables = targets.load(pytestconfig.getoption("ansible_inventory"), "ns").variables
    return Authority("127.0.0.1", int(variables["lab_ports"]["53"]))


@pytest.fixture
def zone(name_server):
    """A function that changes records while it is entered: removes all of a name and a type, then adds one."""

    def update(*lines: str) -> None:
        with name_server.sudo():
            name_server.check_output(
                "printf '%%s\\n' %s | nsupdate -k /etc/bind/lab.key", "\n".join(["server 127.0.0.1", *lines, "send"])
            )

    @contextlib.contextmanager
    def change(name: str, kind: str, content: str = "") -> Iterator[None]:
        before = name_server.check_output("dig +short @127.0.0.1 %s %s", name, kind).split("\n")
        update(f"update delete {name}. {kind}", *[f"update add {name}. 1 {kind} {content}"] * bool(content))
        try:
            yield
        finally:
            restored = [f"update add {name}. 1 {kind} {record}" for record in before if record]
            update(f"update delete {name}. {kind}", *restored)

    return change


@pytest.fixture
def without_ca(host):
    """A function during which the CA cannot be reached."""

    @contextlib.contextmanager
    def cut() -> Iterator[None]:
        with host.sudo():
            host.check_output("cp /etc/hosts /etc/hosts.kept; echo 127.0.0.1 acme.example >> /etc/hosts")
            try:
                yield
            finally:
                host.check_output("cat /etc/hosts.kept > /etc/hosts; rm /etc/hosts.kept")

    return cut


@pytest.fixture(autouse=True)
def as_before(host, order) -> Iterator[None]:
    """After each test nothing has failed and nothing is due."""
    yield
    assert order("--now").rc == 0
    with host.sudo():
        host.check_output("systemctl reset-failed")
