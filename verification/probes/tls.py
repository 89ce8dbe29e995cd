"""TLS from outside, through pyOpenSSL.

pyOpenSSL brings its own OpenSSL (3.5), so the probe offers the same versions, suites and groups on every control
node, still speaks TLS 1.0, and has the keying-material exporter (RFC 5705, RFC 9266) that Python's ssl lacks.
OpenSSL 3 no longer knows RC4, 3DES and export suites; those are offered through the old OpenSSL of nassl (sslyze).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, TypeVar

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from nassl._nassl import OpenSSLError
from nassl.legacy_ssl_client import LegacySslClient
from nassl.ssl_client import OpenSslVerifyEnum, OpenSslVersionEnum
from OpenSSL import SSL

T = TypeVar("T")
TIMEOUT = 10.0
VERSIONS = {
    "TLSv1": SSL.TLS1_VERSION,
    "TLSv1.1": SSL.TLS1_1_VERSION,
    "TLSv1.2": SSL.TLS1_2_VERSION,
    "TLSv1.3": SSL.TLS1_3_VERSION,
}
EVERYTHING = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
SYSTEM_TRUST = Path("/etc/ssl/certs/ca-certificates.crt")


class Refused(Exception):
    """The peer ended the TLS handshake, or the connection. The text is the peer's own reason."""


@dataclass(frozen=True)
class Offer:
    """What the client offers in its handshake.

    Attributes:
        server_name: name sent as SNI.
        minimum, maximum: bounds of the protocol version, keys of VERSIONS.
        ciphers: OpenSSL cipher list of TLS 1.2 and older.
        alpn: protocols to offer (XEP-0368: "xmpp-client", "xmpp-server").
        certificate, key: PEM files of a client certificate (its chain included) and its key.
    """

    server_name: str
    minimum: str = "TLSv1.2"
    maximum: str = "TLSv1.3"
    ciphers: str = "DEFAULT"
    alpn: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> SSL.Context:
        """The OpenSSL context of this offer."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(VERSIONS[self.minimum])
        context.set_max_proto_version(VERSIONS[self.maximum])
        context.set_cipher_list(self.ciphers.encode())
        if self.alpn:
            context.set_alpn_protos([name.encode() for name in self.alpn])
        if self.certificate and self.key:
            context.use_certificate_chain_file(str(self.certificate))
            context.use_privatekey_file(str(self.key))
        return context


@dataclass
class Channel:
    """A TCP connection that may become a TLS connection, with time-outs in seconds on every read."""

    socket: socket.socket
    timeout: float = TIMEOUT
    tls: SSL.Connection | None = field(default=None, init=False)

    @classmethod
    def connect(cls, address: str, port: int, timeout: float = TIMEOUT) -> Channel:
        """Open a TCP connection. Raises OSError, of which TimeoutError says that nothing answers."""
        try:
            return cls(socket.create_connection((address, port), timeout), timeout)
        except TimeoutError:
            raise TimeoutError(f"no connection to {address}, port {port}, within {timeout:g} s") from None

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close without ceremony."""
        self.socket.close()

    def start_tls(self, offer: Offer) -> None:
        """Do the handshake. Raises Refused with the peer's alert."""
        tls = SSL.Connection(offer.context(), None)
        tls.set_tlsext_host_name(offer.server_name.encode())
        tls.set_connect_state()
        self._pump(tls, tls.do_handshake)
        self.tls = tls

    def renegotiate(self) -> None:
        """Ask for a new handshake within TLS 1.2. Raises Refused, TimeoutError."""
        tls = self._tls
        tls.renegotiate()
        self._pump(tls, tls.do_handshake)
        while tls.renegotiate_pending():
            self._pump(tls, lambda: tls.recv(1))

    def send(self, data: bytes) -> None:
        """Send everything."""
        if self.tls is None:
            self.socket.sendall(data)
            return
        view = memoryview(data)
        while view:
            view = view[self.tls.send(bytes(view[:16384])) :]
            self._flush(self.tls)

    def receive(self, timeout: float | None = None) -> bytes:
        """Whatever comes next; b"" when the peer has closed. Raises TimeoutError, Refused."""
        self.socket.settimeout(self.timeout if timeout is None else timeout)
        tls = self.tls
        if tls is None:
            return self._read()
        try:
            return self._pump(tls, lambda: tls.recv(65536))
        except SSL.ZeroReturnError:
            return b""

    @property
    def version(self) -> str:
        """The negotiated protocol version, such as "TLSv1.3"."""
        return self._tls.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        """The negotiated suite, by OpenSSL's name."""
        return self._tls.get_cipher_name() or ""

    @property
    def group(self) -> str:
        """The negotiated key exchange group, such as "X25519MLKEM768"."""
        return self._tls.get_group_name() or ""

    @property
    def alpn(self) -> str:
        """The application protocol the server chose, or ""."""
        return self._tls.get_alpn_proto_negotiated().decode()

    @property
    def chain(self) -> list[x509.Certificate]:
        """The certificates the peer sent, its own first."""
        return [certificate.to_cryptography() for certificate in self._tls.get_peer_cert_chain() or []]

    def verify(self, name: str, ca_file: Path = SYSTEM_TRUST) -> list[x509.Certificate]:
        """The path from the peer's certificate to a trusted root, judged for DNS name `name` (RFC 5280, RFC 9525).

        Raises x509.verification.VerificationError with the reason.
        """
        store = Store(x509.load_pem_x509_certificates(ca_file.read_bytes()))
        leaf, *intermediates = self.chain
        return PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name)).verify(leaf, intermediates)

    def exporter(self) -> bytes:
        """Channel binding data of type tls-exporter (RFC 9266)."""
        return self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    @property
    def _tls(self) -> SSL.Connection:
        if self.tls is None:
            raise RuntimeError("the connection is not encrypted")
        return self.tls

    def _flush(self, tls: SSL.Connection) -> None:
        while True:
            try:
                self.socket.sendall(tls.bio_read(65536))
            except SSL.WantReadError:
                return

    def _pump(self, tls: SSL.Connection, step: Callable[[], T]) -> T:
        """Take a step, carrying what OpenSSL wants to say and hear, until it is done."""
        while True:
            try:
                result = step()
            except SSL.WantReadError:
                self._flush(tls)
            except SSL.ZeroReturnError:
                raise
            except SSL.Error as error:
                raise Refused(_words(error)) from error
            else:
                self._flush(tls)
                return result
            data = self._read()
            if not data:
                raise Refused("connection closed")
            tls.bio_write(data)

    def _read(self) -> bytes:
        """What the network brings next; a connection that is reset has ended. Raises TimeoutError."""
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""
        except TimeoutError:
            raise TimeoutError(f"not a word within {self.socket.gettimeout():.2g} s") from None


def legacy_handshake(channel: Channel, version: str, ciphers: str) -> str:
    """Offer what OpenSSL 3 cannot: `version` "SSLv3" or "TLSv1.2", `ciphers` such as "RC4:3DES:EXPORT".

    Returns the suite the server accepted. Raises Refused.
    """
    return _legacy_client(channel, version, ciphers).get_current_cipher_name()


def compression(channel: Channel) -> str | None:
    """Offer TLS compression and return the method the server takes, if any. Raises Refused."""
    method: str | None = _legacy_client(channel, "TLSv1.2", "ALL").get_current_compression_method()
    return method


def _legacy_client(channel: Channel, version: str, ciphers: str) -> LegacySslClient:
    versions = {"SSLv3": OpenSslVersionEnum.SSLV3, "TLSv1.2": OpenSslVersionEnum.TLSV1_2}
    client = LegacySslClient(
        ssl_version=versions[version],
        underlying_socket=channel.socket,
        ssl_verify=OpenSslVerifyEnum.NONE,
        ignore_client_authentication_requests=True,
    )
    client.set_cipher_list(ciphers)
    try:
        client.do_handshake()
    except (OSError, OpenSSLError) as error:
        raise Refused(_last_line(str(error))) from error
    return client


def _words(error: SSL.Error) -> str:
    """OpenSSL's reason without its numbers: "tlsv1 alert protocol version"."""
    queue = error.args[0] if error.args else ()
    reasons = [entry[2] for entry in queue] if isinstance(queue, (list, tuple)) else [str(queue)]
    return reasons[-1] if reasons else "connection closed"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].rsplit(":", 1)[-1].strip() if text.strip() else "connection closed"
