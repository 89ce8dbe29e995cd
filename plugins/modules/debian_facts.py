#!/usr/bin/python
"""Gather the few facts that the roles need, and which transactions stand, in one quick trip."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: debian_facts
short_description: Distribution, service manager and installed packages of a host, and what stands there
description:
  - Returns C(distribution), C(distribution_major_version), C(distribution_release), C(service_mgr) and C(packages)
    as M(ansible.builtin.setup) and M(ansible.builtin.package_facts) do, a fifth of their time later.
  - Looks at every file and service that M(install_files) has installed in roles before, and returns in C(standing)
    which of its tasks would find nothing to do; those then need no round trip of their own.
  - Also works where neither Debian nor dpkg is, so that a wrong host can be refused by its name.
options: {}
author: The Portcullis authors
"""

EXAMPLES = r"""
- name: Learn what the host is and which packages it has
  debian_facts:
"""

RETURN = r"""
ansible_facts:
  description: The facts; C(packages) maps a name to a list with one dictionary that holds C(version).
  returned: always
  type: dict
standing:
  description: The digest of each plan of M(install_files) that stands, by the names of its role and its task.
  returned: always
  type: dict
"""


def os_release(text: str) -> dict[str, str]:
    """Parse os-release(5)."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, value in pairs}


def installed_packages(text: str) -> dict[str, list[dict[str, str]]]:
    """Parse dpkg's status file (deb822; `Status: want flag state`) and keep what is fully installed."""
    packages: dict[str, list[dict[str, str]]] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if line.startswith(("Package: ", "Status: ", "Version: "))
        )
        if fields.get("Status", "").endswith(" installed"):
            packages[fields["Package"]] = [{"version": fields["Version"]}]
    return packages


def read(path: str) -> str:
    """Return a file's text, or nothing where it is missing."""
    file = Path(path)
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def main() -> None:
    """Gather and return."""
    from ansible.module_utils.file_transaction import standing  # noqa: PLC0415 - only Ansible puts it there

    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    release = os_release(read("/etc/os-release"))
    names = {"debian": "Debian", "ubuntu": "Ubuntu"}
    facts = {
        "distribution": names.get(release.get("ID", ""), release.get("NAME", "unknown")),
        "distribution_major_version": release.get("VERSION_ID", "").split(".")[0],
        "distribution_release": release.get("VERSION_CODENAME", ""),
        "service_mgr": "systemd" if Path("/run/systemd/system").is_dir() else "other",
        "packages": installed_packages(read("/var/lib/dpkg/status")),
    }
    module.exit_json(ansible_facts=facts, standing=standing())


if __name__ == "__main__":
    main()
