"""TLSA records of a virtual host's services, and when a new key may take the place of the old one (RFC 7671, RFC 7673).

A resolver keeps a TLSA record set for its time to live. So the record of a new key is published beside the one of the
key in use; the new key comes into service when every name server has had both for that time; and the old record goes
when the old key has been out of service for as long (RFC 7671 section 8.1). The first record of a name is published
once its key serves: without any record nobody asks for a match.

The records are `3 1 1`: the SHA-256 digest of the public key of the host's own certificate. They stand below the name
that the SRV records point to, one for each port.
"""

import contextlib
import hashlib
import json
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataset
import dns.rdatatype
import dns.resolver
import dns.tsigkeyring
import dns.update
from cryptography.hazmat.primitives import serialization

TIMEOUT = 10  # seconds, for an answer of a name server


class DnsTrouble(Exception):
    """What a name server refuses or lacks; the text is for the operator."""


def digest(private_key):
    """The certificate association data of `3 1 1` for a private key in PEM, in hexadecimal."""
    key = serialization.load_pem_private_key(private_key.encode(), password=None).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


class Primary:
    """The name server that takes dynamic updates (RFC 2136), as certbot's credentials describe it."""

    def __init__(self, credentials):
        lines = (line.partition(" = ") for line in Path(credentials).read_text().splitlines())
        values = {key.removeprefix("dns_rfc2136_"): value for key, _, value in lines}
        self.address, self.port = values["server"], int(values["port"])
        self.keyring = dns.tsigkeyring.from_text({values["name"]: values["secret"]})
        self.algorithm = values["algorithm"].lower()
        self.resolver = dns.resolver.Resolver(configure=False)
        self.resolver.nameservers, self.resolver.port = [self.address], self.port

    def tlsa(self, owner):
        """The digests of a name's `3 1 1` records, and their time to live in seconds."""
        try:
            answer = self.resolver.resolve(owner, "TLSA", lifetime=TIMEOUT)
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            return set(), 0
        return tlsa_digests(answer), answer.rrset.ttl

    def replace(self, owners, digests, ttl):
        """Make these the TLSA records of all owners, each zone in one step."""
        updates = {}
        for owner in owners:
            zone = dns.resolver.zone_for_name(owner, resolver=self.resolver)
            update = updates.setdefault(
                zone, dns.update.UpdateMessage(zone, keyring=self.keyring, keyalgorithm=self.algorithm)
            )
            update.delete(owner, "TLSA")
            for value in sorted(digests):
                update.add(owner, ttl, "TLSA", f"3 1 1 {value}")
        for zone, update in updates.items():
            code = dns.query.tcp(update, self.address, port=self.port, timeout=TIMEOUT).rcode()
            if code != dns.rcode.NOERROR:
                raise DnsTrouble(f"{self.address} does not take TLSA records for {zone}: {dns.rcode.to_text(code)}")


class Tlsa:
    """The TLSA records of one virtual host; `settings` is None where they are not wanted (any more)."""

    def __init__(self, domain, settings, credentials, state):
        self.settings = settings
        self.credentials = credentials
        self.path = Path(state)
        self.state = json.loads(self.path.read_text()) if self.path.exists() else {}
        if settings:
            target = settings["targets"][domain]
            self.owners = [f"_{port}._tcp.{target}." for port in settings["ports"]]
        else:
            self.owners = self.state.get("owners", [])

    def announce(self, old_key, new_key):
        """Publish a new key beside the old, or withdraw all where none is wanted any more.

        Returns when the new key may serve (seconds since 1970), None for now.
        """
        old, new = digest(old_key), digest(new_key)
        if old == new or not self.owners:
            return None
        with told():
            primary = Primary(self.credentials)
            live, ttl = self._live(primary)
            if not self.settings:
                self._withdraw(primary, live, ttl)
                return self._later(self.state.get("cleared", 0))
            if not any(live.values()):
                return None
            ready = self.state.setdefault("ready", {})
            if any(not {old, new} <= digests for digests in live.values()):
                primary.replace(self.owners, set().union({old, new}, *live.values()), self.settings["ttl"])
                self.state["asked"] = time.time()
                ready.pop(new, None)
            asked = self.state.setdefault("asked", time.time())
            if new not in ready:
                lagging = servers_without(self.owners, new)
                if not lagging:
                    ready[new] = time.time() + max(ttl, self.settings["ttl"])
                elif time.time() > asked + self.settings["propagation"]:
                    raise DnsTrouble(f"{', '.join(lagging)}: the TLSA records of the new key are not there yet")
        self._save()
        return self._later(ready.get(new, time.time() + 1))

    def settle(self, key):
        """See to it that the key in use has its records, and that those of former keys go in time."""
        if not self.owners:
            return
        with told():
            primary = Primary(self.credentials)
            live, ttl = self._live(primary)
            if not self.settings:
                self._withdraw(primary, live, ttl)
                return
            current = digest(key)
            retired = self.state.setdefault("retired", {})
            for value in set().union(*live.values()) - {current}:
                retired.setdefault(value, time.time() + max(ttl, self.settings["ttl"]))
            kept = {value for value in retired if value != current and self._later(retired[value])}
            if any(digests != kept | {current} for digests in live.values()):
                primary.replace(self.owners, kept | {current}, self.settings["ttl"])
        self.state = {"owners": self.owners, "retired": {value: retired[value] for value in kept}}
        self._save()

    def _withdraw(self, primary, live, ttl):
        if any(live.values()):
            primary.replace(self.owners, set(), 0)
            self.state["cleared"] = time.time() + ttl
            self._save()
        elif not self._later(self.state.get("cleared", 0)):
            self.path.unlink(missing_ok=True)

    def _live(self, primary):
        """The digests by owner as the primary has them, and the longest of their times to live."""
        answers = {owner: primary.tlsa(owner) for owner in self.owners}
        return {owner: digests for owner, (digests, _) in answers.items()}, max(ttl for _, ttl in answers.values())

    def _later(self, when):
        return when if when > time.time() else None

    def _save(self):
        """Keep the state, whole or not at all."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.state))
        new.replace(self.path)


@contextlib.contextmanager
def told():
    """Say in the operator's words what a name server answers."""
    try:
        yield
    except dns.exception.DNSException as error:
        raise DnsTrouble(f"the name server does not let the TLSA records be kept: {error}") from error


def servers_without(owners, value):
    """The zone's name servers that answer without a TLSA record of this digest for one of the owners."""
    lagging = []
    for owner in owners:
        zone = dns.resolver.zone_for_name(owner)
        for server in dns.resolver.resolve(zone, "NS"):
            for address in addresses_of(server.target):
                query = dns.message.make_query(owner, "TLSA")
                try:
                    answer, _ = dns.query.udp_with_fallback(query, address, timeout=TIMEOUT)
                except (OSError, dns.exception.DNSException):
                    continue  # nobody hears a former answer from it either
                records = answer.get_rrset(answer.answer, dns.name.from_text(owner), 1, dns.rdatatype.TLSA) or []
                if value not in tlsa_digests(records) and str(server.target) not in lagging:
                    lagging.append(str(server.target))
    return lagging


def addresses_of(name):
    """The addresses of a name server."""
    for kind in ("A", "AAAA"):
        try:
            yield from (record.address for record in dns.resolver.resolve(name, kind))
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            continue


def tlsa_digests(records):
    """The digests of the records that are `3 1 1`."""
    return {record.cert.hex() for record in records if (record.usage, record.selector, record.mtype) == (3, 1, 1)}
