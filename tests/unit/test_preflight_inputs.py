"""Wrong inventories stop in preflight with every problem named; good ones pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT = Path(__file__).parents[2]
INPUTS = ROOT / "tests" / "inputs"
CASES = yaml.safe_load((INPUTS / "wrong.yml").read_text())
GOOD_INVENTORIES = sorted(ROOT.glob("inventories/**/hosts.yml"))
GOOD_TEMPLATES = sorted(ROOT.glob("templates/hosts/*/group_vars"))

DOMAIN = "chat.example"
VARIABLES = {"xmpp_domain": DOMAIN}
FACTS = {"distribution": "Debian", "distribution_major_version": "13", "service_mgr": "systemd"}
VAULT_PASSWORD = "of this inventory"
NOW = datetime.now(timezone.utc)


def play(playbook: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ansible-playbook` as an operator does, with its result as JSON."""
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), *arguments, playbook],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def failures(run: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the message of each host that failed."""
    tasks = [task for played in json.loads(run.stdout)["plays"] for task in played["tasks"]]
    return {host: result["msg"] for task in tasks for host, result in task["hosts"].items() if result.get("failed")}


def lines_of(message: str) -> list[str]:
    """Return the problems that a message lists."""
    return message.split("\n- ")[1:]


class CertificateFactory:
    """Makes the certificates and keys that the cases name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def key(self, name: str, key: Any, passphrase: bytes | None = None) -> Any:
        """Write a private key."""
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        (self.directory / f"{name}.key").write_bytes(pem)
        return key

    def certificate(
        self,
        name: str,
        key: Any,
        names: tuple[str, ...] = (DOMAIN, f"*.{DOMAIN}"),
        days: tuple[int, int] = (-1, 30),
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> None:
        """Write a self-signed certificate that is valid from and until so many days from now."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days=days[0]))
            .not_valid_after(NOW + timedelta(days=days[1]))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(entry) for entry in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(key, hashes.SHA256())
        )
        (self.directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the test certificates."""
    directory = tmp_path_factory.mktemp("pki")
    make = CertificateFactory(directory)
    good = make.key("good", ec.generate_private_key(ec.SECP256R1()))
    weak = make.key("weak", rsa.generate_private_key(65537, 1024))
    make.key("locked", good, passphrase=b"locked")
    for name, password in (("vault", VAULT_PASSWORD), ("stranger", "of somebody else")):
        vault = VaultLib([("default", VaultSecret(password.encode()))])
        (directory / f"{name}.key").write_bytes(vault.encrypt((directory / "good.key").read_bytes()))
    (directory / "vault-password").write_text(VAULT_PASSWORD)
    make.certificate("good", good)
    make.certificate("weak", weak)
    make.certificate("expired", good, days=(-30, -1))
    make.certificate("future", good, days=(1, 30))
    make.certificate("domain-only", good, names=(DOMAIN,))
    make.certificate("client", good, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    (directory / "wrong-chain.pem").write_bytes(
        b"".join((directory / f"{n}.pem").read_bytes() for n in ("good", "weak"))
    )
    for name in ("a", "b"):
        (directory / name).mkdir()
        (directory / name / "extra.cfg.lua").touch()
    return directory


def filled(value: Any, pki: Path) -> Any:
    """Return a case with the directory of its certificates filled in."""
    return json.loads(json.dumps(value).replace("{pki}", str(pki)))


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> dict[str, str]:
    """What preflight says to each case, all of them hosts of a single run."""
    hosts = {}
    for case in filled(CASES, pki):
        variables = {name: value for name, value in VARIABLES.items() if name not in case.get("without", ())}
        hosts[case["name"]] = {**variables, **case.get("vars", {}), "facts": {**FACTS, **case.get("facts", {})}}
    inventory = written_inventory(tmp_path_factory.mktemp("wrong"), hosts)
    return failures(play(INPUTS / "play.yml", "-i", str(inventory), "--vault-password-file", f"{pki}/vault-password"))


def written_inventory(directory: Path, hosts: dict[str, Any], **variables: Any) -> Path:
    """Write an inventory whose hosts are this machine."""
    path = directory / "hosts.json"
    path.write_text(json.dumps({"xmpp": {"hosts": hosts, "vars": {"ansible_connection": "local", **variables}}}))
    return path


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_wrong_inventory_is_refused(case: dict[str, Any], messages: dict[str, str], pki: Path) -> None:
    assert case["name"] in messages, "preflight let it pass"
    found = lines_of(messages[case["name"]])
    expected = filled(case["says"], pki)
    unmet = [line for line in expected if not any(problem.startswith(line) for problem in found)]
    assert not unmet, found
    assert len(found) == len(expected), found


def test_secrets_are_not_shown(messages: dict[str, str]) -> None:
    assert "hunter2" not in "".join(messages.values())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> dict[str, str]:
    """What preflight says to inventories that are in order."""
    certificate = {"certificate": f"{pki}/good.pem", "key": f"{pki}/vault.key"}
    hosts: dict[str, Any] = {
        "smallest": VARIABLES,
        "certificates provided": {
            **VARIABLES,
            "certificates_provider": "provided",
            "certificates_provided": {DOMAIN: certificate},
        },
        "DNS-01, wildcards and DANE by dynamic update": {
            **VARIABLES,
            "certificates_provider": "acme",
            "certificates_acme_terms": "agreed",
            "certificates_acme_challenge": "rfc2136",
            "certificates_acme_wildcard_enabled": True,
            "certificates_dns_server": "2001:db8::53",
            "certificates_dns_key_name": "portcullis.example.",
            "certificates_dns_key_secret": "c2l4dGVlbiBieXRlcyBhdCBsZWFzdA==",
            "certificates_dane_enabled": True,
        },
        "DNS-01 by a hook, DANE with the same key": {
            **VARIABLES,
            "certificates_provider": "acme",
            "certificates_acme_terms": "agreed",
            "certificates_acme_challenge": "hook",
            "certificates_acme_auth_hook": str(ROOT / "portcullis"),
            "certificates_acme_key_reuse_enabled": True,
            "certificates_dane_enabled": True,
        },
        "variable of somebody else": {**VARIABLES, "web_root": "/srv", "preflight_ignored_variables": ["web_root"]},
        "several hosts": {
            "xmpp_domain": "a.example",
            "xmpp_hosts": [{"domain": "a.example"}, {"domain": "b.example", "upload": False, "web": "chat.b.example"}],
            "xmpp_admins": ["root@b.example"],
        },
    }
    for group_vars in GOOD_TEMPLATES:
        variables: dict[str, Any] = {}
        for file in sorted(group_vars.rglob("*.yml")):
            variables |= yaml.safe_load(file.read_text()) or {}
        hosts[f"template {group_vars.parent.name}"] = variables
    directory = tmp_path_factory.mktemp("good")
    inventory = written_inventory(directory, hosts, facts=FACTS)
    run = play(INPUTS / "play.yml", "-i", str(inventory), "--vault-password-file", f"{pki}/vault-password")
    assert json.loads(run.stdout)["stats"].keys() == hosts.keys()
    return failures(run)


def test_good_inventories_pass(good: dict[str, str]) -> None:
    assert not good


@pytest.mark.parametrize("inventory", GOOD_INVENTORIES, ids=lambda path: path.parent.name)
def test_our_inventories_pass(inventory: Path, tmp_path: Path) -> None:
    made_by_the_lab = {"lab_directory": str(tmp_path), "lab_address": "192.0.2.10"}
    variables = json.dumps({"facts": FACTS, "ansible_connection": "local", **made_by_the_lab})
    run = play(INPUTS / "play.yml", "-i", str(inventory), "--limit", "xmpp", "-e", variables)
    assert run.returncode == 0, run.stdout + run.stderr


def test_preflight_says_the_same_in_check_mode(tmp_path: Path) -> None:
    inventory = written_inventory(tmp_path, {"host": {"xmpp_domain": "localhost"}}, facts=FACTS)
    messages = failures(play(INPUTS / "play.yml", "-i", str(inventory), "--check"))
    assert "xmpp_domain is" in messages["host"]


def test_the_site_stops_before_its_first_role(tmp_path: Path) -> None:
    """The real playbook on this machine: whatever it is, no task after preflight runs."""
    inventory = written_inventory(tmp_path, {"host": {"xmpp_domain": "localhost"}}, ansible_become=False)
    run = play(ROOT / "playbooks" / "site.yml", "-i", str(inventory))
    assert run.returncode == 2
    assert any(line.startswith('xmpp_domain is "localhost"') for line in lines_of(failures(run)["host"]))
    assert json.loads(run.stdout)["stats"]["host"]["changed"] == 0


def tasks_before_preflight() -> Iterator[dict[str, Any]]:
    """The tasks of site.yml that run before the role."""
    for task in yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())[0]["tasks"]:
        if task.get("ansible.builtin.import_role", {}).get("name") == "preflight":
            return
        yield task
    raise AssertionError("site.yml does not run preflight")


def test_nothing_that_can_change_a_host_runs_before_preflight() -> None:
    for task in tasks_before_preflight():
        assert set(task) <= {"name", "debian_facts"}, task
    assert "pre_tasks" not in yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())[0]
