"""Which records a zone needs for the virtual hosts, and how they are written in a zone file (RFC 1035 section 5)."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dns.rdata
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

__all__ = ["RecordSet", "needed", "notes", "snippet", "tlsa"]

CLIENT_SERVICES = {"_xmpp-client": 5222, "_xmpps-client": 5223}
"""RFC 6120 section 3.2.1 and XEP-0368."""
SERVER_SERVICES = {"_xmpp-server": 5269, "_xmpps-server": 5270}
NOT_OFFERED = "0 0 0 ."
"""The service is decidedly not there (RFC 2782): nobody falls back to the address of the domain."""


@dataclass(frozen=True)
class RecordSet:
    """All records of a type that a name must have; `data` empty: there must be none. `name` ends without a dot."""

    name: str
    kind: str
    data: tuple[str, ...]

    @classmethod
    def of(cls, name: str, kind: str, data: Iterable[str]) -> RecordSet:
        """The records in the form in which name servers give them."""
        return cls(name, kind, tuple(sorted(dns.rdata.from_text("IN", kind, text).to_text() for text in data)))


def needed(
    hosts: Sequence[Mapping[str, Any]],
    addresses: Sequence[str],
    *,
    federation: bool = True,
    issuers: Sequence[str] = (),
    tlsa_data: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, list[RecordSet]]:
    """The record sets by virtual host.

    `hosts` as the filter `virtual_hosts` returns them; `issuers` are values of CAA issue properties (RFC 8659);
    `tlsa_data` has, by domain, `ports` and the `public_key` in PEM that they serve.
    """
    return {
        host["domain"]: [
            *_addresses(host, addresses),
            *_services(host, federation),
            *_issuers(host, issuers),
            *_tlsa(host, (tlsa_data or {}).get(host["domain"])),
        ]
        for host in hosts
    }


def _addresses(host: Mapping[str, Any], addresses: Sequence[str]) -> Iterator[RecordSet]:
    """Every name but a domain whose website is elsewhere."""
    for name in host["names"]:
        if name != host["domain"] or host["web"] == host["domain"]:
            for kind, version in (("A", 4), ("AAAA", 6)):
                yield RecordSet.of(name, kind, (a for a in addresses if ipaddress.ip_address(a).version == version))


def _services(host: Mapping[str, Any], federation: bool) -> Iterator[RecordSet]:
    for service, port in CLIENT_SERVICES.items():
        yield RecordSet.of(f"{service}._tcp.{host['domain']}", "SRV", [f"0 5 {port} {host['web']}."])
    for name in filter(None, (host["domain"], host["muc"])):
        for service, port in SERVER_SERVICES.items():
            target = f"0 5 {port} {host['web']}." if federation else NOT_OFFERED
            yield RecordSet.of(f"{service}._tcp.{name}", "SRV", [target])


def _issuers(host: Mapping[str, Any], issuers: Sequence[str]) -> Iterator[RecordSet]:
    """One set holds for all names below (RFC 8659 section 3)."""
    outside = [name for name in host["names"] if name != host["domain"] and not name.endswith(f".{host['domain']}")]
    for name in (host["domain"], *outside) if issuers else ():
        yield RecordSet.of(name, "CAA", (f'0 issue "{issuer}"' for issuer in issuers))


def _tlsa(host: Mapping[str, Any], data: Mapping[str, Any] | None) -> Iterator[RecordSet]:
    """Below the name that the SRV records point to (RFC 7673 section 3.2)."""
    for port in data["ports"] if data else ():
        assert data
        yield RecordSet.of(f"_{port}._tcp.{host['web']}", "TLSA", [tlsa(data["public_key"])])


def tlsa(public_key: str) -> str:
    """The TLSA record `3 1 1` of a public key in PEM (RFC 6698 section 2.1)."""
    der = load_pem_public_key(public_key.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(der).hexdigest()}"


def snippet(zones: Mapping[str, Sequence[RecordSet]], ttl: int) -> str:
    """The records as lines of a zone file, a comment before those of each virtual host."""
    lines = []
    width = max((len(entry.name) + 1 for entries in zones.values() for entry in entries if entry.data), default=0)
    for domain, entries in zones.items():
        lines += [f"; {domain}"] if any(entry.data for entry in entries) else []
        lines += [f"{f'{e.name}.':<{width}} {ttl} IN {e.kind:<4} {text}" for e in entries for text in e.data]
    return "".join(f"{line}\n" for line in lines)


def notes(hosts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What no record can say: how web clients find a host whose website is elsewhere."""
    for host in hosts:
        if host["web"] != host["domain"]:
            yield (
                f"The website of {host['domain']} has to redirect /.well-known/host-meta and host-meta.json\n"
                f"  to https://{host['web']}; _xmppconnect TXT records are obsolete (XEP-0156)."
            )
