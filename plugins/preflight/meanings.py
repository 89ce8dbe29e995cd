"""What the value of a variable may mean.

To give a variable a meaning, add it to `MEANINGS`. A meaning is a function of the value, which already has the declared
shape: it raises `ValueError` with what is wanted, or yields findings `(where below the value, what is there, what is
wanted)`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from plugins.filter import xmpp

__all__ = ["MEANINGS", "PLACEHOLDER", "Finding", "Meaning", "findings", "secret"]

Finding = tuple[str, Any, str]
Meaning = Callable[[Any], "Iterator[Finding] | None"]

PLACEHOLDER = re.compile(
    r"<.*>|x{3,}|\*{3,}|\.{3}|(please[ _-]?)?(change|replace|fill)[ _-]?(me|this|it|in)?!?|todo|tbd|fixme|placeholder"
    r"|example|sample|default|none|null|test|admin|root|1234\d*"
    r"|((your|my|super|top|the|a)[ _-]?)*(password|passphrase|secret|token|key)[ _-]?(here|1|123)?",
    re.IGNORECASE,
)
ENCRYPTION_POLICIES = ("off", "advise", "require")
SECOND_FACTOR_POLICIES = ("off", "optional", "required")
CONTACT_KINDS = ("abuse", "admin", "feedback", "sales", "security", "status", "support")


def findings(meaning: Meaning, value: Any) -> Iterator[Finding]:
    """Yield what `meaning` finds wrong with `value`."""
    try:
        yield from meaning(value) or ()
    except ValueError as error:
        yield "", value, str(error)


def each(meaning: Meaning) -> Meaning:
    """Every entry of a list."""

    def check(value: Any) -> Iterator[Finding]:
        if value is None:
            raise ValueError("a list is wanted; to have none, leave the name out")
        for index, entry in enumerate(value):
            for where, got, wanted in findings(meaning, entry):
                yield f"[{index}]{where}", got, wanted

    return check


def keys(**meanings: Meaning) -> Meaning:
    """The keys of a mapping that are there."""

    def check(value: Any) -> Iterator[Finding]:
        if value is None:
            raise ValueError("a mapping is wanted; to have none, leave the name out")
        for key in meanings.keys() & value.keys():
            for where, got, wanted in findings(meanings[key], value[key]):
                yield f".{key}{where}", got, wanted

    return check


def then(first: Meaning, second: Meaning) -> Meaning:
    """The second meaning, if the first finds nothing."""

    def check(value: Any) -> Iterator[Finding]:
        found = list(findings(first, value))
        yield from found or findings(second, value)

    return check


def domain(value: Any) -> None:
    """A DNS name."""
    xmpp.domain_name(value)


def domain_or_none(value: Any) -> None:
    """A DNS name, or `false`."""
    if value is not False:
        xmpp.domain_name(value)


def address(value: Any) -> None:
    """A bare JID."""
    xmpp.bare_jid(value)


def domain_or_address(value: Any) -> None:
    """A DNS name or a bare JID."""
    if "@" in str(value):
        xmpp.bare_jid(value)
    else:
        xmpp.domain_name(value)


def distinct_hosts(value: Any) -> None:
    """The entries of `xmpp_hosts` together: no name is used twice."""
    xmpp.virtual_hosts(value)


def completed_hosts(value: Any) -> None:
    """What the filter `virtual_hosts` returns."""
    entries = [{key: entry[key] for key in entry if key != "names"} for entry in value]
    for entry in entries:
        entry.update({key: False for key in ("muc", "upload") if entry.get(key, False) is None})
    if not entries or xmpp.virtual_hosts(entries) != value:
        raise ValueError("a list as the filter virtual_hosts returns it is wanted; better set xmpp_hosts")


def between(lowest: int, highest: int, unit: str = "") -> Meaning:
    """A number within bounds."""

    def check(value: Any) -> None:
        if not lowest <= value <= highest:
            raise ValueError(f"a number from {lowest} to {highest}{unit and ' ' + unit} is wanted")

    return check


def port(value: Any) -> None:
    """A port number."""
    if not 1 <= value <= 65535:
        raise ValueError("a port from 1 to 65535 is wanted")


def ports(value: Any) -> None:
    """A port or a range of ports, such as `8443` or `49152-65535`."""
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(value))
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise ValueError("a port from 1 to 65535 or a range such as 49152-65535 is wanted")


def network(value: Any) -> None:
    """An IPv4 or IPv6 network in CIDR notation, or one address."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            nearest = f"; did you mean {ipaddress.ip_network(value, strict=False)}?"
        except ValueError:
            nearest = ""
        raise ValueError(f"a network such as 192.0.2.0/24 or 2001:db8::/32 is wanted{nearest}") from None


def duration(value: Any) -> None:
    """A period as Prosody reads it (util.human.io): a bare `m` is a month there, so units are written out."""
    if not re.fullmatch(r"[1-9]\d* (second|minute|hour|day|week|month|year)s?", str(value)):
        raise ValueError("a period such as 10 minutes, 4 weeks or 1 year is wanted")


def duration_or_never(value: Any) -> None:
    """A period, or `never`."""
    if value != "never":
        try:
            duration(value)
        except ValueError as error:
            raise ValueError(f"{error}, or never") from None


def rate(value: Any) -> None:
    """Bytes a second as mod_byte_rate reads them; it does not load with anything else."""
    if not re.fullmatch(r"[1-9]\d* ?[kmg]?b/s", str(value), re.IGNORECASE):
        raise ValueError("a rate such as 50kb/s is wanted")


def size(value: Any) -> None:
    """A size as journald's `SystemMaxUse=` reads it."""
    if not re.fullmatch(r"[1-9]\d*[KMGT]?", str(value)):
        raise ValueError("a size such as 512M or 2G is wanted")


def time_span(value: Any) -> None:
    """A time span as systemd reads it (systemd.time(7))."""
    units = "s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?|M|months?|y|years?"
    if not re.fullmatch(rf"\d+ ?({units})?( ?\d+ ?({units}))*", str(value)):
        raise ValueError("a time span such as 14day or 2 weeks is wanted")


def time_of_day(value: Any) -> None:
    """A time of the day."""
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", str(value)):
        raise ValueError('a time such as "04:00" is wanted, in quotes')


def time_server(value: Any) -> None:
    """A name or an address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        domain(value)


def listen_address(value: Any) -> None:
    """An address as nginx writes it, IPv6 in brackets."""
    match = re.fullmatch(r"\[(.+)\]|([\d.]+)", str(value))
    try:
        (ipaddress.IPv6Address if match and match[1] else ipaddress.IPv4Address)(match and (match[1] or match[2]))
    except ValueError:
        raise ValueError('an address such as 192.0.2.1 or "[2001:db8::1]" is wanted') from None


def update_origin(value: Any) -> None:
    """A pattern of Unattended-Upgrade::Origins-Pattern."""
    keys_known = "origin|codename|label|suite|archive|component|site|[oclnauts]"
    if not re.fullmatch(rf"({keys_known})=[^,=\s]+(,({keys_known})=[^,=\s]+)*", str(value)):
        raise ValueError("a pattern such as origin=Debian,codename=${distro_codename},label=Debian is wanted")


def memory(value: Any) -> None:
    """A size as systemd's `MemoryMax=` reads it."""
    if not re.fullmatch(r"[1-9]\d*[KMGT]?|([1-9]\d?|100)%|infinity", str(value)):
        raise ValueError("a size such as 512M or 2G, a share such as 70%, or infinity is wanted")


def email(value: Any) -> None:
    """A mail address (RFC 5321), in ASCII."""
    local, _, name = str(value).rpartition("@")
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", local):
        raise ValueError("a mail address such as admin@example.org is wanted")
    domain(name)


def contact(value: Any) -> None:
    """A contact address as XEP-0157 publishes it."""
    scheme, _, rest = str(value).partition(":")
    if scheme == "mailto":
        email(rest.partition("?")[0])
    elif scheme == "xmpp":
        target = rest.partition("?")[0]
        (address if "@" in target else domain)(target)
    elif scheme == "https":
        if not re.fullmatch(r"//[^\s/]+(/\S*)?", rest):
            raise ValueError("a URL such as https://example.org/contact is wanted")
    else:
        raise ValueError("a URI that begins with xmpp:, mailto: or https: is wanted")


def contacts(value: Mapping[str, Any]) -> Iterator[Finding]:
    """Lists of contact addresses by kind (XEP-0157)."""
    for kind, uris in value.items():
        if kind not in CONTACT_KINDS:
            yield f".{kind}", uris, f"the kind of contact must be one of {', '.join(CONTACT_KINDS)}"
        elif not isinstance(uris, list):
            yield f".{kind}", uris, "a list of URIs is wanted"
        else:
            for where, got, wanted in findings(each(contact), uris):
                yield f".{kind}{where}", got, wanted


def module_name(value: Any) -> None:
    """A Prosody module; its providers of authentication and storage are chosen by other options."""
    if not re.fullmatch(r"[a-z0-9_]+", str(value)):
        raise ValueError("the name of a Prosody module such as server_contact_info is wanted, without mod_ and .lua")
    if str(value).startswith(("mod_", "auth_", "storage_")):
        raise ValueError("a plain module is wanted, without mod_, and no provider of authentication or storage")


def fragment(value: Any) -> None:
    """The name of a template for /etc/prosody/conf.d."""
    if not str(value).endswith((".cfg.lua", ".cfg.lua.j2")):
        raise ValueError("a template whose name ends in .cfg.lua or .cfg.lua.j2 is wanted")


def certificate_files(value: Mapping[str, Any]) -> Iterator[Finding]:
    """Paths of a certificate and its key by domain."""
    for name, files in value.items():
        for where, got, wanted in findings(domain, name):
            yield f".{name}{where}", got, wanted
        if not isinstance(files, Mapping) or set(files) != {"certificate", "key"}:
            yield f".{name}", files, "two paths are wanted, certificate and key"
        else:
            for key, path in files.items():
                if not isinstance(path, str) or not path:
                    yield f".{name}.{key}", path, "the path of a PEM file on the control node is wanted"


def https_url(value: Any) -> None:
    """A URL of a web server with TLS."""
    if not re.fullmatch(r"https://[^\s/]+(/\S*)?", str(value)):
        raise ValueError("a URL such as https://acme.example.org/directory is wanted")


def email_or_empty(value: Any) -> None:
    """A mail address, or nothing."""
    if value != "":
        email(value)


def line(value: Any) -> None:
    """Text without line breaks, for a line of a configuration file."""
    if not str(value).isprintable():
        raise ValueError("text on a single line is wanted")


def agreement(value: Any) -> None:
    """The operator's word that a policy was read."""
    if value != "agreed":
        raise ValueError("agreed is wanted, once you have read by which policy the list is kept")


def hmac_key(value: Any) -> None:
    """A key in base64url (RFC 8555 section 7.3.4), or nothing."""
    if value != "" and not re.fullmatch(r"[A-Za-z0-9_-]{16,}={0,2}", str(value)):
        raise ValueError("a key in base64url is wanted, as the CA gives it")


def ip_address_or_empty(value: Any) -> None:
    """An IPv4 or IPv6 address, or nothing."""
    if value != "":
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("an address such as 192.0.2.53 or 2001:db8::53 is wanted") from None


def ip_address(value: Any) -> None:
    """An IPv4 or IPv6 address."""
    if value == "":
        raise ValueError("an address such as 192.0.2.1 or 2001:db8::1 is wanted")
    ip_address_or_empty(value)


def tsig_name(value: Any) -> None:
    """The name of a TSIG key, which is a domain name (RFC 8945 section 4.2), or nothing."""
    if value != "" and not re.fullmatch(r"(?=.{1,254}$)([A-Za-z0-9_-]{1,63}\.?)+", str(value)):
        raise ValueError("the name of a key such as portcullis or portcullis.example.org is wanted")


def tsig_secret(value: Any) -> None:
    """A TSIG key in base64, of at least 128 bits, or nothing."""
    text = str(value)
    if text and not (re.fullmatch(r"[A-Za-z0-9+/]{22,}={0,2}", text) and len(text) % 4 == 0):
        raise ValueError("a key in base64 is wanted, as tsig-keygen makes it")


def policies(*choices: str) -> Meaning:
    """One of the policies by domain."""

    def check(value: Mapping[str, Any]) -> Iterator[Finding]:
        for name, policy in value.items():
            for where, got, wanted in findings(domain, name):
                yield f".{name}{where}", got, wanted
            if policy not in choices:
                yield f".{name}", policy, f"one of {', '.join(choices)} is wanted (off in quotes)"

    return check


def label(value: Any) -> None:
    """A name that an authenticator app shows; a colon would end it (Key URI format of otpauth)."""
    if not re.fullmatch(r"[^\s:%/][^:%/\n]{0,62}[^\s:%/]|[^\s:%/]", str(value)):
        raise ValueError("a name of 1 to 64 characters without : / and % is wanted")


def first_password(value: Any) -> None:
    """What an account is created with."""
    if PLACEHOLDER.fullmatch(str(value).strip()) or not re.fullmatch(r"[^\x00-\x1f\x7f]{12,128}", str(value)):
        raise ValueError("a password of 12 to 128 characters on one line is wanted (openssl rand -base64 24 makes one)")


def secret(value: Any) -> None:
    """Something that nobody can guess; applied to every variable that looks like a secret."""
    text = str(value).strip()
    if not text or PLACEHOLDER.fullmatch(text):
        raise ValueError("a secret of your own is wanted, not a placeholder (openssl rand -base64 24 makes one)")


connection_limits = keys(
    rate=between(1, 100_000, "connections a second"),
    burst=between(5, 100_000, "connections"),
    connections=between(5, 1_000_000, "connections"),
)

MEANINGS: dict[str, Meaning] = {
    "xmpp_domain": domain,
    "xmpp_hosts": then(
        each(keys(domain=domain, muc=domain_or_none, upload=domain_or_none, web=domain)), distinct_hosts
    ),
    "xmpp_accounts": each(keys(jid=address, password=first_password)),
    "xmpp_admins": each(address),
    "bans_duration": between(10, 31_536_000, "seconds"),
    "bans_duration_max": between(10, 31_536_000, "seconds"),
    "bans_login_failures": between(5, 10_000),
    "bans_period": between(10, 86_400, "seconds"),
    "bans_ssh_failures": between(3, 1_000),
    "bans_trusted_sources": each(network),
    "certificates_acme_caa_identities": each(domain),
    "certificates_acme_contact": email_or_empty,
    "certificates_acme_directory": https_url,
    "certificates_acme_eab_id": line,
    "certificates_acme_eab_secret": hmac_key,
    "certificates_acme_preferred_chain": line,
    "certificates_acme_profile": line,
    "certificates_check_seconds": between(10, 86_400, "seconds"),
    "certificates_dane_ports": each(port),
    "certificates_dane_ttl": between(1, 86_400, "seconds"),
    "certificates_dns_key_name": tsig_name,
    "certificates_dns_key_secret": tsig_secret,
    "certificates_dns_port": port,
    "certificates_dns_propagation_seconds": between(0, 3600, "seconds"),
    "certificates_dns_server": ip_address_or_empty,
    "certificates_hosts": completed_hosts,
    "certificates_own_ca_days": between(7, 825, "days"),
    "certificates_provided": certificate_files,
    "dns_addresses": each(ip_address),
    "dns_file": line,
    "dns_hosts": completed_hosts,
    "dns_issuers": each(line),
    "dns_port": port,
    "dns_server": ip_address_or_empty,
    "dns_ttl": between(1, 604_800, "seconds"),
    "firewall_client_limits": connection_limits,
    "firewall_confirm_seconds": between(10, 3600, "seconds"),
    "firewall_open_ports": each(keys(port=ports, sources=each(network), limits=connection_limits)),
    "firewall_server_limits": connection_limits,
    "firewall_ssh_port": port,
    "firewall_ssh_sources": each(network),
    "firewall_tracked_sources": between(64, 16_777_216, "sources"),
    "firewall_trusted_sources": each(network),
    "firewall_web_limits": connection_limits,
    "host_confirm_seconds": between(10, 3600, "seconds"),
    "host_journal_retention": time_span,
    "host_journal_size": size,
    "host_reboot_time": time_of_day,
    "host_time_servers": each(time_server),
    "host_update_origins": each(update_origin),
    "mfa_devices_max": between(1, 50, "devices"),
    "mfa_grace_period": duration,
    "mfa_host_policies": policies(*SECOND_FACTOR_POLICIES),
    "mfa_hosts": completed_hosts,
    "mfa_issuer": label,
    "mfa_password_only_hosts": each(domain),
    "prosody_accounts": each(keys(jid=address, password=first_password)),
    "prosody_admins": each(address),
    "prosody_archive_expires_after": duration_or_never,
    "prosody_archive_messages": between(100, 10_000_000, "messages"),
    "prosody_blocklists": each(keys(service=domain_or_address, node=line, policy=agreement)),
    "prosody_c2s_rate": rate,
    "prosody_c2s_stanza_size": between(10_000, 10_000_000, "bytes (RFC 6120 section 13.12)"),
    "prosody_contact_requests_per_account": between(1, 100_000),
    "prosody_contacts": contacts,
    "prosody_contacts_per_account": between(10, 100_000),
    "prosody_denied_senders": each(domain_or_address),
    "prosody_e2ee_exceptions": each(domain_or_address),
    "prosody_e2ee_policies": policies(*ENCRYPTION_POLICIES),
    "prosody_extra_modules": each(module_name),
    "prosody_fragments": each(fragment),
    "prosody_hosts": completed_hosts,
    "prosody_invitation_expires_after": duration,
    "prosody_invitations_per_account": between(1, 100_000),
    "prosody_offline_messages_per_account": between(1, 100_000),
    "prosody_login_account_attempts": between(1, 1000),
    "prosody_login_address_attempts": between(1, 100_000),
    "prosody_login_period": duration,
    "prosody_memory_max": memory,
    "prosody_open_files": between(1024, 1_048_576),
    "prosody_password_length": between(8, 128, "characters"),
    "prosody_pep_nodes_per_account": between(10, 100_000),
    "prosody_resume_period": duration,
    "prosody_room_archive_expires_after": duration_or_never,
    "prosody_room_rate": between(1, 1000, "events a second"),
    "prosody_s2s_rate": rate,
    "prosody_s2s_queue_size": between(10, 32_768, "stanzas"),
    "prosody_s2s_stanza_size": between(10_000, 100_000_000, "bytes (RFC 6120 section 13.12)"),
    "prosody_server_calls_per_account": between(10, 100_000, "an hour"),
    "prosody_sessions_per_account": between(1, 10_000),
    "prosody_stanza_elements": between(100, 1_000_000),
    "prosody_stranger_recipients": between(1, 100_000, "people"),
    "prosody_tombstones_expire_after": duration_or_never,
    "prosody_upload_daily_quota": between(1, 2**50, "bytes"),
    "prosody_upload_expires_after": duration,
    "prosody_upload_global_quota": between(1, 2**50, "bytes"),
    "prosody_upload_size_limit": between(1, 2**40, "bytes"),
    "verifier_mail_to": each(email),
    "web_addresses": each(listen_address),
    "web_client_timeout": between(1, 300, "seconds"),
    "web_hosts": completed_hosts,
    "web_hsts_seconds": between(0, 2**31 - 1, "seconds"),
    "web_memory_max": memory,
    "web_requests_at_once": between(1, 100_000),
    "web_requests_per_second": between(1, 100_000),
    "web_upload_size_limit": between(1, 2**40, "bytes"),
}
