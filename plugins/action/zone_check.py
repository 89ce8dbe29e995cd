"""Compares the DNS with what virtual hosts need; see DOCUMENTATION."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import dns.exception
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.zone.check import Authority, compare, report, validated
from plugins.zone.records import needed, notes, snippet

DOCUMENTATION = r"""
module: zone_check
short_description: Compares the DNS with what virtual hosts need
description:
  - Asks the authoritative name servers from the control node and changes nothing.
options:
  hosts:
    description: The virtual hosts as the filter C(virtual_hosts) returns them.
    type: list
    elements: dict
    required: true
  addresses:
    description: Public addresses of the server; those of C(reached_as) when empty.
    type: list
    elements: str
    default: []
  reached_as:
    description: Name or address by which the control node reaches the server.
    type: str
    required: true
  federation:
    description: Whether the server speaks with other servers.
    type: bool
    required: true
  issuers:
    description: Values of CAA issue properties.
    type: list
    elements: str
    default: []
  tlsa:
    description: By domain, C(ports) and the C(public_key) in PEM that they serve.
    type: dict
    default: {}
  server:
    description: Address of the name server to ask; the authoritative ones when empty.
    type: str
    default: ""
  port:
    description: Port of the name servers.
    type: int
    default: 53
  ttl:
    description: Time to live of the records in seconds.
    type: int
    required: true
attributes:
  check_mode:
    support: full
"""

RETURN = r"""
report:
  description: Each record, how it fits, and what to create, in words.
  type: str
snippet:
  description: All records as lines of a zone file.
  type: str
missing:
  description: Number of record sets that are not there.
  type: int
differing:
  description: Number of record sets that are others.
  type: int
"""


class ActionModule(ActionBase):
    """Asks the DNS."""

    _requires_connection = False
    _VALID_ARGS = frozenset(
        {"hosts", "addresses", "reached_as", "federation", "issuers", "tlsa", "server", "port", "ttl"}
    )

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the report. Raises AnsibleActionFail when nobody answers."""
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        zones = needed(
            arguments["hosts"],
            arguments.get("addresses") or _addresses(arguments["reached_as"]),
            federation=arguments["federation"],
            issuers=arguments.get("issuers", []),
            tlsa_data=arguments.get("tlsa", {}),
        )
        try:
            findings = compare(zones, Authority(arguments.get("server", ""), arguments.get("port", 53)))
        except (dns.exception.DNSException, OSError) as error:
            raise AnsibleActionFail(f"The DNS does not answer: {error}") from error
        secure = {
            entry.name: validated(entry.name, entry.kind)
            for entries in zones.values()
            for entry in entries[-1:]
            if entry.kind == "TLSA"
        }
        states = [finding.state for entries in findings.values() for finding in entries]
        result.update(
            changed=False,
            report=report(findings, arguments["ttl"], secure, notes(arguments["hosts"])),
            snippet=snippet(zones, arguments["ttl"]),
            missing=states.count("missing"),
            differing=states.count("differs"),
        )
        return result


def _addresses(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise AnsibleActionFail(f"dns_addresses is wanted, as {name} has no address here: {error}") from error
    return sorted({str(entry[4][0]) for entry in found})
