"""Every way in for a client: SASL and SASL2 after STARTTLS, direct TLS, WebSocket, BOSH."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from verification.targets import Target

from . import sasl2, xmpp
from .web_streams import BoshStream, WebSocketStream
from .xmpp import Client, Scram, Stream

WAYS = ["SASL", "SASL2", "direct TLS", "WebSocket", "BOSH"]
HTTPS = 443


def open_stream(target: Target, way: str, domain: str) -> tuple[Stream, ET.Element]:
    """A stream on one of the ways in, and its features. Raises OSError, Refused, StreamEnded, ConnectionError."""
    if way in ("SASL", "SASL2"):
        return target.stream(xmpp.C2S, domain)
    if way == "direct TLS":
        return target.stream(xmpp.C2S_DIRECT, domain)
    name = next(host.web for host in target.hosts if host.domain == domain)
    address, port = target.at(HTTPS)
    stream = (
        WebSocketStream(address, port, name, domain)
        if way == "WebSocket"
        else BoshStream(address, port, name, domain, target.ca_file)
    )
    return stream, stream.open()


def log_in(target: Target, way: str, jid: str, password: str) -> Client:
    """Log in by SCRAM and bind a resource. Raises AuthenticationFailed, and what `open_stream` does."""
    username, _, domain = jid.partition("@")
    stream, _ = open_stream(target, way, domain)
    exchange = Scram(username, password)
    client = Client(stream, jid)
    try:
        if way == "SASL2":
            client.jid = sasl2.scram(stream, exchange).jid
            stream.expect("features")
            return client
        xmpp.scram(stream, "SCRAM-SHA-256", exchange)
        client.features = stream.open()
        client.bind()
    except BaseException:
        stream.close()
        raise
    return client
