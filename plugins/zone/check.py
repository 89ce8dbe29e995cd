"""What the authoritative name servers say, beside what they should."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

from plugins.zone.records import RecordSet, snippet

__all__ = ["Authority", "Finding", "compare", "report", "validated"]

TIMEOUT = 5.0  # seconds, for an answer
ALIASES = 8
"""How many CNAME records are followed."""
MARKS = {"good": "✓", "missing": "✗", "differs": "≠"}


class Authority:
    """The authoritative name servers: one given by address and port, or those that the delegations lead to."""

    def __init__(self, server: str = "", port: int = 53) -> None:
        self._server = server
        self._port = port

    def ask(self, name: str, kind: str) -> tuple[str, ...]:
        """The records of a name, sorted, aliases followed. Raises dns.exception.DNSException, OSError."""
        owner, sought = dns.name.from_text(name), dns.rdatatype.from_text(kind)
        for _ in range(ALIASES):
            query = dns.message.make_query(owner, sought)
            answer = dns.query.tcp(query, self._address(owner), port=self._port, timeout=TIMEOUT)
            if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                raise dns.exception.DNSException(f"{owner} {kind}: {dns.rcode.to_text(answer.rcode())}")
            assert isinstance(answer, dns.message.QueryMessage)
            chain = answer.resolve_chaining()
            if chain.answer is not None:
                return tuple(sorted(record.to_text() for record in chain.answer))
            if chain.canonical_name == owner:
                return ()
            owner = chain.canonical_name
        raise dns.exception.DNSException(f"{name} is an alias of an alias without an end")

    def _address(self, owner: dns.name.Name) -> str:
        return self._server or _primary(dns.resolver.zone_for_name(owner))


@functools.cache
def _primary(zone: dns.name.Name) -> str:
    """The address of one of the zone's name servers."""
    for server in dns.resolver.resolve(zone, "NS"):
        for kind in ("A", "AAAA"):
            try:
                return dns.resolver.resolve(server.target, kind)[0].address
            except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
                continue
    raise dns.exception.DNSException(f"no name server of {zone} has an address")


def validated(name: str, kind: str) -> bool:
    """Whether the resolver of this machine says that it validated the answer (the AD bit, RFC 4035 section 3.2.3)."""
    resolver = dns.resolver.Resolver()
    resolver.use_edns(0, dns.flags.DO, 1232)
    try:
        answer = resolver.resolve(f"{name}.", kind, lifetime=TIMEOUT, raise_on_no_answer=False)
    except dns.exception.DNSException:
        return False
    return bool(answer.response.flags & dns.flags.AD)


@dataclass(frozen=True)
class Finding:
    """A record set that is wanted, the records that are there, and what to call that."""

    wanted: RecordSet
    there: tuple[str, ...]

    @property
    def state(self) -> str:
        """`good`, `missing` or `differs`."""
        if _fits(self.wanted, self.there):
            return "good"
        return "differs" if self.there else "missing"


def _fits(wanted: RecordSet, there: Sequence[str]) -> bool:
    """Priorities and weights are the operator's, and so are other CAs; former keys may keep their TLSA records."""
    if wanted.kind == "SRV":
        return set(map(_destination, there)) == set(map(_destination, wanted.data))
    if wanted.kind == "CAA":
        ours = {_issuer(text)[0] for text in wanted.data}
        return {_issuer(text) for text in there if _issuer(text)[0] in ours} == set(map(_issuer, wanted.data))
    if wanted.kind == "TLSA":
        return set(wanted.data) <= set(there)
    return set(wanted.data) == set(there)


def _destination(srv: str) -> tuple[str, ...]:
    """Port and target of an SRV record in text."""
    return tuple(srv.lower().split()[2:])


def _issuer(caa: str) -> tuple[str, frozenset[str]]:
    """The property with its issuer, and the parameters, of a CAA record in text."""
    _flags, tag, value = caa.split(" ", 2)
    issuer, *parameters = (part.strip() for part in value.strip('"').split(";"))
    return f"{tag} {issuer}", frozenset(parameters)


def compare(zones: Mapping[str, Sequence[RecordSet]], authority: Authority) -> dict[str, list[Finding]]:
    """Ask for every record set. Raises dns.exception.DNSException and OSError when nobody answers."""
    return {
        domain: [Finding(entry, authority.ask(entry.name, entry.kind)) for entry in entries]
        for domain, entries in zones.items()
    }


def report(
    findings: Mapping[str, Sequence[Finding]], ttl: int, secure: Mapping[str, bool], remarks: Iterable[str] = ()
) -> str:
    """What there is and what to do, to be read in a terminal; `secure` has the AD bit by name of a TLSA record."""
    lines: list[str] = []
    for domain, entries in findings.items():
        width = max(len(entry.wanted.name) for entry in entries) + 1
        lines += ["", domain]
        for entry in entries:
            wanted = ", ".join(entry.wanted.data) or "none"
            if entry.wanted.data or entry.there:
                name = f"{entry.wanted.name}."
                lines.append(f"  {MARKS[entry.state]} {name:<{width}} {entry.wanted.kind:<4} {wanted}".rstrip())
            if entry.state == "differs":
                lines.append(f"    {'':<{width}} there is {', '.join(entry.there)}")
    unsafe = [name for name, is_secure in secure.items() if not is_secure]
    if unsafe:
        lines += ["", f"! DNSSEC: the resolver of this machine does not vouch for {unsafe[0]}."]
        lines += [
            "  The zone is not signed, or the resolver does not validate; TLSA records count in a signed zone alone."
        ]
    elif secure:
        lines += ["", "✓ DNSSEC: the resolver of this machine vouches for the TLSA records."]
    for remark in remarks:
        lines += ["", f"! {remark}"]
    todo = {
        domain: [entry.wanted for entry in entries if entry.state != "good"] for domain, entries in findings.items()
    }
    if any(entry.data for entries in todo.values() for entry in entries):
        lines += ["", "To be created, or to replace what differs:", "", snippet(todo, ttl).rstrip("\n")]
    return "\n".join(lines).lstrip("\n")
