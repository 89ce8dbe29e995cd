"""A server as a stranger finds it: by DNS and host-meta, as clients and other servers do, without a login.

What is found becomes an inventory of one host, so that the same tests judge it.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import dns.exception
import dns.resolver
import yaml

from plugins.filter.xmpp import domain_name

from .probes import http as web
from .probes import tls, xmpp
from .targets import Target

# RFC 6120 section 3.2.1 and XEP-0368: the records, and whether the domain itself is asked where there are none.
SERVICES = {
    xmpp.C2S: ("_xmpp-client._tcp", True),
    xmpp.C2S_DIRECT: ("_xmpps-client._tcp", False),
    xmpp.S2S: ("_xmpp-server._tcp", True),
    xmpp.S2S_DIRECT: ("_xmpps-server._tcp", False),
}
HTTP, HTTPS = 80, 443
HOST_META = "/.well-known/host-meta"
XRD = "{http://docs.oasis-open.org/ns/xri/xrd-1.0}"
WEBSOCKET, BOSH = "urn:xmpp:alt-connections:websocket", "urn:xmpp:alt-connections:xbosh"
PATIENCE = 5.0


class _Text(str):
    """A text that Ansible must not take for a template."""

    __slots__ = ()


@dataclass
class Found:
    """Where the services of a domain are: standard port -> address and port, or why there is none."""

    domain: str
    places: dict[int, tuple[str, int]] = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)

    def inventory(self, ca_file: Path) -> dict[str, Any]:
        """The inventory of one host that says the same."""
        first = next((address for address, _ in self.places.values()), self.domain)
        variables = {
            "xmpp_domain": _Text(self.domain),
            "xmpp_hosts": [{"domain": _Text(self.domain), "muc": False, "upload": False}],
            "xmpp_federation_enabled": bool({xmpp.S2S, xmpp.S2S_DIRECT} & set(self.places)),
            "verification_connect": _Text(first),
            "verification_addresses": {standard: _Text(address) for standard, (address, _) in self.places.items()},
            "verification_ports": {standard: port for standard, (_, port) in self.places.items()},
            "verification_absent": {standard: _Text(why) for standard, why in self.absent.items()},
            "verification_ca_file": _Text(ca_file),
        }
        return {"xmpp": {"hosts": {self.domain: variables}}}

    def write(self, path: Path, ca_file: Path) -> None:
        """Write the inventory, its texts as `!unsafe`: a stranger's words are no templates."""
        path.write_text(yaml.dump(self.inventory(ca_file), Dumper=_Dumper), encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Writes each value that is a text as Ansible's `!unsafe`."""


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


def discover(domain: str, connect: str | None = None, ca_file: Path = tls.SYSTEM_TRUST) -> Found:
    """Find the services of a domain; at `connect`, on the standard ports, where that is given. Never raises."""
    found = Found(domain)
    for standard, (service, fallback) in SERVICES.items():
        if connect:
            found.places[standard] = connect, standard
        else:
            _locate(found, standard, f"{service}.{domain}", fallback)
    for standard in (xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT):
        if standard in found.places and (connect or (standard == xmpp.S2S and found.places[standard][0] == domain)):
            _drop_if_refused(found, standard)
    _find_web(found, connect or domain, ca_file)
    return found


def records(name: str) -> list[tuple[str, int]]:
    """The targets of SRV records, the first choice first; a target "." is left out. Raises DNSException, ValueError."""
    try:
        answer = dns.resolver.resolve(name, "SRV", lifetime=PATIENCE)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        raise LookupError(f"there is no SRV record {name}") from None
    ordered = sorted(answer, key=lambda record: (record.priority, -record.weight))
    targets = [(record.target.to_text(omit_final_dot=True), record.port) for record in ordered]
    return [(endpoint(target), port) for target, port in targets if target not in ("", ".")]


def endpoint(name: str) -> str:
    """A host name or an address as it may stand in an inventory. Others choose it; Ansible would act on `{{`."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name.strip("[]")))
    return domain_name(name)


def _locate(found: Found, standard: int, name: str, fallback: bool) -> None:
    try:
        places = records(name)
    except LookupError as missing:
        if fallback:
            found.places[standard] = found.domain, standard
        else:
            found.absent[standard] = str(missing)
    except (dns.exception.DNSException, ValueError) as error:
        found.absent[standard] = f"{name}: {error}"
    else:
        if places:
            found.places[standard] = places[0]
        else:
            found.absent[standard] = f"{name} says that there is no such service"


def _drop_if_refused(found: Found, standard: int) -> None:
    """Take it for not offered where nothing listens: only what was announced must be there."""
    address, port = found.places[standard]
    try:
        tls.Channel.connect(address, port, PATIENCE).close()
    except OSError as error:
        del found.places[standard]
        found.absent[standard] = f"nothing answers at {address} port {port}: {error.strerror or error}"


def _find_web(found: Found, address: str, ca_file: Path) -> None:
    """Take the web front for offered where host-meta (XEP-0156) names a WebSocket or BOSH."""
    try:
        answer = web.request(address, HTTPS, found.domain, HOST_META, ca_file=ca_file)
        links = {link.get("rel") for link in ET.fromstring(answer.body).iter(f"{XRD}Link")}
    except (OSError, http.client.HTTPException, ET.ParseError) as error:
        why = f"https://{found.domain}{HOST_META}: {error}"
    else:
        if links & {WEBSOCKET, BOSH}:
            found.places[HTTPS] = address, HTTPS
            found.places[HTTP] = address, HTTP
            return
        why = f"https://{found.domain}{HOST_META} names neither WebSocket nor BOSH"
    found.absent[HTTPS] = found.absent[HTTP] = why


def troubles(target: Target) -> list[str]:
    """Why a host cannot be judged from outside: clients find nothing, or something that is no XMPP server."""
    clients = [standard for standard in (xmpp.C2S, xmpp.C2S_DIRECT) if standard not in target.absent]
    if not clients:
        return [
            f"{target.domain}: {why}"
            for standard, why in target.absent.items()
            if standard in (xmpp.C2S, xmpp.C2S_DIRECT)
        ]
    offered = [standard for standard in SERVICES if standard not in target.absent]
    with ThreadPoolExecutor(len(offered)) as pool:
        words = pool.map(lambda standard: trouble(*target.at(standard), standard, target.domain), offered)
    return [f"{target.domain}: {line}" for line in words if line]


def trouble(address: str, port: int, standard: int, domain: str, timeout: float = tls.TIMEOUT) -> str:
    """Why there is nothing to test on an XMPP port; "" where it speaks XMPP, or TLS where that comes first."""
    try:
        with tls.Channel.connect(address, port, timeout) as channel:
            _greet(channel, standard, domain)
    except TimeoutError:
        why = f"nothing within {timeout:g} s"
    except OSError as error:
        why = error.strerror or str(error)
    except ET.ParseError:
        why = "what answers there does not speak XMPP"
    except tls.Refused as refused:
        why = f"what answers there does not speak TLS: {refused}"
    except xmpp.StreamEnded as ended:
        # Other servers may be turned away for reasons of their own; a client must be let in.
        why = f"{ended} when asked for {domain}" if standard == xmpp.C2S else ""
    else:
        why = ""
    return f"{address} port {port}: {why}" if why else ""


def _greet(channel: tls.Channel, standard: int, domain: str) -> None:
    if standard in xmpp.DIRECT_TLS:
        channel.start_tls(tls.Offer(domain, minimum="TLSv1", ciphers=tls.EVERYTHING))
    else:
        sender = "peer.example" if standard == xmpp.S2S else ""
        xmpp.Stream(channel, domain, xmpp.namespace_of(standard), sender).open(channel.timeout)
