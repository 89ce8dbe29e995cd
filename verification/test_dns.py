"""What the DNS says of the server, asked of the authoritative name servers."""

from __future__ import annotations

import socket

import dns.exception
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from plugins.zone.check import Authority, compare
from plugins.zone.records import needed, tlsa
from verification.test_certificates import handshake


@pytest.fixture
def authority(target) -> Authority:
    """The name servers to ask; a laboratory has none but its own."""
    server = str(target.variables["dns_server"])
    if target.throw_away and not server:
        pytest.skip("not shown: this laboratory has no name server")
    return Authority(server, int(target.variables["dns_port"]))


def addresses_of(target) -> list[str]:
    """The public addresses of the server."""
    found = socket.getaddrinfo(target.address, None, type=socket.SOCK_STREAM)
    return list(target.variables["dns_addresses"]) or sorted({str(entry[4][0]) for entry in found})


@pytest.mark.kit
@pytest.mark.control("CERT-21")
def test_the_dns_says_what_the_virtual_hosts_need(target, authority, evidence):
    hosts = target.variables.render("dns_hosts")
    zones = needed(hosts, addresses_of(target), federation=target.federates)
    try:
        found = compare(zones, authority)
    except (dns.exception.DNSException, OSError) as error:
        pytest.skip(f"not shown: the DNS does not answer: {error}")
    wrong = [entry for entries in found.values() for entry in entries if entry.state != "good"]
    assert not [f"{entry.wanted.name} {entry.wanted.kind}: {entry.there or 'missing'}" for entry in wrong]
    for domain, entries in found.items():
        evidence(f"{domain}: {len(entries)} record sets are as they should be")


def key_served(target, port: int, domain: str) -> str:
    """The TLSA record of the key that a port presents."""
    with handshake(target, port, domain) as channel:
        key = channel.chain[0].public_key()
    return tlsa(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def every_key_has_its_record(target, authority: Authority, evidence) -> None:
    """Compare what each port presents with what the DNS says of it."""
    for host in target.hosts:
        for port in target.variables["certificates_dane_ports"]:
            name = f"_{port}._tcp.{host.web}"
            assert key_served(target, port, host.domain) in authority.ask(name, "TLSA"), name
            evidence(f"{name} has the key that {host.domain} presents")


@pytest.mark.kit
@pytest.mark.control("CERT-14")
def test_the_key_of_every_port_has_its_tlsa_record(target, authority, evidence):
    if not target.variables["certificates_dane_enabled"]:
        pytest.skip("DANE is off")
    every_key_has_its_record(target, authority, evidence)
