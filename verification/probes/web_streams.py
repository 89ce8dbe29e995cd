"""XMPP streams over HTTPS: WebSocket (RFC 7395, RFC 6455) and BOSH (XEP-0124, XEP-0206)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from . import http as https
from .tls import TIMEOUT, Channel, Offer, Refused
from .xmpp import CLIENT, NS, Stream, StreamEnded, condition_of, local_name

FRAMING = "urn:ietf:params:xml:ns:xmpp-framing"
BOSH = "http://jabber.org/protocol/httpbind"
TEXT, CLOSE = 1, 8  # opcodes of WebSocket frames


class WebSocketStream(Stream):
    """One XMPP stream over a WebSocket; each frame holds one element."""

    def __init__(
        self, address: str, port: int, name: str, domain: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Connect to `address` as host `name` for the XMPP `domain`; `headers` go with the request.

        Raises OSError, tls.Refused, ConnectionError.
        """
        channel = Channel.connect(address, port)
        channel.start_tls(Offer(name, alpn=("http/1.1",)))
        super().__init__(channel, domain)
        self._buffer = b""
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        more = "".join(f"{field}: {value}\r\n" for field, value in (headers or {}).items())
        channel.send(
            f"GET /xmpp-websocket HTTP/1.1\r\nHost: {name}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"
            f"{more}\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._fill(TIMEOUT)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head.split(b"\r\n")[0].decode())

    def open(self, timeout: float = TIMEOUT) -> ET.Element:
        """Open the stream and return its features."""
        self.send(f"<open xmlns='{FRAMING}' to={quoteattr(self.domain)} version='1.0'/>")
        return self.expect("features", timeout=timeout)

    def send(self, xml: str | bytes | ET.Element) -> None:
        """Send one element as a frame."""
        data = _as_stanza(xml)
        length = len(data)
        head = (
            bytes([0x80 | TEXT, 0x80 | length])
            if length < 126
            else bytes([0x80 | TEXT, 0x80 | 126, *divmod(length, 256)])
        )
        mask = os.urandom(4)
        self.channel.send(head + mask + bytes(octet ^ mask[i % 4] for i, octet in enumerate(data)))

    def receive(self, timeout: float = TIMEOUT) -> ET.Element:
        """The next element. Raises StreamEnded, TimeoutError."""
        opcode, data = self._frame(timeout)
        if opcode == CLOSE:
            raise StreamEnded()
        if data.startswith(b"<stream:error>"):  # Prosody leaves out what RFC 7395 wants declared
            data = data.replace(b"<stream:error", f"<stream:error xmlns:stream='{NS['stream']}'".encode(), 1)
        element = ET.fromstring(data)
        if element.tag == f"{{{FRAMING}}}close":
            raise StreamEnded()
        return _checked(element)

    def close(self) -> None:
        """End the stream, then the connection."""
        with contextlib.suppress(OSError, Refused):
            self.send(f"<close xmlns='{FRAMING}'/>")
        self.channel.close()

    def _frame(self, timeout: float) -> tuple[int, bytes]:
        while len(self._buffer) < 2:
            self._fill(timeout)
        start, length = 2, self._buffer[1] & 127
        for short, size in ((126, 2), (127, 8)):
            if length == short:
                start += size
                while len(self._buffer) < start:
                    self._fill(timeout)
                length = int.from_bytes(self._buffer[2:start], "big")
                break
        while len(self._buffer) < start + length:
            self._fill(timeout)
        opcode, data = self._buffer[0] & 15, self._buffer[start : start + length]
        self._buffer = self._buffer[start + length :]
        return opcode, data

    def _fill(self, timeout: float) -> None:
        data = self.channel.receive(timeout)
        if not data:
            raise StreamEnded()
        self._buffer += data


class BoshStream(Stream):
    """One XMPP stream over BOSH, one request at a time."""

    def __init__(
        self, address: str, port: int, name: str, domain: str, ca_file: Path, headers: Mapping[str, str] | None = None
    ) -> None:
        """Speak to `address` as host `name`, verified, for the XMPP `domain`; `headers` go with each request."""
        self.domain = domain
        self._headers = {**(headers or {}), "Content-Type": "text/xml; charset=utf-8"}
        self._post = (address, port, name, ca_file)
        self._rid = secrets.randbelow(2**30)
        self._sid = ""
        self._received: list[ET.Element] = []

    def open(self, timeout: float = TIMEOUT) -> ET.Element:
        """Open the stream, or restart it after SASL, and return its features."""
        to = f"to={quoteattr(self.domain)} xmlns:xmpp='urn:xmpp:xbosh'"
        if self._sid:
            self._request(f"{to} xmpp:restart='true'", "")
        else:
            self._request(f"{to} ver='1.6' wait='5' hold='1' xmpp:version='1.0'", "")
        return self.expect("features", timeout=timeout)

    def send(self, xml: str | bytes | ET.Element) -> None:
        """Send one element in a request."""
        self._request("", _as_stanza(xml).decode())

    def receive(self, timeout: float = TIMEOUT) -> ET.Element:
        """The next element; asks for it if none waits. Raises StreamEnded, TimeoutError."""
        for _ in range(1 + int(timeout // 5)):
            if self._received:
                return _checked(self._received.pop(0))
            self._request("", "")
        if self._received:
            return _checked(self._received.pop(0))
        raise TimeoutError(f"nothing more within {timeout:g} s")

    def close(self) -> None:
        """End the session."""
        with contextlib.suppress(OSError, StreamEnded, http.client.HTTPException):
            self._request("type='terminate'", "")

    def _request(self, attributes: str, content: str) -> None:
        address, port, name, ca_file = self._post
        self._rid += 1
        sid = f"sid={quoteattr(self._sid)}" if self._sid else ""
        body = f"<body xmlns='{BOSH}' rid='{self._rid}' {sid} {attributes}>{content}</body>"
        answer = https.request(
            address,
            port,
            name,
            "/http-bind",
            method="POST",
            body=body.encode(),
            ca_file=ca_file,
            headers=self._headers,
        )
        if answer.status != 200:
            raise StreamEnded(f"HTTP {answer.status}")
        element = ET.fromstring(answer.body)
        self._sid = element.get("sid", self._sid)
        self._received += list(element)
        if element.get("type") == "terminate" and not self._received:
            raise StreamEnded(element.get("condition", "stream closed"))


def _as_stanza(xml: str | bytes | ET.Element) -> bytes:
    """A stanza with its namespace stated, which neither transport inherits from a stream header."""
    if isinstance(xml, ET.Element):
        return ET.tostring(xml)
    data = xml.encode() if isinstance(xml, str) else xml
    for name in (b"iq", b"message", b"presence"):
        if data.startswith(b"<" + name) and b"xmlns='" + CLIENT.encode() not in data:
            return data.replace(b"<" + name, b"<" + name + b" xmlns='" + CLIENT.encode() + b"'", 1)
    return data


def _checked(element: ET.Element) -> ET.Element:
    if local_name(element) == "error" and element.tag.startswith(f"{{{NS['stream']}}}"):
        raise StreamEnded(condition_of(element), element.findtext("streams:text", "", NS))
    return element
