"""XMPP from outside, byte by byte: what well-behaved libraries refuse to do is what a judge must try.

Streams and SASL of RFC 6120, SCRAM of RFC 5802 and RFC 7677, channel binding tls-exporter of RFC 9266.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from OpenSSL import SSL

from .tls import TIMEOUT, Channel, Offer, Refused

CLIENT = "jabber:client"
SERVER = "jabber:server"
NS = {
    "stream": "http://etherx.jabber.org/streams",
    "tls": "urn:ietf:params:xml:ns:xmpp-tls",
    "sasl": "urn:ietf:params:xml:ns:xmpp-sasl",
    "bind": "urn:ietf:params:xml:ns:xmpp-bind",
    "stanzas": "urn:ietf:params:xml:ns:xmpp-stanzas",
    "streams": "urn:ietf:params:xml:ns:xmpp-streams",
    "dialback": "jabber:server:dialback",
    "register": "jabber:iq:register",
    "cb": "urn:xmpp:sasl-cb:0",
    "client": CLIENT,
    "server": SERVER,
}
# The port's service and whether TLS comes first (XEP-0368) or by STARTTLS.
C2S, C2S_DIRECT, S2S, S2S_DIRECT = 5222, 5223, 5269, 5270
DIRECT_TLS = {C2S_DIRECT, S2S_DIRECT}
ALPN = {C2S: "xmpp-client", C2S_DIRECT: "xmpp-client", S2S: "xmpp-server", S2S_DIRECT: "xmpp-server"}


class Refusal(Exception):
    """The server's no. `condition` is its name in RFC 6120, such as "policy-violation"; the text adds its words."""

    def __init__(self, condition: str, text: str = "") -> None:
        super().__init__(": ".join(part for part in (condition, text) if part))
        self.condition = condition


class StreamEnded(Refusal):
    """The server closed the stream; with a stream error (RFC 6120 section 4.9.3), or without a word."""

    def __init__(self, condition: str = "stream closed", text: str = "") -> None:
        super().__init__(condition, text)


class AuthenticationFailed(Refusal):
    """SASL failed (RFC 6120 section 6.5), such as "not-authorized"."""


class StanzaError(Refusal):
    """The answer to a request was an error stanza (RFC 6120 section 8.3.3)."""

    def __init__(self, stanza: ET.Element) -> None:
        error = next((child for child in stanza if local_name(child) == "error"), None)
        if error is None:
            super().__init__("error")
        else:
            super().__init__(condition_of(error), error.findtext("stanzas:text", "", NS))


def local_name(element: ET.Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2]


def condition_of(element: ET.Element) -> str:
    """The defined condition in an error element: its first child that is not a text."""
    return next((local_name(child) for child in element if local_name(child) != "text"), "")


class Stream:
    """One XMPP stream over a channel.

    Args:
        channel: the connection, encrypted or not.
        domain: the `to` of the stream.
        namespace: CLIENT or SERVER.
        sender: the `from` of the stream; servers must state it.
    """

    def __init__(self, channel: Channel, domain: str, namespace: str = CLIENT, sender: str = "") -> None:
        self.channel = channel
        self.domain = domain
        self.namespace = namespace
        self.sender = sender
        self.header: dict[str, str] = {}
        self._parser: ET.XMLPullParser = ET.XMLPullParser(("start", "end"))
        self._depth = 0
        self._root: ET.Element | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream as a polite client does, then the connection."""
        with contextlib.suppress(OSError, Refused, SSL.Error):  # the server may be gone already
            self.channel.send(b"</stream:stream>")
        self.channel.close()

    def open(self, timeout: float = TIMEOUT) -> ET.Element:
        """Send the stream header (again, after STARTTLS and SASL) and return the features."""
        self._parser = ET.XMLPullParser(("start", "end"))
        self._depth = 0
        self._root = None
        sender = f" from={quoteattr(self.sender)}" if self.sender else ""
        dialback = f" xmlns:db='{NS['dialback']}'" if self.namespace == SERVER else ""
        self.send(
            f"<?xml version='1.0'?><stream:stream xmlns='{self.namespace}' xmlns:stream='{NS['stream']}'{dialback}"
            f" to={quoteattr(self.domain)}{sender} version='1.0' xml:lang='en'>"
        )
        return self.expect("features", timeout=timeout)

    def send(self, xml: str | bytes | ET.Element) -> None:
        """Send XML text, raw bytes or an element."""
        if isinstance(xml, ET.Element):
            xml = ET.tostring(xml)
        self.channel.send(xml.encode() if isinstance(xml, str) else xml)

    def receive(self, timeout: float = TIMEOUT) -> ET.Element:
        """The next first-level element. Raises StreamEnded, TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            element = self._parsed()
            if element is not None:
                if element.tag == f"{{{NS['stream']}}}error":
                    raise StreamEnded(condition_of(element), element.findtext("streams:text", "", NS))
                return element
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"nothing more within {timeout:g} s")
            data = self.channel.receive(remaining)
            if not data:
                raise StreamEnded()
            self._parser.feed(data)

    def _parsed(self) -> ET.Element | None:
        """The next first-level element that arrived whole; None when there is none yet. Raises StreamEnded."""
        events: Any = self._parser.read_events()
        for event, element in events:
            if event == "start":
                if self._depth == 0:
                    self._root = element
                    self.header = dict(element.attrib)
                self._depth += 1
                continue
            self._depth -= 1
            if self._depth == 0:
                raise StreamEnded()
            if self._depth == 1 and self._root is not None:
                self._root.remove(element)
                return element
        return None

    def expect(self, *names: str, timeout: float = TIMEOUT) -> ET.Element:
        """The next first-level element with one of these local names; others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            element = self.receive(max(0.001, deadline - time.monotonic()))
            if local_name(element) in names:
                return element

    def ask_for_tls(self) -> None:
        """Ask for TLS (RFC 6120 section 5); the handshake may follow. Raises StreamEnded when it is refused."""
        self.send(f"<starttls xmlns='{NS['tls']}'/>")
        if local_name(self.expect("proceed", "failure")) == "failure":
            raise StreamEnded("starttls failure")


def mechanisms(features: ET.Element) -> list[str]:
    """SASL mechanisms in stream features, in the server's order."""
    return [item.text or "" for item in features.iterfind("sasl:mechanisms/sasl:mechanism", NS)]


def channel_bindings(features: ET.Element) -> list[str]:
    """Channel binding types a server announces (XEP-0440)."""
    return [item.get("type", "") for item in features.iterfind("cb:sasl-channel-binding/cb:channel-binding", NS)]


def open_channel(address: str, port: int, domain: str, *, standard_port: int = C2S, sender: str = "") -> Channel:
    """A connection on which the TLS handshake comes next: after STARTTLS, or at once on a direct TLS port.

    Args:
        address, port: where to connect.
        domain: the domain to speak to.
        standard_port: the port this is behind any mapping: 5222, 5223, 5269 or 5270.
        sender: our own domain, on server ports.
    """
    channel = Channel.connect(address, port)
    if standard_port in DIRECT_TLS:
        return channel
    try:
        stream = Stream(channel, domain, namespace_of(standard_port), sender)
        stream.open()
        stream.ask_for_tls()
    except BaseException:
        channel.close()
        raise
    return channel


def connect(
    address: str, port: int, domain: str, *, standard_port: int = C2S, offer: Offer | None = None, sender: str = ""
) -> tuple[Stream, ET.Element]:
    """An open, encrypted stream and its features.

    Arguments as for `open_channel`; `offer` defaults to a modern client's. Raises OSError, StreamEnded, tls.Refused.
    """
    channel = open_channel(address, port, domain, standard_port=standard_port, sender=sender)
    try:
        channel.start_tls(offer or default_offer(domain, standard_port))
        stream = Stream(channel, domain, namespace_of(standard_port), sender)
        return stream, stream.open()
    except BaseException:
        channel.close()
        raise


def default_offer(domain: str, standard_port: int) -> Offer:
    """What a modern client offers on that port."""
    return Offer(domain, alpn=(ALPN[standard_port],) if standard_port in DIRECT_TLS else ())


def namespace_of(standard_port: int) -> str:
    """The namespace of stanzas on that port."""
    return SERVER if standard_port in (S2S, S2S_DIRECT) else CLIENT


@functools.lru_cache(maxsize=1024)
def salted_password(digest: str, password: str, salt: str, iterations: int) -> bytes:
    """The key of the client's proofs, which clients keep (RFC 5802 section 5.1). The salt is base64."""
    return hashlib.pbkdf2_hmac(digest, password.encode(), base64.b64decode(salt), iterations)


@dataclass
class Scram:
    """One SCRAM exchange, with every knob an attacker would turn.

    Attributes:
        username, password: the credentials.
        digest: "sha1", "sha256", ...
        gs2: the flag of the GS2 header: "n" (no binding), "y" (we could, you offer none), "p=tls-exporter".
        binding: the channel binding data belonging to the flag.
    """

    username: str
    password: str
    digest: str = "sha256"
    gs2: str = "n"
    binding: bytes = b""

    def first(self) -> str:
        """The client-first message."""
        name = self.username.replace("=", "=3D").replace(",", "=2C")
        self._nonce = secrets.token_urlsafe(18)
        self._bare = f"n={name},r={self._nonce}"
        return f"{self.gs2},,{self._bare}"

    def final(self, challenge: str, salt: str = "") -> str:
        """The client-final message for the server's challenge, made with another salt (base64) if one is given.

        Raises ValueError on a nonce that is not ours.
        """
        fields = dict(item.split("=", 1) for item in challenge.split(","))
        if not fields["r"].startswith(self._nonce):
            raise ValueError("the server answered with a nonce that is not ours")
        salted = salted_password(self.digest, self.password, salt or fields["s"], int(fields["i"]))
        bound = base64.b64encode(f"{self.gs2},,".encode() + self.binding).decode()
        without_proof = f"c={bound},r={fields['r']}"
        message = f"{self._bare},{challenge},{without_proof}".encode()
        client_key = hmac.digest(salted, b"Client Key", self.digest)
        signature = hmac.digest(hashlib.new(self.digest, client_key).digest(), message, self.digest)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self.server_signature = hmac.digest(hmac.digest(salted, b"Server Key", self.digest), message, self.digest)
        return f"{without_proof},p={base64.b64encode(proof).decode()}"

    def verify(self, success: str) -> bool:
        """Whether the server proved that it knows the password too (RFC 5802 section 3)."""
        fields = dict(item.split("=", 1) for item in success.split(",") if "=" in item)
        return hmac.compare_digest(base64.b64decode(fields.get("v", "")), self.server_signature)


def sasl(stream: Stream, mechanism: str, first: str | bytes) -> ET.Element:
    """Send <auth/> and return the answer: a challenge or a success. Raises AuthenticationFailed, StreamEnded."""
    data = first.encode() if isinstance(first, str) else first
    text = base64.b64encode(data).decode() or "="
    stream.send(f"<auth xmlns='{NS['sasl']}' mechanism='{mechanism}'>{text}</auth>")
    return _sasl_answer(stream)


def sasl_respond(stream: Stream, data: str) -> ET.Element:
    """Answer a challenge. Raises AuthenticationFailed, StreamEnded."""
    stream.send(f"<response xmlns='{NS['sasl']}'>{base64.b64encode(data.encode()).decode()}</response>")
    return _sasl_answer(stream)


def _sasl_answer(stream: Stream) -> ET.Element:
    answer = stream.expect("challenge", "success", "failure")
    if local_name(answer) == "failure":
        raise AuthenticationFailed(condition_of(answer), answer.findtext("sasl:text", "", NS))
    return answer


def plain(stream: Stream, username: str, password: str) -> None:
    """Authenticate with PLAIN. Raises AuthenticationFailed, StreamEnded."""
    sasl(stream, "PLAIN", f"\0{username}\0{password}")


def scram(stream: Stream, mechanism: str, exchange: Scram) -> None:
    """Authenticate with a SCRAM mechanism. Raises AuthenticationFailed, StreamEnded, ValueError."""
    challenge = sasl(stream, mechanism, exchange.first())
    success = sasl_respond(stream, exchange.final(base64.b64decode(challenge.text or "").decode()))
    if not exchange.verify(base64.b64decode(success.text or "").decode()):
        raise ValueError("the server did not prove that it knows the password")


def authenticate(stream: Stream, features: ET.Element, username: str, password: str) -> None:
    """Authenticate with the best that the server offers; PLAIN for a server that has nothing better.

    Raises AuthenticationFailed, StreamEnded.
    """
    offered = mechanisms(features)
    if "SCRAM-SHA-256-PLUS" in offered and "tls-exporter" in channel_bindings(features):
        exchange = Scram(username, password, gs2="p=tls-exporter", binding=stream.channel.exporter())
        scram(stream, "SCRAM-SHA-256-PLUS", exchange)
    elif "SCRAM-SHA-256" in offered:
        scram(stream, "SCRAM-SHA-256", Scram(username, password))
    elif "SCRAM-SHA-1" in offered:
        scram(stream, "SCRAM-SHA-1", Scram(username, password, digest="sha1"))
    else:
        plain(stream, username, password)


class Client:
    """A logged-in account with a bound resource, for requests and answers one at a time.

    Log in with `Client.login`; close it or use it in a `with`.
    """

    def __init__(self, stream: Stream, jid: str) -> None:
        self.stream = stream
        self.jid = jid
        self.features: ET.Element = ET.Element("features")
        self._waiting: list[ET.Element] = []
        self._count = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    @property
    def bare(self) -> str:
        """The account's address."""
        return self.jid.partition("/")[0]

    @classmethod
    def login(
        cls,
        address: str,
        port: int,
        jid: str,
        password: str,
        *,
        standard_port: int = C2S,
        resource: str = "",
        bind: bool = True,
    ) -> Client:
        """Log in as `authenticate` does, and bind a resource. Raises AuthenticationFailed, StreamEnded, tls.Refused."""
        username, _, domain = jid.partition("@")
        stream, features = connect(address, port, domain, standard_port=standard_port)
        authenticate(stream, features, username, password)
        client = cls(stream, jid)
        client.features = stream.open()
        if bind:
            client.bind(resource)
        return client

    def bind(self, resource: str = "") -> None:
        """Bind a resource; the server invents one when it is empty."""
        wanted = f"<resource>{resource}</resource>" if resource else ""
        answer = self.iq("set", f"<bind xmlns='{NS['bind']}'>{wanted}</bind>")
        self.jid = answer.findtext("bind:bind/bind:jid", self.jid, NS)

    def send(self, xml: str) -> None:
        """Send one stanza."""
        self.stream.send(xml)

    def iq(self, kind: str, payload: str, to: str = "", timeout: float = TIMEOUT) -> ET.Element:
        """Send a request and return its result. Raises StanzaError with the server's condition."""
        self._count += 1
        identifier = f"v{self._count}"
        addressed = f" to={quoteattr(to)}" if to else ""
        self.send(f"<iq type='{kind}' id='{identifier}'{addressed}>{payload}</iq>")
        answer = self.wait("iq", timeout=timeout, id=identifier)
        if answer.get("type") == "error":
            raise StanzaError(answer)
        return answer

    def wait(self, name: str, timeout: float = TIMEOUT, **attributes: str) -> ET.Element:
        """The next stanza of that name with those attributes (`from_` for from); others are kept for later waits."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}

        def matches(element: ET.Element) -> bool:
            return local_name(element) == name and all(element.get(key) == value for key, value in wanted.items())

        for index, element in enumerate(self._waiting):
            if matches(element):
                return self._waiting.pop(index)
        deadline = time.monotonic() + timeout
        while True:
            element = self.stream.receive(max(0.001, deadline - time.monotonic()))
            if matches(element):
                return element
            self._waiting.append(element)

    def silent(self, name: str, seconds: float = 1.0, **attributes: str) -> bool:
        """Whether no such stanza comes within that many seconds."""
        try:
            self.wait(name, timeout=seconds, **attributes)
        except TimeoutError:
            return True
        return False

    def kept(self, name: str) -> list[ET.Element]:
        """The stanzas of that name that came while something else was awaited; they are forgotten here."""
        found = [element for element in self._waiting if local_name(element) == name]
        self._waiting = [element for element in self._waiting if local_name(element) != name]
        return found
