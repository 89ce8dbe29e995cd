"""A rolled key always has its TLSA record, for whoever looked at any time that the record may be remembered."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verification.test_certificates import handshake
from verification.test_dns import every_key_has_its_record

DOMAIN = "one.example"
PORTS = (443, 5222, 5223, 5269, 5270)
TTL = 6  # seconds
DEADLINE = 60  # seconds, for a new key to come into use, and for an old record to go
SAMPLER = """\
while :; do for port in {ports}; do
    echo $(date +%s.%N) $port $(dig +short @127.0.0.1 _$port._tcp.{domain} TLSA | sed -n 's/^3 1 1 //p' | tr -d ' ')
done; sleep 0.05; done > /run/tlsa.log
"""

OFF = """\
import json, pathlib
file = pathlib.Path("/etc/portcullis/acme/order.json")
file.write_text(json.dumps({**json.loads(file.read_text()), "dane": None}))
"""


def digest(certificate: x509.Certificate) -> str:
    """What a TLSA record 3 1 1 says of a certificate."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest().upper()


@dataclass
class Samples:
    """What was published and what was served, each with the port and the time (seconds since 1970)."""

    published: list[tuple[float, int, set[str]]] = field(default_factory=list)
    served: list[tuple[float, int, str]] = field(default_factory=list)

    def without_match(self) -> list[str]:
        """The keys served to somebody who remembers records, if only for their time to live, that do not name them."""
        return [
            f"{port} serves {key[:8]} {when - looked:.1f} s after the records were {sorted(name[:8] for name in names)}"
            for when, port, key in self.served
            for looked, published_port, names in self.published
            if port == published_port and when - TTL < looked < when and names and key not in names
        ]


@pytest.fixture
def sampled(name_server, target):
    """Look all the time at what the name server and every port say."""

    @contextlib.contextmanager
    def run() -> Iterator[Samples]:
        samples = Samples()
        ended = threading.Event()

        def look() -> None:
            while not ended.is_set():
                for port in PORTS:
                    with handshake(target, port, DOMAIN) as channel:
                        samples.served.append((time.time(), port, digest(channel.chain[0])))
                ended.wait(0.2)  # the firewall limits new connections

        with name_server.sudo():
            script = SAMPLER.format(ports=" ".join(map(str, PORTS)), domain=DOMAIN)
            name_server.check_output("systemd-run --unit=tlsa-sampler sh -c %s", script)
            thread = threading.Thread(target=look)
            thread.start()
            try:
                yield samples
            finally:
                ended.set()
                thread.join()
                name_server.check_output("systemctl stop tlsa-sampler")
            lines = [line.split() for line in name_server.check_output("cat /run/tlsa.log").splitlines()]
        samples.published += [(float(when), int(port), set(names)) for when, port, *names in lines]

    return run


@pytest.fixture(scope="module", autouse=True)
def with_dane(deploy_certificates):
    """DANE is on; at the end it is off again."""
    outcome = deploy_certificates(certificates_dane_enabled=True, certificates_dane_ttl=TTL)
    assert outcome.returncode == 0, outcome.stdout
    yield
    outcome = deploy_certificates()
    assert outcome.returncode == 0, outcome.stdout


@pytest.fixture
def published(name_server):
    """A function that returns the digests that the name server has for a port."""

    def ask(port: int) -> set[str]:
        answer = name_server.check_output("dig +short @127.0.0.1 _%s._tcp.%s TLSA", str(port), DOMAIN)
        return {line.removeprefix("3 1 1 ").replace(" ", "") for line in answer.splitlines()}

    return ask


def wait_for(order, condition) -> str:
    """Let the host look, as its timer would, until a condition holds; return what it said."""
    said = ""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, said
        result = order(DOMAIN)
        assert result.rc == 0, result.stderr
        said += result.stdout
    return said


@pytest.mark.control("CERT-14")
def test_every_port_has_a_record_of_its_key(served, published, target, authority, evidence):
    key = digest(served(DOMAIN))
    for port in PORTS:
        assert published(port) == {key}
    every_key_has_its_record(target, authority, evidence)


@pytest.mark.control("CERT-14")
def test_a_rolled_key_is_never_without_its_record(order, served, published, sampled, evidence):
    old = digest(served(DOMAIN))
    with sampled() as samples:
        result = order("--renew", DOMAIN)
        assert result.rc == 0, result.stderr
        assert "it comes into use after" in result.stdout
        assert len(published(PORTS[0])) == 2
        wait_for(order, lambda: digest(served(DOMAIN)) != old)
        new = digest(served(DOMAIN))
        assert published(PORTS[0]) == {old, new}
        wait_for(order, lambda: published(PORTS[0]) == {new})
    assert {key for _, _, key in samples.served} == {old, new}
    assert not samples.without_match()
    evidence(f"{len(samples.published)} looks at the records and {len(samples.served)} at the ports during a roll-over")


@pytest.mark.control("CERT-14")
def test_a_key_whose_record_the_name_server_refuses_does_not_come_into_use(host, order, served, evidence):
    before = served(DOMAIN)
    file = "/etc/portcullis/acme/dns.ini"
    with host.sudo():
        host.check_output(f"cp {file} {file}.kept")
        host.check_output(f"sed -i 's/^dns_rfc2136_secret = .*/dns_rfc2136_secret = {'QUJD' * 11}/' {file}")
        try:
            result = order("--renew", DOMAIN)
        finally:
            host.check_output(f"mv {file}.kept {file}")
    assert result.rc == 1
    assert "the name server does not let the TLSA records be kept" in result.stderr
    assert served(DOMAIN) == before
    evidence(result.stderr.splitlines()[0])


@pytest.mark.control("CERT-14")
def test_without_dane_the_records_go_before_any_key_does(host, order, served, published, sampled, evidence):
    wait_for(order, lambda: len(published(PORTS[0])) == 1)
    old = digest(served(DOMAIN))
    with sampled() as samples:
        with host.sudo():
            host.check_output("python3 -c %s", OFF)
        result = order("--renew", DOMAIN)
        assert result.rc == 0, result.stderr
        assert "it comes into use after" in result.stdout
        assert published(PORTS[0]) == set()
        wait_for(order, lambda: digest(served(DOMAIN)) != old)
    assert not samples.without_match()
    evidence("the records are withdrawn, and for as long as they may be remembered no other key serves")
