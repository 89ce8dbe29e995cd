"""Certificates that no server may believe: the right names under the wrong authority."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate (its chain included) and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class _Issued:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def self_signed(directory: Path, name: str) -> Pair:
    """A certificate for DNS `name` that vouches for itself."""
    issued = _issue(name, None)
    return _write(directory / f"self-signed-{name}", [issued.certificate], issued.key)


def forged(directory: Path, name: str) -> Pair:
    """A certificate for DNS `name` by an authority that nobody trusts, its root sent along."""
    root = _issue("Forged Root", None, authority=True)
    issued = _issue(name, root)
    return _write(directory / f"forged-{name}", [issued.certificate, root.certificate], issued.key)


def _issue(name: str, issuer: _Issued | None, authority: bool = False) -> _Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return _Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _write(stem: Path, chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> Pair:
    pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
    pem = serialization.Encoding.PEM
    pair.certificate.write_bytes(b"".join(certificate.public_bytes(pem) for certificate in chain))
    pair.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return pair
