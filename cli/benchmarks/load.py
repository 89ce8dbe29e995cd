"""Clients by the thousand: XML by the byte over TLS, on one event loop.

What a client library does well, such as parsing each stanza, is left out: the server under test is to be the limit,
and not its clients. Kept are what a server can tell: STARTTLS, SCRAM with channel binding (RFC 9266 takes pyOpenSSL,
as Python's ssl has no exporter), FAST (XEP-0484), one TLS record a stanza.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from verification.probes.sasl2 import BIND, NS
from verification.probes.xmpp import Scram

TIMEOUT = 30  # seconds that anything may take
FEATURES = b"</stream:features>"
CONTEXT = SSL.Context(SSL.TLS_CLIENT_METHOD)
CONTEXT.set_min_proto_version(SSL.TLS1_2_VERSION)
FAST = "HT-SHA-256-EXPR"
# The best first; a server's own offer decides.
MECHANISMS = {
    "SCRAM-SHA-256-PLUS": ("sha256", "p=tls-exporter"),
    "SCRAM-SHA-1-PLUS": ("sha1", "p=tls-exporter"),
    "SCRAM-SHA-256": ("sha256", "n"),
    "SCRAM-SHA-1": ("sha1", "n"),
}


class Broken(Exception):
    """A server did not do what was expected; the text is what it said last."""


@dataclass(frozen=True)
class Login:
    """Who logs in where. `token` is a FAST token and its `client` the installation that it was given to."""

    address: str
    port: int
    username: str
    domain: str
    password: str
    token: str = ""
    client: str = ""

    @property
    def jid(self) -> str:
        """The account's address."""
        return f"{self.username}@{self.domain}"


class Session(asyncio.Protocol):
    """One client's connection.

    Attributes:
        heard: called with all that comes, instead of `until`.
        mechanism: what it logged in with.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        self.heard: Callable[[bytes], None] | None = None
        self.mechanism = ""
        self._transport: Any = None
        self._tls: SSL.Connection | None = None
        self._secure = False
        self._text = b""
        self._wanted: tuple[bytes, ...] = ()
        self._waiting: asyncio.Future[bytes] | None = None

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        tls = self._tls
        if tls is None:
            self._hear(data)
            return
        tls.bio_write(data)
        try:
            if not self._secure:
                self._shake_hands(tls)
            while True:
                self._hear(tls.recv(65536))
        except SSL.WantReadError:
            return
        except SSL.Error:
            self.connection_lost(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(Broken(f"the connection ended: {self._text[-300:]!r}"))

    # What its user calls

    def send(self, text: str | bytes) -> None:
        """Send in one TLS record, or bare before there is TLS."""
        data = text.encode() if isinstance(text, str) else text
        if self._tls is None:
            self._transport.write(data)
        else:
            self._tls.send(data)
            self._transport.write(self._tls.bio_read(65536))

    async def until(self, *markers: bytes) -> bytes:
        """What comes next, to the end of the first of the markers. Raises Broken."""
        self._wanted, self._waiting = markers, asyncio.get_running_loop().create_future()
        self._hear(b"")
        try:
            return await asyncio.wait_for(self._waiting, TIMEOUT)
        except TimeoutError as error:
            raise Broken(f"nothing more came: {self._text[-300:]!r}") from error
        finally:
            self._waiting = None

    async def ask(self, text: str, *markers: bytes) -> bytes:
        """Send, and return the answer."""
        self.send(text)
        return await self.until(*markers)

    def close(self) -> None:
        """End the stream politely, and the connection with it."""
        self.send("</stream:stream>")
        self._transport.close()

    async def start_tls(self) -> None:
        """Open the stream, and encrypt it."""
        await self.ask(self._header(), FEATURES)
        await self.ask("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", b"proceed")
        self._text = b""
        tls = SSL.Connection(CONTEXT, None)
        tls.set_tlsext_host_name(self.login.domain.encode())
        tls.set_connect_state()
        self._tls, self._waiting = tls, asyncio.get_running_loop().create_future()
        try:
            self._shake_hands(tls)
        except SSL.WantReadError:
            await asyncio.wait_for(self._waiting, TIMEOUT)
        self._waiting = None

    async def log_in(self, inline: str = "") -> bytes:
        """Encrypt, authenticate and bind a resource. With FAST, or with something `inline` to ask for, by SASL2.

        Returns what the server granted.
        """
        await self.start_tls()
        features = (await self.ask(self._header(), FEATURES)).decode()
        if self.login.token:
            return await self._authenticate_by_token()
        granted = await self._authenticate(features, inline)
        if not inline:
            await self.ask(self._header(), FEATURES)
            await self.ask("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", b"</iq>")
        return granted

    # What stays here

    def _header(self) -> str:
        sender = f" from='{self.login.jid}'" if self._secure else ""  # FAST is offered to whom the server knows
        return (
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
            f" to='{self.login.domain}'{sender} version='1.0'>"
        )

    async def _authenticate(self, features: str, inline: str) -> bytes:
        namespace = NS["sasl2"] if inline else "urn:ietf:params:xml:ns:xmpp-sasl"
        offer = features.partition("urn:xmpp:sasl:2")[2] if inline else features
        offered = re.findall(r"<mechanism[^>]*>([^<]+)</mechanism>", offer)
        exporter = "tls-exporter" in features
        self.mechanism = next(
            name for name, (_, flag) in MECHANISMS.items() if name in offered and (exporter or flag == "n")
        )
        digest, flag = MECHANISMS[self.mechanism]
        binding = self._exporter() if flag != "n" else b""
        exchange = Scram(self.login.username, self.login.password, digest, flag, binding)
        first = base64.b64encode(exchange.first().encode()).decode()
        agent = f"<user-agent id='{self.login.client}'/>"
        request = (
            f"<authenticate xmlns='{namespace}' mechanism='{self.mechanism}'>"
            f"<initial-response>{first}</initial-response>{agent}{inline}</authenticate>"
            if inline
            else f"<auth xmlns='{namespace}' mechanism='{self.mechanism}'>{first}</auth>"
        )
        said = await self.ask(request, b"</challenge>", b"</failure>")
        challenge = re.search(rb"<challenge[^>]*>([^<]+)", said)
        if not challenge:
            raise Broken(said.decode())
        final = exchange.final(base64.b64decode(challenge[1]).decode())
        text = base64.b64encode(final.encode()).decode()
        said = await self.ask(f"<response xmlns='{namespace}'>{text}</response>", b"</success>", b"</failure>")
        if b"<failure" in said:
            raise Broken(said.decode())
        return said

    async def _authenticate_by_token(self) -> bytes:
        self.mechanism = FAST
        proof = hmac.digest(self.login.token.encode(), b"Initiator" + self._exporter(), "sha256")
        first = base64.b64encode(self.login.username.encode() + b"\0" + proof).decode()
        inline = f"<user-agent id='{self.login.client}'/><fast xmlns='{NS['fast']}'/>{BIND}"
        said = await self.ask(
            f"<authenticate xmlns='{NS['sasl2']}' mechanism='{self.mechanism}'>"
            f"<initial-response>{first}</initial-response>{inline}</authenticate>",
            b"</success>",
            b"</failure>",
        )
        if b"<failure" in said:
            raise Broken(said.decode())
        return said

    def _exporter(self) -> bytes:
        assert self._tls
        return self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def _shake_hands(self, tls: SSL.Connection) -> None:
        try:
            tls.do_handshake()
        finally:
            with contextlib.suppress(SSL.WantReadError):
                self._transport.write(tls.bio_read(65536))
        self._secure = True
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(b"")

    def _hear(self, data: bytes) -> None:
        if self.heard:
            self.heard(data)
            return
        self._text += data
        if self._waiting is None or self._waiting.done():
            return
        ends = [place + len(each) for each in self._wanted if (place := self._text.find(each)) >= 0]
        if ends:
            said, self._text = self._text[: min(ends)], self._text[min(ends) :]
            self._waiting.set_result(said)


async def connect(login: Login) -> Session:
    """A connection on which nothing has been said."""
    _, session = await asyncio.get_running_loop().create_connection(lambda: Session(login), login.address, login.port)
    return session


async def log_in(login: Login, inline: str = "") -> Session:
    """A session with a resource."""
    session = await connect(login)
    await session.log_in(inline)
    return session


async def repeat(work: Callable[[int], Awaitable[Any]], times: int, at_once: int) -> list[Any]:
    """Do something so many times, some at once. `work` gets the number of the time."""
    results: list[Any] = [None] * times
    numbers = iter(range(times))

    async def worker() -> None:
        for number in numbers:
            results[number] = await work(number)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return results


class Counter:
    """Counts a marker in what comes in pieces, and calls back for each."""

    def __init__(self, marker: bytes, each: Callable[[], None]) -> None:
        self.marker, self.each, self.rest = marker, each, b""

    def __call__(self, data: bytes) -> None:
        text = self.rest + data
        self.rest = text[-len(self.marker) + 1 :]
        for _ in range(text.count(self.marker)):
            self.each()


async def converse(senders: list[Session], receivers: list[list[Session]], stanzas: list[bytes], times: int) -> None:
    """Each sender sends its stanza so many times, the next when all of its receivers have the last.

    Raises TimeoutError.
    """
    left = len(senders)
    done = asyncio.get_running_loop().create_future()

    def start(sender: Session, to: list[Session], stanza: bytes) -> None:
        sent, arrived = 0, 0

        def go_on() -> None:
            nonlocal sent, left
            if sent < times:
                sent += 1
                sender.send(stanza)
                return
            left -= 1
            if left == 0:
                done.set_result(None)

        def arrive() -> None:
            nonlocal arrived
            arrived += 1
            if arrived % len(to) == 0:
                go_on()

        for session in to:
            session.heard = Counter(b"</body>", arrive)
        go_on()

    for sender, to, stanza in zip(senders, receivers, stanzas):
        start(sender, to, stanza)
    try:
        await asyncio.wait_for(done, TIMEOUT)
    finally:
        for session in (session for to in receivers for session in to):
            session.heard = None
