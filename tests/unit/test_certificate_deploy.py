"""The program that brings certificates into service, with a store and hooks of its own."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

PROGRAM = Path(__file__).parents[2] / "roles/certificates/files/usr/local/lib/portcullis/certificate-deploy"


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def begin_tomorrow(key_file: Path) -> str:
    """A certificate for example.org with that key (PEM)."""
    key = load_pem_private_key(key_file.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(tomorrow)
        .not_valid_after(tomorrow + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("example.org")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


class Store:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.served = path.parent / "served"
        (path / "deploy.d").mkdir(parents=True)
        self.hook("service", f'cp "$CERTIFICATE_DIR/fullchain.pem" {self.served}')

    def hook(self, name: str, script: str) -> None:
        hook = self.path / "deploy.d" / name
        hook.write_text(f"#!/bin/sh\nset -e\n{script}\n")
        hook.chmod(0o755)

    def bring(self, domain: str, name: str | None = None) -> str:
        """Put a new pair where the program looks for it; returns the certificate."""
        waiting = self.path / domain / "next"
        waiting.mkdir(parents=True)
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/"),
            *("-addext", f"subjectAltName=critical,DNS:{name or domain}", "-days", "10"),
            *("-keyout", str(waiting / "privkey.pem"), "-out", str(waiting / "fullchain.pem")),
        )
        return (waiting / "fullchain.pem").read_text()

    def deploy(self, *domains: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PORTCULLIS_CERTIFICATES": str(self.path)}
        return subprocess.run([PROGRAM, *domains], env=environment, capture_output=True, text=True, check=False)

    def in_use(self, domain: str) -> str:
        return (self.path / domain / "fullchain.pem").read_text()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "certificates")


@pytest.fixture
def old(store) -> str:
    """A certificate in use."""
    certificate = store.bring("example.org")
    assert store.deploy("example.org").returncode == 0
    return certificate


def test_a_new_pair_replaces_the_old_and_reaches_the_services(store, old):
    new = store.bring("example.org")
    result = store.deploy("example.org")
    assert result.returncode == 0, result.stderr
    assert store.in_use("example.org") == new == store.served.read_text()
    assert len(list((store.path / "example.org").glob("pair.*"))) == 2, "the previous pair is kept, older ones are not"
    assert not (store.path / "example.org" / "unfinished").exists()


def test_without_names_every_domain_is_handed_over(store, old):
    store.hook("log", f'echo "$CERTIFICATE_DOMAIN" >> {store.path.parent}/log')
    store.bring("second.example")
    assert store.deploy().returncode == 0
    assert (store.path.parent / "log").read_text().split() == ["example.org", "second.example"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("other key", "does not belong to the certificate"),
        ("other name", "not valid for this domain"),
        ("expired", "not valid for this domain, at this time"),
        ("not yet valid", "not valid for this domain, at this time"),
        ("no certificate", "does not belong to the certificate"),
        ("passphrase", ""),
    ],
)
def test_an_unfit_pair_never_comes_into_use(store, old, fault, words):
    store.bring("example.org", name="other.example" if fault == "other name" else None)
    waiting = store.path / "example.org" / "next"
    if fault == "other key":
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{waiting}/privkey.pem")
    elif fault == "expired":
        key, chain = (str(waiting / file) for file in ("privkey.pem", "fullchain.pem"))
        openssl("x509", "-new", "-key", key, "-subj", "/CN=example.org", "-days", "-1", "-out", chain)
    elif fault == "not yet valid":
        (waiting / "fullchain.pem").write_text(begin_tomorrow(waiting / "privkey.pem"))
    elif fault == "no certificate":
        (waiting / "fullchain.pem").write_text("nothing of use\n")
    elif fault == "passphrase":
        openssl("pkey", "-in", f"{waiting}/privkey.pem", "-aes256", "-passout", "pass:secret", "-out", f"{waiting}/p")
        (waiting / "p").replace(waiting / "privkey.pem")
    result = store.deploy("example.org")
    assert result.returncode == 1
    assert words in result.stderr
    assert store.in_use("example.org") == old == store.served.read_text()
    assert store.deploy("example.org").returncode == 0, "the unfit pair is gone"


def test_a_service_that_refuses_gets_the_previous_pair_back(store, old):
    new = store.bring("example.org")
    (store.path.parent / "bad").write_text(new)
    store.hook("strict", f'! cmp -s "$CERTIFICATE_DIR/fullchain.pem" {store.path.parent}/bad')
    result = store.deploy("example.org")
    assert result.returncode == 1
    assert "strict failed with status 1" in result.stderr
    assert "previous certificate back" in result.stderr
    assert store.in_use("example.org") == old == store.served.read_text()
    assert not (store.path / "example.org" / "unfinished").exists()


def test_where_the_previous_pair_cannot_be_put_back_the_new_one_is_not_lost(store, old):
    new = store.bring("example.org")
    store.hook("strict", 'mkdir "$CERTIFICATE_DIR/current.new"; exit 1')
    assert store.deploy("example.org").returncode == 1
    assert store.in_use("example.org") == new
    assert (store.path / "example.org" / "unfinished").exists()


def test_one_failing_domain_does_not_hold_up_the_others(store, old):
    store.bring("example.org", name="other.example")
    second = store.bring("second.example")
    assert store.deploy("example.org", "second.example").returncode == 1
    assert store.in_use("second.example") == second


def test_the_first_pair_stays_when_a_service_fails_and_the_next_run_tries_again(store):
    store.hook("down", "false")
    new = store.bring("example.org")
    assert store.deploy("example.org").returncode == 1
    assert store.in_use("example.org") == new
    assert (store.path / "example.org" / "unfinished").exists()
    store.hook("down", "true")
    assert store.deploy("example.org").returncode == 0
    assert not (store.path / "example.org" / "unfinished").exists()


def test_a_key_that_still_waits_for_its_certificate_is_left_alone(store, old):
    waiting = store.path / "example.org" / "next"
    waiting.mkdir()
    (waiting / "privkey.pem").write_text("half")
    assert store.deploy().returncode == 0
    assert (waiting / "privkey.pem").exists()
