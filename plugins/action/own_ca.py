"""Keeps valid certificates of a private CA on a host.

The CA's key stays on the control node. A host's keys are made on the host and stay there: what travels is a request,
and the certificate that answers it. The names come from the task; those in a request mean nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import inspect
import ipaddress
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFETIME = datetime.timedelta(days=3650)
CLOCK_SKEW = datetime.timedelta(hours=1)
RENEW_AT_FRACTION_LEFT = 1 / 3
EVERY_ADDRESS = [x509.IPAddress(ipaddress.ip_network(network)) for network in ("0.0.0.0/0", "::/0")]


class OwnCA:
    """A private CA in a directory: `ca.key` and `ca.pem`.

    The certificate follows RFC 5280 section 4.2.1: path length 0, serverAuth alone, and critical name constraints
    that permit the DNS names it was made for and below, and no IP address.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey | None, certificate: x509.Certificate) -> None:
        """`key` is None where only the certificates are judged, and the key may be elsewhere."""
        self._key = key
        self.certificate = certificate

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """Its key. Raises ValueError where it is elsewhere."""
        if self._key is None:
            raise ValueError("its key is not here")
        return self._key

    @classmethod
    def create(cls, names: Iterable[str]) -> OwnCA:
        """A CA with a new key."""
        key = ec.generate_private_key(ec.SECP384R1())
        return cls(key, _ca_certificate(key, names))

    @classmethod
    def load(cls, key: str, certificate: str) -> OwnCA:
        """The CA of two PEM texts. Raises ValueError when they do not belong together."""
        private_key = serialization.load_pem_private_key(key.encode(), password=None)
        ca = x509.load_pem_x509_certificate(certificate.encode())
        if not isinstance(private_key, ec.EllipticCurvePrivateKey) or private_key.public_key() != ca.public_key():
            raise ValueError("the key does not belong to the certificate")
        return cls(private_key, ca)

    @property
    def permitted(self) -> list[str]:
        """The domains it can sign for, with all their subdomains."""
        constraints = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        return [name.value for name in constraints.permitted_subtrees or []]

    def reason_to_reissue(self, names: Iterable[str], lifetime: datetime.timedelta) -> str | None:
        """Why its certificate cannot carry certificates of that lifetime for those names, or None."""
        missing = sorted(name for name in names if not _covered(name, self.permitted))
        if missing:
            return f"it now covers {', '.join(_subtrees(missing))}"
        if self.certificate.not_valid_after_utc < _now() + lifetime:
            return f"it expired or soon would have, on {self.certificate.not_valid_after_utc:%Y-%m-%d}"
        return None

    def reissue(self, names: Iterable[str]) -> None:
        """Make its certificate anew, with the same key and name, for more names.

        What was signed before leads to either certificate.
        """
        self.certificate = _ca_certificate(self.key, [*self.permitted, *names])

    def sign(self, request: str, names: Iterable[str], lifetime: datetime.timedelta) -> str:
        """The certificate (PEM) that answers a PKCS 10 request, for `names`. Raises ValueError for a forged request."""
        csr = x509.load_pem_x509_csr(request.encode())
        if not csr.is_signature_valid:
            raise ValueError("the request is not signed by its own key")
        start = _now() - CLOCK_SKEW
        # RFC 5280 section 4.2.1.6: with no subject, the alternative names are critical.
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectAlternativeName(map(x509.DNSName, names)), True),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
        )
        return _pem(_signed(builder, extensions, self.key))

    def reason_to_renew(
        self, chain: str | None, public_key: str | None, names: Iterable[str], key_type: str
    ) -> str | None:
        """Why a host needs another certificate than the one it has, or None.

        Args:
            chain, public_key: what the host has, PEM; the key is the one of the private key beside the chain.
            names, key_type: what it is meant to have.
        """
        if not chain or not public_key:
            return "there is none"
        certificate = x509.load_pem_x509_certificate(chain.encode())
        left = certificate.not_valid_after_utc - _now()
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        reasons = {
            "the key is another certificate's": _public_pem(certificate) != public_key.strip(),
            "another CA signed it": not self._signed(certificate),
            "the names differ": _names(certificate) != set(names),
            "the type of key differs": _key_type(certificate) != key_type,
            f"it ends on {certificate.not_valid_after_utc:%Y-%m-%d}": left < lifetime * RENEW_AT_FRACTION_LEFT,
        }
        return next((reason for reason, applies in reasons.items() if applies), None)

    def _signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def _covered(name: str, subtrees: Iterable[str]) -> bool:
    return any(name == subtree or name.endswith(f".{subtree}") for subtree in subtrees)


def _subtrees(names: Iterable[str]) -> list[str]:
    """The fewest domains that cover all names."""
    subtrees: list[str] = []
    for name in sorted(set(names), key=lambda name: (name.count("."), name)):
        if not _covered(name, subtrees):
            subtrees.append(name)
    return subtrees


def _key_usage(*used: str) -> x509.KeyUsage:
    usages = inspect.signature(x509.KeyUsage).parameters
    return x509.KeyUsage(**{usage: usage in used for usage in usages})


def _ca_certificate(key: ec.EllipticCurvePrivateKey, names: Iterable[str]) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Portcullis private CA {identifier.digest.hex()[:8]}")])
    start = _now() - CLOCK_SKEW
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage("key_cert_sign", "crl_sign"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.NameConstraints([x509.DNSName(name) for name in _subtrees(names)], EVERY_ADDRESS), True),
        (identifier, False),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + CA_LIFETIME)
    )
    return _signed(builder, extensions, key)


def _signed(
    builder: x509.CertificateBuilder,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA384())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _public_pem(certificate: x509.Certificate) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(encoding, form).decode().strip()


def _names(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


def _key_type(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ecdsa-p{key.curve.key_size}"
    return f"rsa-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else type(key).__name__


class Directory:
    """The CA's directory on the control node, held by one process at a time."""

    def __init__(self, path: Path, read: Callable[[str], str]) -> None:
        """`read` returns the text of a file, decrypted where it is vault-encrypted."""
        self.path = path
        self.key = path / "ca.key"
        self.certificate = path / "ca.pem"
        self._read = read

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out; make the directory where it is missing."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def load(self, to_sign: bool = True) -> OwnCA | None:
        """The CA, or None where there is none; its certificate is enough where nothing is to be signed.

        Raises ValueError when half of it is missing or does not fit.
        """
        if not self.key.exists() and not self.certificate.exists():
            return None
        if not self.key.exists() and not to_sign:
            return OwnCA(None, x509.load_pem_x509_certificate(self._read(str(self.certificate)).encode()))
        for file in (self.key, self.certificate):
            if not file.exists():
                raise ValueError(f"{file} is missing; restore it from your copy, or move {self.path} away for a new CA")
        return OwnCA.load(self._read(str(self.key)), self._read(str(self.certificate)))

    def save_key(self, ca: OwnCA) -> None:
        """Write the key, for its owner alone, and keep it out of Git."""
        self._write(self.path / ".gitignore", "*\n", 0o644)
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self._write(self.key, ca.key.private_bytes(serialization.Encoding.PEM, form, plain).decode(), 0o600)

    def save_certificate(self, ca: OwnCA) -> None:
        """Write the certificate."""
        self._write(self.certificate, _pem(ca.certificate), 0o644)

    def _write(self, path: Path, content: str, mode: int) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.path)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(temporary).replace(path)


class ActionModule(ActionBase):
    """Arguments: `directory` of the CA, `certificates` (domain -> names), `key_type`, and the lifetime in `days`.

    As a `fallback` it sees to those domains alone that have no certificate at all.
    """

    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host what it has; sign what it lacks; bring it into service. In good order that is one round trip."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "directory": {"type": "path", "required": True},
                "certificates": {"type": "dict", "required": True},
                "key_type": {"type": "str", "required": True},
                "days": {"type": "int", "required": True},
                "fallback": {"type": "bool", "default": False},
            }
        )
        certificates: Mapping[str, list[str]] = arguments["certificates"]
        key_type = arguments["key_type"]
        lifetime = datetime.timedelta(days=arguments["days"])
        every_name = [name for names in certificates.values() for name in names]

        store = self._on_host(task_vars, state="reported", domains=list(certificates))["certificates"]
        if arguments["fallback"]:
            store = {domain: held for domain, held in store.items() if not held["chain"]}
            certificates = {domain: certificates[domain] for domain in store}
            if not certificates:
                return {"changed": False}
        ca, changes, warnings = self._ca(Path(arguments["directory"]), every_name, lifetime)
        due = {
            domain: reason
            for domain, names in certificates.items()
            if (reason := ca.reason_to_renew(store[domain]["chain"], store[domain]["public_key"], names, key_type))
        }
        requests = {}
        if due and not self._task.check_mode:
            requests = self._on_host(task_vars, state="requested", domains=list(due), key_type=key_type)["requests"]
        chains = {domain: ca.sign(request, certificates[domain], lifetime) for domain, request in requests.items()}
        unfinished = {
            domain: held["chain"] for domain, held in store.items() if held["unfinished"] and domain not in due
        }
        if (chains or unfinished) and not self._task.check_mode:
            self._on_host(task_vars, state="installed", chains={**chains, **unfinished})

        changes += [f"{domain}: a new certificate, as {reason}" for domain, reason in due.items()]
        changes += [f"{domain}: the certificate had not reached every service" for domain in unfinished]
        return {
            "changed": bool(changes),
            "changes": changes,
            "diff": {"prepared": "".join(f"{change}\n" for change in changes)},
            "warnings": warnings,
        }

    def _ca(self, path: Path, names: list[str], lifetime: datetime.timedelta) -> tuple[OwnCA, list[str], list[str]]:
        """The CA, what was done to it, and what the operator has to do. Check mode writes nothing."""
        directory = Directory(path, self._loader.get_text_file_contents)
        check_mode = self._task.check_mode
        try:
            with contextlib.nullcontext() if check_mode else directory.locked():
                ca = directory.load(to_sign=not check_mode)
                if ca is None:
                    ca = OwnCA.create(names)
                    if not check_mode:
                        directory.save_key(ca)
                        directory.save_certificate(ca)
                    return ca, [f"a new CA in {path}"], []
                reason = ca.reason_to_reissue(names, lifetime)
                if not reason:
                    return ca, [], []
                if not check_mode:
                    ca.reissue(names)
                    directory.save_certificate(ca)
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(f"The CA in {path} cannot be used: {error}") from error
        change = f"the certificate of the CA, as {reason}"
        return ca, [change], [f"{directory.certificate} is new: {reason}. Give it to the clients."]

    def _on_host(self, task_vars: dict[str, Any] | None, **arguments: Any) -> dict[str, Any]:
        result = self._execute_module(module_name="certificate_store", module_args=arguments, task_vars=task_vars)
        if result.get("failed"):
            raise AnsibleActionFail(result.get("msg", "certificate_store failed"), result=result)
        return result
