"""From one who makes the certificates to another, on a running server."""

from __future__ import annotations

import pytest

DOMAINS = ("one.example", "two.example")


@pytest.mark.control("CERT-15")
def test_changing_the_provider_and_back_drops_no_session(deploy, served, target, sessions, evidence):
    pki = target.ca_file.parent / "pki"
    provided = {domain: {"certificate": f"{pki}/{domain}.crt", "key": f"{pki}/{domain}.key"} for domain in DOMAINS}
    with sessions(5):
        for variables, signer in (
            ({"certificates_provider": "own_ca"}, "Portcullis private CA"),
            ({"certificates_provider": "provided", "certificates_provided": provided}, "CN=root"),
            ({}, "Pebble"),
        ):
            outcome = deploy(**variables)
            assert outcome.returncode == 0, outcome.stdout
            for domain in DOMAINS:
                assert signer in served(domain).issuer.rfc4514_string()
    evidence("own CA, brought and ACME again on a running server: every port follows, five sessions lived on")
