"""What must hold between variables, facts and files.

A rule is a function that yields problems; its docstring says what it asks for. `@rule` names the variables it reads,
and it runs when each of them is declared and sound in itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugins.filter.xmpp import domain_name
from plugins.preflight.deployment import Deployment, Problem, problem

__all__ = ["RULES", "Rule"]

Check = Callable[[Deployment], Iterator[Problem]]

KIT_PORTS = {
    80: "HTTP",
    443: "HTTPS",
    5222: "XMPP clients",
    5223: "XMPP clients over TLS",
    5269: "XMPP servers",
    5270: "XMPP servers over TLS",
}
FEDERATION_PORTS = (5269, 5270)
LOOPBACK_PORTS = {5280: "Prosody's HTTP", 5281: "Prosody's HTTPS", 5582: "Prosody's telnet console"}


@dataclass(frozen=True)
class Rule:
    """A check and the variables it reads."""

    check: Check
    reads: tuple[str, ...]


RULES: list[Rule] = []


def rule(*reads: str) -> Callable[[Check], Check]:
    """Register a check that reads the variables `reads`."""

    def register(check: Check) -> Check:
        RULES.append(Rule(check, reads))
        return check

    return register


@rule()
def platform(deployment: Deployment) -> Iterator[Problem]:
    """The host is Debian 13."""
    facts = deployment.facts
    name, release = facts.get("distribution"), str(facts.get("distribution_major_version", ""))
    found = f"{name} {release}".strip()
    if name is None:
        yield Problem("ansible_facts.distribution", "missing", "the play must gather the fact before preflight runs")
    elif name != "Debian":
        yield Problem("ansible_facts.distribution", found, "a host with Debian 13 is wanted")
    elif release == "12":
        wanted = (
            "Debian 13 is wanted; the Prosody 13 of Debian 12's backports lacks the fixes for CVE-2026-43504 to -43507 "
            "(anyone can exhaust the server's memory)"
        )
        yield Problem("ansible_facts.distribution", found, wanted)
    elif release != "13":
        yield Problem("ansible_facts.distribution", found, "Debian 13 is wanted; no other release is tested")


@rule()
def service_manager(deployment: Deployment) -> Iterator[Problem]:
    """The host runs systemd, whose sandbox and timers the roles use."""
    manager = deployment.facts.get("service_mgr")
    if manager != "systemd":
        yield Problem("ansible_facts.service_mgr", str(manager or "missing"), "a host that runs systemd is wanted")


@rule("xmpp_domain", "xmpp_hosts")
def primary_domain_is_served(deployment: Deployment) -> Iterator[Problem]:
    """`xmpp_hosts`, where given, has an entry for `xmpp_domain`."""
    hosts = deployment.values.get("xmpp_hosts")
    domain = deployment.values["xmpp_domain"]
    if hosts and domain_name(domain) not in {domain_name(host["domain"]) for host in hosts}:
        yield problem("xmpp_domain", domain, "the domain of one of the entries of xmpp_hosts is wanted")


@rule("prosody_admins", "prosody_hosts")
def admins_are_local(deployment: Deployment) -> Iterator[Problem]:
    """Every administrator has an account on a domain of this server."""
    served = [host["domain"] for host in deployment.values["prosody_hosts"]]
    variable = deployment.origin("prosody_admins")
    for index, admin in enumerate(deployment.values["prosody_admins"]):
        if admin.partition("@")[2].lower() not in served:
            yield problem(f"{variable}[{index}]", admin, f"an address on {' or '.join(served)} is wanted")


@rule("prosody_accounts", "prosody_hosts")
def accounts_are_local(deployment: Deployment) -> Iterator[Problem]:
    """Every account that is looked after is on a domain of this server, and named once."""
    served = [host["domain"] for host in deployment.values["prosody_hosts"]]
    variable = deployment.origin("prosody_accounts")
    seen: set[str] = set()
    for index, account in enumerate(deployment.values["prosody_accounts"]):
        jid = str(account.get("jid", "")).lower()
        if jid.partition("@")[2] not in served:
            yield problem(f"{variable}[{index}].jid", jid, f"an address on {' or '.join(served)} is wanted")
        if jid in seen:
            yield problem(f"{variable}[{index}].jid", jid, "each account once is wanted")
        seen.add(jid)


@rule("prosody_hosts", "certificates_hosts")
def prosody_hosts_have_certificates(deployment: Deployment) -> Iterator[Problem]:
    """Prosody serves no name that has no certificate."""
    yield from _without_certificate(deployment, "prosody_hosts")


@rule("prosody_e2ee_policies", "prosody_hosts")
def encryption_policies_are_for_our_services(deployment: Deployment) -> Iterator[Problem]:
    """Each policy of end-to-end encryption is for a virtual host or a room service of this server."""
    hosts = deployment.values["prosody_hosts"]
    served = [host[key] for host in hosts for key in ("domain", "muc") if host[key]]
    for name in deployment.values["prosody_e2ee_policies"]:
        if name not in served:
            wanted = f"a virtual host or room service of this server is wanted: {', '.join(served)}"
            yield problem("prosody_e2ee_policies", name, wanted)


@rule("prosody_denied_senders", "prosody_hosts")
def denied_senders_are_elsewhere(deployment: Deployment) -> Iterator[Problem]:
    """Nobody of this server is denied: an account here is suspended instead."""
    served = {name for host in deployment.values["prosody_hosts"] for name in host["names"]}
    variable = deployment.origin("prosody_denied_senders")
    for index, sender in enumerate(deployment.values["prosody_denied_senders"]):
        domain = domain_name(sender.rpartition("@")[2])
        whole = "@" not in sender
        if any(name == domain or (whole and name.endswith(f".{domain}")) for name in served):
            wanted = "a domain or address elsewhere is wanted; an account here is suspended (docs/policies.md)"
            yield problem(f"{variable}[{index}]", sender, wanted)


@rule("mfa_host_policies", "mfa_hosts")
def second_factor_policies_are_for_our_hosts(deployment: Deployment) -> Iterator[Problem]:
    """Each policy of the second factor is for a virtual host of this server."""
    yield from _not_of_ours(deployment, "mfa_host_policies", list(deployment.values["mfa_host_policies"]))


@rule("mfa_password_only_hosts", "mfa_hosts")
def password_only_hosts_are_ours(deployment: Deployment) -> Iterator[Problem]:
    """Each host whose accounts may lose their second factor is one of this server."""
    yield from _not_of_ours(deployment, "mfa_password_only_hosts", deployment.values["mfa_password_only_hosts"])


def _not_of_ours(deployment: Deployment, variable: str, domains: list[str]) -> Iterator[Problem]:
    served = [host["domain"] for host in deployment.values["mfa_hosts"]]
    for name in domains:
        if name not in served:
            yield problem(variable, name, f"a domain of this server is wanted: {', '.join(served)}")


@rule("web_hosts", "certificates_hosts")
def web_hosts_have_certificates(deployment: Deployment) -> Iterator[Problem]:
    """nginx serves no name that has no certificate."""
    yield from _without_certificate(deployment, "web_hosts")


def _without_certificate(deployment: Deployment, variable: str) -> Iterator[Problem]:
    certified = {host["domain"]: set(host["names"]) for host in deployment.values["certificates_hosts"]}
    for host in deployment.values[variable]:
        missing = set(host["names"]) - certified.get(host["domain"], set())
        if missing:
            wanted = f"certificates_hosts must have {', '.join(sorted(missing))} too; xmpp_hosts sets both"
            yield problem(variable, host["domain"], wanted)


@rule("web_websocket_enabled", "prosody_websocket_enabled")
def websocket_has_a_server(deployment: Deployment) -> Iterator[Problem]:
    """nginx offers no WebSocket that Prosody does not answer."""
    yield from _not_served(deployment, "web_websocket_enabled", "prosody_websocket_enabled")


@rule("web_bosh_enabled", "prosody_bosh_enabled")
def bosh_has_a_server(deployment: Deployment) -> Iterator[Problem]:
    """nginx offers no BOSH that Prosody does not answer."""
    yield from _not_served(deployment, "web_bosh_enabled", "prosody_bosh_enabled")


def _not_served(deployment: Deployment, offer: str, service: str) -> Iterator[Problem]:
    if deployment.values[offer] and not deployment.values[service]:
        yield problem(offer, True, f"false is wanted, as {service} is false")


@rule("firewall_ssh_sources")
def operator_may_come_in(deployment: Deployment) -> Iterator[Problem]:
    """At least one network may reach SSH."""
    sources = deployment.values["firewall_ssh_sources"]
    if not sources:
        yield problem("firewall_ssh_sources", sources, "a network that may reach SSH is wanted, or nobody could log in")


@rule("firewall_ssh_port")
def ssh_has_its_own_port(deployment: Deployment) -> Iterator[Problem]:
    """SSH does not listen where the kit's services do."""
    port = deployment.values["firewall_ssh_port"]
    service = (KIT_PORTS | LOOPBACK_PORTS).get(port)
    if service:
        yield problem("firewall_ssh_port", port, f"another port is wanted, this one is for {service}")


@rule("bans_duration", "bans_duration_max")
def a_ban_is_no_longer_than_the_longest(deployment: Deployment) -> Iterator[Problem]:
    """A first ban lasts no longer than any may."""
    first, longest = deployment.values["bans_duration"], deployment.values["bans_duration_max"]
    if first > longest:
        yield problem("bans_duration", first, f"at most bans_duration_max is wanted, which is {longest}")


@rule("firewall_open_ports", "firewall_ssh_port", "prosody_federation_enabled")
def opened_ports_are_for_others(deployment: Deployment) -> Iterator[Problem]:
    """The operator opens no port that the kit opens itself with limits, or keeps closed on purpose."""
    values = deployment.values
    reasons = {port: f"a role of the kit opens it, with its limits, for {use}" for port, use in KIT_PORTS.items()}
    reasons |= {port: f"it must stay closed, {use} is for this host alone" for port, use in LOOPBACK_PORTS.items()}
    reasons[values["firewall_ssh_port"]] = "SSH is opened by firewall_ssh_sources"
    if not values["prosody_federation_enabled"]:
        closed = f"it must stay closed, {deployment.origin('prosody_federation_enabled')} is false"
        reasons |= dict.fromkeys(FEDERATION_PORTS, closed)
    for index, entry in enumerate(values["firewall_open_ports"]):
        first, _, last = str(entry["port"]).partition("-")
        for port, reason in reasons.items():
            if entry.get("protocol", "tcp") == "tcp" and int(first) <= port <= int(last or first):
                yield problem(f"firewall_open_ports[{index}].port", entry["port"], f"port {port} clashes; {reason}")


@rule("firewall_open_ports")
def a_port_has_its_limits_once(deployment: Deployment) -> Iterator[Problem]:
    """What limits a port stands in one place, for all who may reach it."""
    limited: dict[tuple[str, str], int] = {}
    for index, entry in enumerate(deployment.values["firewall_open_ports"]):
        if "limits" in entry:
            place = str(entry["port"]), entry.get("protocol", "tcp")
            if place in limited:
                before = f"firewall_open_ports[{limited[place]}]"
                wanted = f"{before} limits this port already; name all its sources there"
                yield problem(f"firewall_open_ports[{index}].port", entry["port"], wanted)
            limited.setdefault(place, index)


@rule("prosody_upload_size_limit", "prosody_upload_daily_quota")
def a_file_fits_the_daily_quota(deployment: Deployment) -> Iterator[Problem]:
    """The largest file can be uploaded within a day's quota."""
    yield from _not_above(deployment, "prosody_upload_size_limit", "prosody_upload_daily_quota")


@rule("prosody_upload_daily_quota", "prosody_upload_global_quota")
def a_daily_quota_fits_the_disk_quota(deployment: Deployment) -> Iterator[Problem]:
    """One account cannot be promised more than there is for all."""
    yield from _not_above(deployment, "prosody_upload_daily_quota", "prosody_upload_global_quota")


@rule("prosody_upload_size_limit", "web_upload_size_limit")
def a_file_passes_the_web_server(deployment: Deployment) -> Iterator[Problem]:
    """nginx lets the largest file through."""
    yield from _not_above(deployment, "prosody_upload_size_limit", "web_upload_size_limit")


@rule("prosody_login_account_attempts", "prosody_login_address_attempts")
def an_address_holds_several_accounts(deployment: Deployment) -> Iterator[Problem]:
    """The limit for an address is not below the one for a single account on it."""
    yield from _not_above(deployment, "prosody_login_account_attempts", "prosody_login_address_attempts")


def _not_above(deployment: Deployment, lower: str, upper: str) -> Iterator[Problem]:
    low, high = deployment.values[lower], deployment.values[upper]
    if low > high:
        yield problem(lower, low, f"at most {upper} is wanted, which is {high}")


@rule("prosody_fragments")
def fragments_have_names_of_their_own(deployment: Deployment) -> Iterator[Problem]:
    """Each fragment exists and has a file name of its own on the host."""
    seen: dict[str, str] = {}
    for index, name in enumerate(deployment.values["prosody_fragments"]):
        variable = f"prosody_fragments[{index}]"
        target = Path(name).name.removesuffix(".j2")
        if target in seen:
            yield problem(variable, name, f"a file name of its own is wanted, {seen[target]} has the same")
        seen[target] = name
        if not deployment.find("templates", deployment.role("prosody"), name):
            yield problem(variable, name, "a template on the control node is wanted, no such file was found")


@rule()
def templates_exist(deployment: Deployment) -> Iterator[Problem]:
    """Every `<role>_..._template` that the operator set is a file on the control node."""
    for role in deployment.roles:
        for variable in role.options:
            name = deployment.values.get(variable)
            chosen = variable.endswith("_template") and deployment.is_chosen(variable)
            if chosen and isinstance(name, str) and not deployment.find("templates", role, name):
                yield problem(variable, name, "a template on the control node is wanted, no such file was found")


@rule("certificates_provider", "certificates_ca_directory")
def own_ca_can_be_kept(deployment: Deployment) -> Iterator[Problem]:
    """The directory of the own CA can be written, or made, by whoever runs Ansible."""
    if deployment.values["certificates_provider"] == "provided":
        return
    directory = Path(deployment.values["certificates_ca_directory"]).expanduser()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        wanted = f"a directory on the control node that can be written is wanted, {nearest} cannot"
        yield problem("certificates_ca_directory", str(directory), wanted)


@rule("certificates_provider", "certificates_acme_terms")
def terms_of_the_ca_are_agreed(deployment: Deployment) -> Iterator[Problem]:
    """The operator agreed to the terms of service of the CA."""
    terms = deployment.values["certificates_acme_terms"]
    if deployment.values["certificates_provider"] == "acme" and terms != "agreed":
        wanted = "agreed is wanted, once you have read the terms of service of the CA"
        yield problem("certificates_acme_terms", terms, wanted)


@rule("certificates_acme_eab_id", "certificates_acme_eab_secret")
def an_account_binding_is_whole(deployment: Deployment) -> Iterator[Problem]:
    """An external account binding has its identifier and its key, or neither."""
    for variable, other in (
        ("certificates_acme_eab_id", "certificates_acme_eab_secret"),
        ("certificates_acme_eab_secret", "certificates_acme_eab_id"),
    ):
        if deployment.values[other] and not deployment.values[variable]:
            yield problem(variable, "", f"what belongs to {other} is wanted")


@rule("certificates_dns_server", "certificates_dns_key_name", "certificates_dns_key_secret")
def dynamic_updates_are_whole(deployment: Deployment) -> Iterator[Problem]:
    """A name server that takes updates has its address, the name of its key and the key, or none of them."""
    variables = ("certificates_dns_server", "certificates_dns_key_name", "certificates_dns_key_secret")
    given = [variable for variable in variables if deployment.values[variable]]
    for variable in variables:
        if given and variable not in given:
            yield problem(variable, "", f"what belongs to {given[0]} is wanted")


@rule("certificates_acme_challenge", "certificates_dns_server")
def updates_have_a_name_server(deployment: Deployment) -> Iterator[Problem]:
    """DNS-01 by dynamic update knows where to."""
    if (
        deployment.values["certificates_acme_challenge"] == "rfc2136"
        and not deployment.values["certificates_dns_server"]
    ):
        wanted = "the address of a name server is wanted, as certificates_acme_challenge is rfc2136"
        yield problem("certificates_dns_server", "", wanted)


@rule(
    "certificates_dane_enabled",
    "certificates_provider",
    "certificates_dns_server",
    "certificates_acme_key_reuse_enabled",
)
def keys_with_tlsa_records_are_known_in_time(deployment: Deployment) -> Iterator[Problem]:
    """No key comes into use whose TLSA record nobody could publish before."""
    values = deployment.values
    if not values["certificates_dane_enabled"]:
        return
    if values["certificates_provider"] != "acme":
        wanted = "false is wanted, as only keys of certificates_provider acme have TLSA records"
        yield problem("certificates_dane_enabled", True, wanted)
    elif not values["certificates_dns_server"] and not values["certificates_acme_key_reuse_enabled"]:
        wanted = "certificates_dns_server is wanted too, or certificates_acme_key_reuse_enabled"
        yield problem("certificates_dane_enabled", True, wanted)


@rule("certificates_acme_challenge", "certificates_acme_wildcard_enabled")
def wildcards_need_the_dns(deployment: Deployment) -> Iterator[Problem]:
    """Wildcards are issued by DNS-01 alone (CA/Browser Forum Baseline Requirements section 3.2.2.4.19)."""
    if (
        deployment.values["certificates_acme_wildcard_enabled"]
        and deployment.values["certificates_acme_challenge"] == "http"
    ):
        yield problem("certificates_acme_challenge", "http", "rfc2136 or hook is wanted, as wildcards need DNS-01")


@rule("certificates_acme_challenge", "certificates_acme_auth_hook", "certificates_acme_cleanup_hook")
def hooks_are_programs(deployment: Deployment) -> Iterator[Problem]:
    """The operator's hooks are programs on the control node, and there is one to publish with."""
    if deployment.values["certificates_acme_challenge"] != "hook":
        return
    for variable in ("certificates_acme_auth_hook", "certificates_acme_cleanup_hook"):
        name = deployment.values[variable]
        wanted = "a program on the control node is wanted"
        path = deployment.find("files", deployment.role("certificates"), name) if name else None
        try:
            content = deployment.read(path) if path else b""
        except OSError as error:
            yield problem(variable, name, f"{wanted}, one that can be read: {error}")
            continue
        if name and not path:
            yield problem(variable, name, f"{wanted}, no such file was found")
        elif name and not content.startswith(b"#!"):
            yield problem(variable, name, f"{wanted}, and the first line of this one does not begin with #!")
        elif not name and variable == "certificates_acme_auth_hook":
            yield problem(variable, name, f"{wanted}, as certificates_acme_challenge is hook")


@rule("certificates_provider", "certificates_provided", "certificates_hosts")
def provided_certificates_are_fit(deployment: Deployment) -> Iterator[Problem]:
    """Every virtual host has a valid certificate for all its names, and the key that belongs to it."""
    if deployment.values["certificates_provider"] != "provided":
        return
    provided = deployment.values["certificates_provided"]
    names = {host["domain"]: host["names"] for host in deployment.values["certificates_hosts"]}
    for domain in names:
        if domain not in provided:
            yield Problem(f"certificates_provided.{domain}", "missing", "paths of its certificate and key are wanted")
    for domain, files in provided.items():
        if domain not in names:
            wanted = f"a domain of this server is wanted: {', '.join(names)}"
            yield problem(f"certificates_provided.{domain}", files, wanted)
        else:
            yield from _pair_problems(deployment, domain, names[domain], files)


def _pair_problems(
    deployment: Deployment, domain: str, names: list[str], files: Mapping[str, Any]
) -> Iterator[Problem]:
    from plugins.preflight.certificates import certificate_faults, key_faults  # noqa: PLC0415 (costs each host 0.1 s)

    contents = {}
    for kind in ("certificate", "key"):
        path = deployment.find("files", deployment.role("certificates"), files[kind])
        variable = f"certificates_provided.{domain}.{kind}"
        try:
            contents[kind] = deployment.read(path) if path else None
        except OSError as error:
            yield problem(variable, files[kind], f"a readable file on the control node is wanted: {error}")
            continue
        if not path:
            yield problem(variable, files[kind], "a file on the control node is wanted, no such file was found")
    certificate, key = contents.get("certificate"), contents.get("key")
    if certificate is not None:
        for fault, wanted in certificate_faults(certificate, names):
            yield Problem(f"certificates_provided.{domain}.certificate", f"{files['certificate']}, {fault}", wanted)
    if certificate is not None and key is not None:
        for fault, wanted in key_faults(key, certificate):
            yield Problem(f"certificates_provided.{domain}.key", f"{files['key']}, {fault}", wanted)
