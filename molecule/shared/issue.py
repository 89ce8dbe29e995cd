"""Issue the certificates of a scenario: what public CAs issue since 2026 (serverAuth alone), and what nobody trusts.

Use: issue.py DIRECTORY, with the requests on stdin as JSON: {FILE: {"names": [NAME, ...], "signer": NAME, "days": N}}.
Writes DIRECTORY/FILE.crt and .key, and DIRECTORY/NAME.crt of each signer. Without a signer a certificate vouches for
itself; with a negative number of days it expired that long ago.
"""

from __future__ import annotations

import functools
import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def issue(subject: str, extensions: dict[x509.ExtensionType, bool], signer: Pair | None, days: int) -> Pair:
    """Make an ECDSA P-256 pair that is (or was) valid until `days` from now. `extensions`: whether each is critical."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    issuer_key = signer.key if signer else key
    end = datetime.now(timezone.utc) + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer.certificate.subject if signer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=90))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension, critical in extensions.items():
        builder = builder.add_extension(extension, critical)
    return Pair(builder.sign(issuer_key, hashes.SHA256()), key)


def usage(*names: str) -> x509.KeyUsage:
    """A key usage of these and no others."""
    return x509.KeyUsage(**{name: name in names for name in USAGES})


@functools.cache
def authority(name: str) -> Pair:
    """The authority of that name."""
    extensions = {x509.BasicConstraints(ca=True, path_length=None): True, usage("key_cert_sign", "crl_sign"): True}
    return issue(name, extensions, None, days=30)


def server(names: list[str], signer: str | None = None, days: int = 30) -> Pair:
    """A server's pair."""
    extensions = {
        x509.BasicConstraints(ca=False, path_length=None): True,
        usage("digital_signature"): True,
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]): False,
        x509.SubjectAlternativeName([x509.DNSName(name) for name in names]): False,
    }
    return issue(names[0], extensions, authority(signer) if signer else None, days)


def main() -> None:
    """Issue what is asked for."""
    directory = Path(sys.argv[1])
    requests = json.load(sys.stdin)
    for file, request in requests.items():
        pair = server(**request)
        stem = directory / file
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_name(f"{stem.name}.crt").write_bytes(pair.certificate.public_bytes(Encoding.PEM))
        key = stem.with_name(f"{stem.name}.key")
        key.touch(mode=0o600)
        key.write_bytes(pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for name in {request["signer"] for request in requests.values() if "signer" in request}:
        (directory / f"{name}.crt").write_bytes(authority(name).certificate.public_bytes(Encoding.PEM))


if __name__ == "__main__":
    main()
