"""Is a certificate that the operator brings fit to be served?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

__all__ = ["certificate_faults", "key_faults"]

VALID_NOW = "a certificate that is valid now is wanted"
RSA_BITS = 2048
"""Least size of an RSA key (RFC 9325 section 4.5)."""


def certificate_faults(pem: bytes, names: Sequence[str], now: datetime | None = None) -> Iterator[tuple[str, str]]:
    """Yield (what it is, what is wanted) for each fault of the first certificate in `pem`, wanted for `names`."""
    try:
        certificate, *issuers = x509.load_pem_x509_certificates(pem)
    except ValueError:
        yield "not a certificate", "a chain of certificates in PEM is wanted, the host's own first"
        return
    for signed, issuer in pairwise((certificate, *issuers)):
        if not _is_issued_by(signed, issuer):
            wanted = "each certificate of the chain must be followed by the one that signed it"
            yield f"a broken chain after {signed.subject.rfc4514_string()}", wanted
    now = now or datetime.now(timezone.utc)
    if now > certificate.not_valid_after_utc:
        yield f"expired since {certificate.not_valid_after_utc:%Y-%m-%d}", VALID_NOW
    if now < certificate.not_valid_before_utc:
        yield (
            f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d}",
            "a certificate that is valid now is wanted",
        )
    covered = _dns_names(certificate)
    missing = [name for name in names if not _is_covered(name, covered)]
    if missing:
        yield f"valid for {', '.join(covered) or 'no DNS name'}", f"it must also name {', '.join(missing)}"
    if not _serves(certificate):
        yield "not for servers", "a certificate whose extended key usage is serverAuth is wanted"
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_BITS:
        yield f"an RSA certificate of {key.key_size} bits", f"ECDSA, or RSA of {RSA_BITS} bits or more, is wanted"
    elif not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        yield "of an unusual type", "an ECDSA or RSA certificate is wanted"


def key_faults(pem: bytes, certificate_pem: bytes) -> Iterator[tuple[str, str]]:
    """Yield (what it is, what is wanted) if the key in `pem` is not the plain private key of the certificate."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        yield "protected by a passphrase", "a key that a server can read is wanted; ansible-vault may encrypt the file"
        return
    except ValueError:
        yield "not a private key", "a private key in PEM is wanted"
        return
    try:
        certificate = x509.load_pem_x509_certificates(certificate_pem)[0]
    except ValueError:
        return
    if _public_bytes(key.public_key()) != _public_bytes(certificate.public_key()):
        yield "the key of another certificate", "the private key of the certificate beside it is wanted"


def _public_bytes(key: Any) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return extension.value.get_values_for_type(x509.DNSName)


def _is_covered(name: str, covered: Sequence[str]) -> bool:
    """Compare as RFC 9525 section 6.3 does: a wildcard stands for exactly one whole label, the first."""
    wildcard = f"*.{name.partition('.')[2]}"
    return any(entry.lower() in (name, wildcard) for entry in covered)


def _serves(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usage.value
