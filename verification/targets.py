"""What a host under test is called, where it is reached, and what its inventory says of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from ansible.cli import CLI
from ansible.constants import DEFAULT_VAULT_IDENTITY_LIST
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from .catalogue import KIT
from .probes import tls, xmpp


class NotOffered(Exception):
    """The host does not offer a service; the text says how that is known."""


@dataclass(frozen=True)
class VirtualHost:
    """One XMPP domain and the names that belong to it, as the filter `virtual_hosts` makes them."""

    domain: str
    muc: str | None
    upload: str | None
    web: str
    names: tuple[str, ...]


class Variables(Mapping[str, Any]):
    """A host's inventory variables over the roles' defaults, rendered when they are asked for."""

    def __init__(self, raw: Mapping[str, Any], loader: DataLoader) -> None:
        self._raw = raw
        self._templar = Templar(loader, variables=dict(raw))

    def __getitem__(self, name: str) -> Any:
        return self._templar.template(self._raw[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def render(self, expression: str) -> Any:
        """The value of a Jinja expression, with Ansible's and the kit's filters."""
        return self._templar.evaluate_expression(trust_as_template(expression))


@dataclass(frozen=True)
class Target:
    """A host under test, as the outside sees it.

    Attributes:
        name: its name in the inventory.
        address: where to connect: `verification_connect`, else `ansible_host`, else the name.
        ports: standard port -> reachable port, from `verification_ports`.
        addresses: standard port -> address, where that is another one, from `verification_addresses`.
        absent: standard port -> why the service is not offered, from `verification_absent`.
        ca_file: PEM file of the roots its certificates must lead to: `verification_ca_file`, else the kit's own CA
            where that issues them, else the system's.
        variables: its variables (see Variables).
    """

    name: str
    address: str
    ports: Mapping[int, int]
    ca_file: Path
    variables: Variables
    addresses: Mapping[int, str] = field(default_factory=dict)
    absent: Mapping[int, str] = field(default_factory=dict)

    @functools.cached_property
    def hosts(self) -> tuple[VirtualHost, ...]:
        """Every virtual host, the primary first."""
        entries = self.variables.render("xmpp_hosts | default([{'domain': xmpp_domain}]) | virtual_hosts")
        return tuple(
            VirtualHost(
                entry["domain"], entry.get("muc"), entry.get("upload"), entry["web"], tuple(map(str, entry["names"]))
            )
            for entry in entries
        )

    @property
    def domains(self) -> list[str]:
        """The XMPP domains, the primary first."""
        return [host.domain for host in self.hosts]

    @property
    def domain(self) -> str:
        """The primary domain."""
        return self.domains[0]

    @property
    def federates(self) -> bool:
        """Whether it is meant to speak with other servers."""
        return bool(self.variables.get("prosody_federation_enabled", True))

    @property
    def throw_away(self) -> bool:
        """Whether tests may leave traces there: `verification_throw_away_enabled`, for laboratories."""
        return bool(self.variables.get("verification_throw_away_enabled", False))

    def at(self, standard: int) -> tuple[str, int]:
        """The address and port at which a standard port is reached from here. Raises NotOffered."""
        if standard in self.absent:
            raise NotOffered(self.absent[standard])
        return self.addresses.get(standard, self.address), self.ports.get(standard, standard)

    def accounts_among(self, given: list[dict[str, str]]) -> list[dict[str, str]]:
        """At least two of these accounts {jid, password}, of one virtual host; or none."""
        of_domains = (
            [account for account in given if account["jid"].rpartition("@")[2] == domain] for domain in self.domains
        )
        return next((accounts for accounts in of_domains if len(accounts) >= 2), [])

    def channel(self, standard: int, domain: str = "", sender: str = "") -> tls.Channel:
        """A connection to an XMPP port on which the TLS handshake comes next (see xmpp.open_channel)."""
        return xmpp.open_channel(*self.at(standard), domain or self.domain, standard_port=standard, sender=sender)

    def stream(
        self, standard: int, domain: str = "", *, offer: tls.Offer | None = None, sender: str = ""
    ) -> tuple[xmpp.Stream, ET.Element]:
        """An encrypted stream on an XMPP port and its features (see xmpp.connect)."""
        return xmpp.connect(
            *self.at(standard), domain or self.domain, standard_port=standard, offer=offer, sender=sender
        )


def load(inventory: str, name: str) -> Target:
    """The host `name` of an Ansible inventory.

    Raises ansible.errors.AnsibleError for an inventory that cannot be read, KeyError for an unknown host.
    """
    loader, inventories, manager = _inventory(inventory)
    host = inventories.get_host(name)
    if host is None:
        raise KeyError(name)
    hostvars = HostVars(inventories, manager, loader)
    variables = Variables({**role_defaults(), **manager.get_vars(host=host), "hostvars": hostvars}, loader)
    return Target(
        name=name,
        address=str(variables.get("verification_connect") or variables.get("ansible_host") or name),
        ports={int(standard): int(port) for standard, port in (variables.get("verification_ports") or {}).items()},
        ca_file=_roots(variables),
        variables=variables,
        addresses={
            int(port): str(address) for port, address in (variables.get("verification_addresses") or {}).items()
        },
        absent={int(port): str(why) for port, why in (variables.get("verification_absent") or {}).items()},
    )


def _roots(variables: Variables) -> Path:
    given = variables.get("verification_ca_file")
    if given:
        return Path(given)
    own = Path(str(variables["certificates_ca_directory"])) / "ca.pem"
    return own if variables["certificates_provider"] == "own_ca" and own.exists() else tls.SYSTEM_TRUST


def names(inventory: str) -> set[str]:
    """Every host of an Ansible inventory."""
    return {host.name for host in _inventory(inventory)[1].get_hosts()}


@functools.cache
def role_defaults() -> dict[str, Any]:
    """The defaults of every role, as templates."""
    loader = DataLoader()
    defaults: dict[str, Any] = {}
    for path in sorted(KIT.glob("roles/*/defaults/main.yml")):
        defaults.update(loader.load_from_file(str(path), trusted_as_template=True) or {})
    return defaults


@functools.cache
def _inventory(source: str) -> tuple[DataLoader, InventoryManager, VariableManager]:
    init_plugin_loader()
    filter_loader.add_directory(str(KIT / "plugins" / "filter"))
    loader = DataLoader()
    CLI.setup_vault_secrets(loader, DEFAULT_VAULT_IDENTITY_LIST, auto_prompt=False)
    inventories = InventoryManager(loader, [source])
    return loader, inventories, VariableManager(loader, inventories)
