"""A host under test, read from an inventory."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INVENTORY = """\
xmpp:
  hosts:
    server:
      dns_server: "{{ hostvars['ns'].address }}"
    ns:
      address: "{{ network }}.53"
      network: 192.0.2
"""
ASK = "import sys; from verification import targets; target = targets.load(*sys.argv[1:3]); print(eval(sys.argv[3]))"
SYSTEM = "/etc/ssl/certs/ca-certificates.crt"


def ask(inventory: Path, expression: str) -> str:
    """What an expression about the target `server` of an inventory is; Ansible reads one inventory a process."""
    command = [sys.executable, "-c", ASK, str(inventory), "server", expression]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_a_variable_may_be_that_of_another_host(tmp_path):
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(INVENTORY)
    assert ask(inventory, "target.variables['dns_server']") == "192.0.2.53"


@pytest.mark.parametrize(
    ("variables", "made", "expected"),
    [
        ("certificates_provider: own_ca", True, "{}/ca/ca.pem"),
        ("certificates_provider: own_ca", False, SYSTEM),
        ("certificates_provider: acme", True, SYSTEM),
        ("verification_ca_file: /srv/roots.pem", True, "/srv/roots.pem"),
    ],
)
def test_certificates_lead_to_the_ca_that_issues_them(tmp_path, variables, made, expected):
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(f"xmpp:\n  hosts:\n    server:\n      {variables}\n")
    if made:
        (tmp_path / "ca").mkdir()
        (tmp_path / "ca" / "ca.pem").touch()
    assert ask(inventory, "target.ca_file") == expected.format(tmp_path)
