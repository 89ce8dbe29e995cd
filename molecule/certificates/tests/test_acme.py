"""Certificates of an ACME server: issued, renewed, and changed with what the operator asks for.

After each test the server is as before.
"""

from __future__ import annotations

import datetime
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from verification.test_certificates import HTTPS, handshake

SESSIONS = 50
FIRST, SECOND = "one.example", "two.example"
CERTBOT = "/usr/bin/certbot --config /etc/portcullis/acme/certbot.ini"


def names(certificate: x509.Certificate) -> set[str]:
    """The DNS names that it is for."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


@pytest.mark.control("CERT-10")
@pytest.mark.parametrize("domain", [FIRST, SECOND])
def test_the_ca_issued_what_is_served(domain, served, evidence):
    issuer = served(domain).issuer.rfc4514_string()
    assert "Pebble" in issuer
    evidence(f"{domain}: {issuer} on every port")


@pytest.mark.control("CERT-11")
def test_a_renewal_reaches_every_port_and_drops_no_session(order, served, sessions, evidence):
    before = {domain: served(domain) for domain in (FIRST, SECOND)}
    with sessions(SESSIONS):
        renewal = order("--renew")
        assert renewal.rc == 0, renewal.stderr
        for domain, certificate in before.items():
            renewed = served(domain)
            assert renewed.serial_number != certificate.serial_number
            assert renewed.public_key() != certificate.public_key(), "a renewed certificate has a key of its own"
    evidence(f"both domains present new serial numbers on every port; {SESSIONS} sessions lived on")


@pytest.mark.control("CERT-10")
def test_a_certificate_of_seconds_renews_itself(host, target, ordered, evidence):
    timer = "/run/systemd/system/portcullis-certificates.timer.d/test.conf"
    often = "[Timer]\nOnUnitInactiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=2s\nRandomizedDelaySec=0\n"
    with ordered(directory="https://acme.example:14001/dir", hosts={FIRST: [FIRST]}), host.sudo():
        host.check_output("mkdir -p $(dirname %s) && printf %%s %s > %s", timer, often, timer)
        host.check_output("systemctl daemon-reload && systemctl restart portcullis-certificates.timer")
        try:
            seen: dict[int, x509.Certificate] = {}
            deadline = time.monotonic() + 150
            while len(seen) < 3:
                assert time.monotonic() < deadline, seen
                with handshake(target, HTTPS, FIRST) as channel:
                    certificate = channel.chain[0]
                seen[certificate.serial_number] = certificate
                time.sleep(1)
        finally:
            host.check_output("rm %s && systemctl daemon-reload", timer)
            host.check_output("systemctl restart portcullis-certificates.timer")
            host.check_output("systemctl stop portcullis-certificates.service")
    _, first, second = seen.values()
    assert second.not_valid_before_utc < first.not_valid_after_utc
    assert second.not_valid_after_utc > datetime.datetime.now(datetime.timezone.utc)
    evidence("a certificate that lives for 40 seconds was replaced by the timer before it ended")


@pytest.mark.control("CERT-10")
def test_the_ca_is_asked_for_what_the_operator_wants(host, target, deploy_certificates, order, served, evidence):
    _, second_root = x509.load_pem_x509_certificates(target.ca_file.read_bytes())[:2]
    second_name = second_root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    try:
        outcome = deploy_certificates(
            certificates_key_type="rsa-2048",
            certificates_acme_key_reuse_enabled=True,
            certificates_acme_preferred_chain=second_name,
            certificates_acme_contact="somebody@one.example",
        )
        assert outcome.returncode == 0, outcome.stdout
        certificate = served(FIRST)
        assert isinstance(certificate.public_key(), rsa.RSAPublicKey)
        evidence(f"{FIRST}: RSA of {certificate.public_key().key_size} bits on every port")

        with handshake(target, HTTPS, FIRST) as channel:
            assert channel.chain[-1].issuer == second_root.subject
        evidence(f"the chain leads to {second_name}, which is not the CA's default")

        with host.sudo():
            account = host.check_output(f"{CERTBOT} show_account --server https://acme.example:14000/dir")
        assert "somebody@one.example" in account
        evidence("the CA knows the new contact")

        assert order("--renew", FIRST).rc == 0
        renewed = served(FIRST)
        assert renewed.serial_number != certificate.serial_number
        assert renewed.public_key() == certificate.public_key()
        evidence("a renewed certificate keeps its key")
    finally:
        assert deploy_certificates().returncode == 0
    assert isinstance(served(FIRST).public_key(), ec.EllipticCurvePublicKey)


@pytest.mark.control("CERT-10")
@pytest.mark.control("CERT-17")
def test_certificates_follow_the_names_that_are_served(host, target, deploy, served, zone, evidence):
    assert f"upload.{FIRST}" not in names(served(FIRST))
    with zone(f"upload.{FIRST}", "A", target.variables["lab_address"]):
        outcome = deploy(xmpp_hosts=[{"domain": FIRST}])
        try:
            assert outcome.returncode == 0, outcome.stdout
            assert f"upload.{FIRST}" in names(served(FIRST))
            evidence(f"a new component: the certificate of {FIRST} names upload.{FIRST}")
            places = "/etc/portcullis /etc/prosody /var/lib/portcullis/certificates"
            with host.sudo():
                left = host.check_output(f"find {places} -name '*{SECOND}*'")
                found = host.run(f"grep -rls {SECOND} /etc/portcullis/acme /etc/portcullis/certificates").stdout
            assert left == ""
            assert found == ""
            evidence(f"{SECOND} is withdrawn: no key, no certificate and no order of it is left")
        finally:
            assert deploy().returncode == 0
    assert f"upload.{FIRST}" not in names(served(FIRST))


@pytest.mark.control("CERT-16")
def test_one_that_only_the_operator_can_replace_raises_the_alarm(order, ordered, served, faketime, evidence):
    before = served(FIRST)
    with ordered(provider="provided"):
        assert order("--now").rc == 0
        result = order("--now", prefix=faketime("+75d"))
    assert result.rc == 1
    assert f"{FIRST}: the certificate ends soon: bring another" in result.stderr
    assert served(FIRST) == before
    evidence(f"15 days before the end: {result.stderr.splitlines()[0]}")
