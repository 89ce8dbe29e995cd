"""Names of an XMPP service: domain names, addresses, and the virtual hosts of a deployment.

The functions raise `ValueError` with a sentence for the operator; the filters turn it into Ansible's own error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

try:
    from ansible.errors import AnsibleFilterError
except ImportError:  # imported by a tool that runs without Ansible
    AnsibleFilterError = ValueError

__all__ = ["FilterModule", "bare_jid", "domain_name", "virtual_hosts"]

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NOT_IN_A_LOCALPART = re.compile(r"[\s\x00-\x20\x7f\"&'/:<>@]")


def domain_name(value: Any) -> str:
    """Return `value` as a lower-case DNS name without a final dot.

    RFC 1123 section 2.1, at least two labels. Internationalised names are refused: an XMPP address carries the Unicode
    form (RFC 7622 section 3.2) while certificates and the web carry the ASCII one, and the kit has one name for both.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a domain name such as example.org is wanted")
    name = value.lower().removesuffix(".")
    if not name.isascii() or any(label.startswith("xn--") for label in name.split(".")[:-1]):
        raise ValueError("internationalised domain names are not supported")
    if len(name) > 253:
        raise ValueError(f"a domain name has at most 253 characters, this one has {len(name)}")
    labels = name.split(".")
    for label in labels:
        if not LABEL.fullmatch(label):
            raise ValueError(
                f"'{label}' is not a domain label (1 to 63 letters, digits and hyphens, no hyphen at either end)"
            )
    if len(labels) < 2:
        raise ValueError("a full domain name such as example.org is wanted, not a single label")
    if labels[-1].isdigit():
        raise ValueError("a domain name is wanted, not an IP address")
    return name


def bare_jid(value: Any) -> str:
    """Return `value` as a normalised `local@domain` (RFC 7622 section 3): lower-case, no resource."""
    if not isinstance(value, str) or "@" not in value:
        raise ValueError("an address such as user@example.org is wanted")
    local, _, domain = value.partition("@")
    if "/" in domain:
        raise ValueError("a bare address is wanted, without a resource ('/...')")
    if not local or len(local.encode()) > 1023 or NOT_IN_A_LOCALPART.search(local):
        raise ValueError("the part before the @ is empty or holds a space or one of \" & ' / : < >")
    return f"{local.lower()}@{domain_name(domain)}"


def virtual_hosts(entries: Any) -> list[dict[str, Any]]:
    """Complete the entries of `xmpp_hosts`.

    Each result has `domain`, `muc` and `upload` (None where switched off), `web`, and `names`: every DNS name that the
    host's certificate needs, the domain first, each once.
    """
    if isinstance(entries, (str, Mapping)) or not isinstance(entries, Sequence):
        raise ValueError("a list of entries such as {domain: example.org} is wanted")
    if not entries:
        raise ValueError("at least one entry such as {domain: example.org} is wanted")
    hosts = [_virtual_host(position, entry) for position, entry in enumerate(entries)]
    _refuse_shared_names(hosts)
    return hosts


def _virtual_host(position: int, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"[{position}]: an entry such as {{domain: example.org}} is wanted")
    unknown = sorted(set(entry) - {"domain", "muc", "upload", "web"})
    if unknown:
        raise ValueError(f"[{position}]: unknown key {', '.join(unknown)}; known are domain, muc, upload, web")
    if "domain" not in entry:
        raise ValueError(f"[{position}]: domain is missing")

    def name_of(key: str, value: Any) -> str:
        try:
            return domain_name(value)
        except ValueError as error:
            raise ValueError(f"[{position}].{key} is {value!r}: {error}") from None

    domain = name_of("domain", entry["domain"])
    components = {
        key: None if value is False else name_of(key, value)
        for key, value in (
            ("muc", entry.get("muc", f"conference.{domain}")),
            ("upload", entry.get("upload", f"upload.{domain}")),
        )
    }
    web = name_of("web", entry.get("web", domain))
    names = list(dict.fromkeys(name for name in (domain, *components.values(), web) if name))
    return {"domain": domain, **components, "web": web, "names": names}


def _refuse_shared_names(hosts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a name with two meanings; only a host's own domain may be its web name too."""
    owners: dict[str, str] = {}
    for position, host in enumerate(hosts):
        for key in ("domain", "muc", "upload", "web"):
            name, owner = host[key], f"[{position}].{key}"
            if not name or (key == "web" and name == host["domain"]):
                continue
            if name in owners:
                raise ValueError(f"{name} is both {owners[name]} and {owner}; each needs a name of its own")
            owners[name] = owner


def _filter(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        try:
            return function(value)
        except ValueError as error:
            raise AnsibleFilterError(f"{function.__name__}: {error}") from error

    return apply


class FilterModule:
    """Filters for templates and defaults."""

    def filters(self) -> dict[str, Callable[[Any], Any]]:
        """The filters by name."""
        return {"virtual_hosts": _filter(virtual_hosts)}
