"""Certificates by DNS-01: the CA looks into a real zone, for names that no web server of ours answers for."""

from __future__ import annotations

import json
import subprocess

import pytest
from cryptography import x509

ACME = "/etc/portcullis/acme"
FIRST, SECOND = "one.example", "two.example"
ROOMS = f"rooms.{SECOND}"
OF_CERTIFICATES = [f"CERT-{number:02}" for number in (1, 2, 3, 4, 5, 16)]

HOOK = f"""\
#!/bin/sh
# Have a record of the challenge added or deleted by dynamic update, and note for whom.
set -eu
echo "WHAT $CERTBOT_DOMAIN" >> /run/hook.log
exec python3 - <<END
import os, dns.query, dns.tsigkeyring, dns.update
words = dict(line.strip().partition(" = ")[::2] for line in open("{ACME}/dns.ini"))
update = dns.update.Update("example", keyring=dns.tsigkeyring.from_text({{"lab": words["dns_rfc2136_secret"]}}))
update.WHAT("_acme-challenge.$CERTBOT_DOMAIN.", *[1] * ("WHAT" == "add"), "TXT", "$CERTBOT_VALIDATION")
assert dns.query.tcp(update, words["dns_rfc2136_server"], timeout=5).rcode() == 0
END
"""


def names_of(certificate: x509.Certificate) -> set[str]:
    """The DNS names of a certificate."""
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(alternatives.get_values_for_type(x509.DNSName))


@pytest.fixture(scope="module", autouse=True)
def as_it_was(deploy_certificates):
    """At the end the server proves its names by HTTP-01 again."""
    yield
    outcome = deploy_certificates()
    assert outcome.returncode == 0, outcome.stdout


@pytest.fixture(scope="module")
def by_update(deploy_certificates):
    """The server deployed with DNS-01 by dynamic update."""
    outcome = deploy_certificates(certificates_acme_challenge="rfc2136")
    assert outcome.returncode == 0, outcome.stdout


@pytest.fixture
def proven(pytestconfig, tmp_path):
    """A function that verifies the servers as an operator would: the controls of certificates, all of them proven."""

    def verify() -> str:
        inventory = pytestconfig.getoption("ansible_inventory")
        command = [str(pytestconfig.rootpath / "portcullis"), "verify", "-i", inventory]
        command += ["--only", ",".join(OF_CERTIFICATES), "--report", str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stdout
        report = json.loads((tmp_path / "verify.json").read_text())
        states = {control["id"]: control["status"] for control in report["controls"]}
        assert {control: states[control] for control in OF_CERTIFICATES} == dict.fromkeys(OF_CERTIFICATES, "proven")
        return f"verified: {len(OF_CERTIFICATES)} controls of certificates proven, no false alarm"

    return verify


@pytest.fixture
def without_a_web_server(zone):
    """One of the names leads nowhere, so that HTTP-01 has no way to it."""
    with zone(ROOMS, "A"), zone(ROOMS, "AAAA"):
        yield


@pytest.mark.control("CERT-20")
@pytest.mark.usefixtures("by_update", "without_a_web_server")
def test_a_name_without_an_address_is_proven_and_renewed_by_dynamic_update(order, served, name_server, evidence):
    before = served(SECOND)
    for _ in range(2):
        since = name_server.check_output("date +%s")
        result = order("--renew", SECOND)
        assert result.rc == 0, result.stderr
        with name_server.sudo():
            log = name_server.check_output("journalctl -u named -o cat --since=@%s", since)
        assert f"adding an RR at '_acme-challenge.{ROOMS}' TXT" in log
        assert served(SECOND).serial_number != before.serial_number
        assert ROOMS in names_of(served(SECOND))
        before = served(SECOND)
    assert name_server.check_output("dig +short @127.0.0.1 _acme-challenge.%s TXT", ROOMS).strip() == ""
    evidence(f"{ROOMS} has no address: issued, renewed, and no TXT record was left")


@pytest.mark.control("CERT-20")
@pytest.mark.usefixtures("by_update")
def test_with_a_wrong_key_the_old_certificate_stays_and_the_operator_is_told(host, order, served, evidence):
    before = served(FIRST)
    with host.sudo():
        host.check_output(f"cp {ACME}/dns.ini {ACME}/dns.ini.kept")
        host.check_output(f"sed -i 's/^dns_rfc2136_secret = .*/dns_rfc2136_secret = {'QUJD' * 11}/' {ACME}/dns.ini")
        try:
            result = order("--renew", FIRST)
        finally:
            host.check_output(f"mv {ACME}/dns.ini.kept {ACME}/dns.ini")
    assert result.rc == 1
    assert "certificate in use stays" in result.stderr
    assert "The peer didn't like the signature we sent" in result.stderr
    assert "QUJD" not in result.stderr
    assert served(FIRST) == before
    evidence(result.stderr.splitlines()[0])


@pytest.mark.control("CERT-20")
@pytest.mark.usefixtures("by_update")
def test_the_key_of_the_zone_is_root_s_and_was_not_logged(host, evidence):
    secret = f"$(sed -n 's/^dns_rfc2136_secret = //p' {ACME}/dns.ini)"  # not in our own command line either
    with host.sudo():
        file = host.file(f"{ACME}/dns.ini")
        assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
        assert host.check_output(f'grep -cF "{secret}" {ACME}/dns.ini') == "1"
        assert host.run(f'journalctl -o cat | grep -cF "{secret}"').stdout.strip() == "0"
        assert host.run(f'grep -rlF "{secret}" /var/lib/portcullis').stdout == ""
    evidence(f"{file.path} is root's alone; no log holds the key")


@pytest.mark.control("CERT-20")
@pytest.mark.usefixtures("by_update")
def test_a_verification_raises_no_false_alarm(proven, evidence):
    evidence(proven())


@pytest.mark.control("CERT-20")
def test_a_wildcard_stands_for_the_names_below(deploy_certificates, served, proven, evidence):
    outcome = deploy_certificates(certificates_acme_challenge="rfc2136", certificates_acme_wildcard_enabled=True)
    assert outcome.returncode == 0, outcome.stdout
    assert names_of(served(SECOND)) == {SECOND, f"*.{SECOND}"}
    evidence(proven())
    evidence(f"{', '.join(sorted(names_of(served(SECOND))))} on every port")


LEGO = """\
rm -rf /root/lego
apt-get install -qq --no-install-recommends lego >&2
grep -q acme.example /etc/hosts || echo 127.0.0.1 acme.example >> /etc/hosts
export LEGO_CA_CERTIFICATES=/etc/pebble/acme.crt
export RFC2136_NAMESERVER=127.0.0.1 RFC2136_TSIG_KEY=lab RFC2136_TSIG_ALGORITHM=hmac-sha256.
export RFC2136_TSIG_SECRET=$(sed -n 's/.*secret "\\(.*\\)";/\\1/p' /etc/bind/lab.key)
export RFC2136_SEQUENCE_INTERVAL=1 RFC2136_POLLING_INTERVAL=1  # seconds
lego --path /root/lego --accept-tos --email admin@one.example --server {directory} --eab --kid {id} --hmac {secret} \
    --dns rfc2136 --dns.disable-cp {domains} run >&2
"""


@pytest.mark.control("CERT-20")
@pytest.mark.usefixtures("without_a_web_server")
def test_what_lego_orders_can_be_brought(deploy_certificates, target, served, name_server, tmp_path, evidence):
    variables = target.variables
    brought = {}
    with name_server.sudo():
        for host in target.hosts:
            script = LEGO.format(
                directory=variables["certificates_acme_directory"],
                id=variables["certificates_acme_eab_id"],
                secret=variables["certificates_acme_eab_secret"],
                domains=" ".join(f"--domains {name}" for name in host.names),
            )
            name_server.check_output(script)
            files = {"certificate": tmp_path / f"{host.domain}.crt", "key": tmp_path / f"{host.domain}.key"}
            for file in files.values():
                file.write_text(name_server.check_output("cat /root/lego/certificates/%s", file.name))
            brought[host.domain] = {kind: str(file) for kind, file in files.items()}
    outcome = deploy_certificates(certificates_provider="provided", certificates_provided=brought)
    assert outcome.returncode == 0, outcome.stdout
    for host in target.hosts:
        pem = (tmp_path / f"{host.domain}.crt").read_bytes()
        assert served(host.domain) == x509.load_pem_x509_certificate(pem)
    evidence(f"lego with the provider rfc2136, by DNS-01: {', '.join(target.domains)}")


@pytest.mark.control("CERT-20")
@pytest.mark.usefixtures("without_a_web_server")
def test_the_operator_s_hooks_write_the_challenge_and_take_it_away(
    host, deploy_certificates, order, served, name_server, tmp_path, evidence
):
    for name, what in (("auth", "add"), ("cleanup", "delete")):
        (tmp_path / name).write_text(HOOK.replace("WHAT", what))
    before = served(SECOND)
    outcome = deploy_certificates(
        certificates_acme_challenge="hook",
        certificates_acme_auth_hook=str(tmp_path / "auth"),
        certificates_acme_cleanup_hook=str(tmp_path / "cleanup"),
    )
    assert outcome.returncode == 0, outcome.stdout
    result = order("--renew", SECOND)
    assert result.rc == 0, result.stderr
    assert served(SECOND) != before
    with host.sudo():
        asked = host.check_output("cat /run/hook.log").splitlines()
        assert host.file(f"{ACME}/auth-hook").mode == 0o700
        host.check_output("rm /run/hook.log")
    assert {f"add {ROOMS}", f"delete {ROOMS}"} <= set(asked)
    assert name_server.check_output("dig +short @127.0.0.1 _acme-challenge.%s TXT", ROOMS) == ""
    evidence(f"{len(asked)} calls of the operator's programs; {ROOMS} has a new certificate")
