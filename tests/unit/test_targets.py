"""A host under test, read from an inventory."""

import subprocess
import sys
from pathlib import Path

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
ASK = "import sys; from verification import targets; print(targets.load(*sys.argv[1:]).variables['dns_server'])"


def test_a_variable_may_be_that_of_another_host(tmp_path):
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(INVENTORY)
    command = [sys.executable, "-c", ASK, str(inventory), "server"]  # Ansible reads one inventory a process
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "192.0.2.53\n"
