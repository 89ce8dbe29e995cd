"""Web"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree as ET

from verification.probes import http as web
from verification.probes.guessing import guess
from verification.probes.tls import Channel, Offer, Refused
from verification.probes.web_streams import BOSH, TEXT, BoshStream, WebSocketStream
from verification.probes.xmpp import AuthenticationFailed, StreamEnded

from .catalogue import GIVES_IN, WITHSTANDS, NotOffered, Succeeded, attack, judge
from .passwords import way_of
from .stage import Victim

BOUND = 30  # seconds that a request may take to arrive


def connect(victim: Victim) -> Channel:
    """An encrypted connection to the web server that speaks HTTP/1.1."""
    channel = Channel.connect(*victim.target.at(victim.web))
    channel.start_tls(Offer(victim.domain, alpn=("http/1.1",)))
    return channel


def said(channel: Channel, request: bytes, patience: float = 10) -> str:
    """The first line of the answer to a request; "closed" or "silence" where there is none."""
    answer = b""
    with contextlib.suppress(OSError, Refused):
        channel.send(request)
    try:
        while b"\r\n" not in answer:
            if not (data := channel.receive(timeout=patience)):
                return "closed"
            answer += data
    except Refused:
        return "closed"
    except TimeoutError:
        return "silence"
    return answer.partition(b"\r\n")[0].decode(errors="replace").partition(" ")[2]


def request(victim: Victim, text: str) -> str:
    """How the web server answers these lines."""
    with connect(victim) as channel:
        return said(channel, text.replace("\n", "\r\n").format(host=victim.domain).encode())


def seconds_open(victim: Victim, encrypted: bool, first: bytes, drip: bytes, limit: float) -> float:
    """How long the server bears a request that does not end: it begins so, and a drip follows each second."""
    channel = connect(victim) if encrypted else Channel.connect(*victim.target.at(victim.web))
    started = time.monotonic()
    with channel:
        piece = first
        while (elapsed := time.monotonic() - started) < limit:
            try:
                channel.send(piece)
                piece = drip
                if not channel.receive(timeout=1):
                    return elapsed
            except TimeoutError:
                continue
            except (OSError, Refused):
                return elapsed
    return limit


def patience(victim: Victim, encrypted: bool, first: bytes, drip: bytes = b"") -> str:
    """What becomes of a request that does not end."""
    elapsed = seconds_open(victim, encrypted, first, drip, BOUND)
    return judge(elapsed < BOUND, f"closed after {elapsed:.0f} s" if elapsed < BOUND else f"open after {BOUND} s")


@attack("Half a TLS handshake to the web server", "WEB-05", stock=None, waits=True)
def web_half_handshake(victim: Victim) -> str:
    return patience(victim, False, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")


@attack("Half an HTTP header", "WEB-05", stock=GIVES_IN, waits=True)
def web_half_header(victim: Victim) -> str:
    return patience(victim, True, f"POST /http-bind HTTP/1.1\r\nHost: {victim.domain}\r\n".encode())


@attack("An HTTP header, a character a second", "WEB-05", stock=GIVES_IN, waits=True)
def web_dripping_header(victim: Victim) -> str:
    return patience(victim, True, f"POST /http-bind HTTP/1.1\r\nHost: {victim.domain}\r\n".encode(), b"X")


@attack("Half an HTTP body", "WEB-05", stock=GIVES_IN, waits=True)
def web_half_body(victim: Victim) -> str:
    head = f"POST /http-bind HTTP/1.1\r\nHost: {victim.domain}\r\nContent-Length: 1000\r\n\r\n<body"
    return patience(victim, True, head.encode())


@attack("An HTTP header of a megabyte", "WEB-06", stock=None)
def web_large_header(victim: Victim) -> str:
    with connect(victim) as channel:
        head = f"GET /http-bind HTTP/1.1\r\nHost: {victim.domain}\r\nX: {'x' * 1024 * 1024}\r\n\r\n"
        answer = said(channel, head.encode())
    return judge(answer[:1] in "4c", answer)


@attack("A body of a gigabyte", "WEB-06", stock=None)
def web_large_body(victim: Victim) -> str:
    answer = request(victim, "POST /http-bind HTTP/1.1\nHost: {host}\nContent-Length: 1073741824\n\n<body")
    return judge(answer[:1] in "34c", answer)


@attack("A request with two lengths, to slip in another", "WEB-06", stock=None)
def web_smuggling(victim: Victim) -> str:
    answer = request(
        victim,
        "POST /http-bind HTTP/1.1\nHost: {host}\nContent-Length: 4\nTransfer-Encoding: chunked\n\n"
        "0\n\nGET /smuggled HTTP/1.1\nHost: {host}\n\n",
    )
    return judge(answer.startswith(("400", "501")) or answer == "closed", answer)


@attack("Read files outside the web server's directories", "WEB-11", stock=WITHSTANDS)
def web_traversal(victim: Victim) -> str:
    answers = {
        request(victim, f"GET {path} HTTP/1.1\nHost: {{host}}\nConnection: close\n\n")
        for path in ("/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/.well-known/../../etc/passwd", "/..%5cetc")
    }
    return judge(all(answer.startswith("4") or answer == "closed" for answer in answers), ", ".join(sorted(answers)))


@attack("TRACE, CONNECT, DELETE", "WEB-11", stock=None)
def web_methods(victim: Victim) -> str:
    answers = {
        method: request(victim, f"{method} /http-bind HTTP/1.1\nHost: {{host}}\nConnection: close\n\n")
        for method in ("TRACE", "CONNECT", "DELETE")
    }
    refused = all(answer[:1] in "45c" for answer in answers.values())
    return judge(refused, ", ".join(dict.fromkeys(answers.values())))


@attack("Claim another address (X-Forwarded-For), to be taken for somebody else", "WEB-08", stock=WITHSTANDS)
def forged_address(victim: Victim) -> str:
    began, liar = time.time(), "203.0.113.66"
    lies = {"X-Forwarded-For": liar, "X-Real-IP": liar, "Forwarded": f"for={liar}"}
    place = (*victim.target.at(victim.web), victim.domain, victim.domain, victim.target.ca_file)
    stream = BoshStream(*place, headers=lies)
    way = way_of(victim.target, "SASL")
    name = f"nobody-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(StreamEnded, AuthenticationFailed):
        stream.open()
        guess(way, stream, name)
        stream.close()
    told = victim.journal(began)
    seen = re.findall(rf"failed login as {name}.* from IP: (\S+)$", told, re.MULTILINE)
    if liar in told:
        raise Succeeded(f"taken for {liar}")
    return "logged with its own address" if own(victim, seen) else "not logged"


def own(victim: Victim, addresses: list[str]) -> bool:
    """Whether these are the attacker's own."""
    return bool(addresses) and set(addresses) == {victim.attackers[0].address}


@attack("300 requests at once", "WEB-07", stock=GIVES_IN)
def web_flood(victim: Victim) -> str:
    place = (*victim.other.at(victim.web), victim.domain, "/http-bind")

    def ask(_: int) -> str:
        try:
            return str(web.request(*place, method="POST", body=b"<body/>", ca_file=victim.other.ca_file).status)
        except (OSError, http.client.HTTPException):
            return "closed"

    with ThreadPoolExecutor(30) as pool:
        answers = Counter(pool.map(ask, range(300)))
    refused = answers["429"] + answers["closed"]
    return judge(refused > 100, f"{300 - refused} are served")


@attack("200 BOSH sessions opened at once and left alone", "WEB-07", stock=GIVES_IN)
def bosh_sessions(victim: Victim) -> str:
    body = (
        "<body xmlns='{}' rid='{}' to='{}' ver='1.6' wait='1' hold='0' xmpp:version='1.0' xmlns:xmpp='urn:xmpp:xbosh'/>"
    )
    place = (*victim.other.at(victim.web), victim.domain, "/http-bind")

    def open_one(number: int) -> bool:
        text = body.format(BOSH, 1000 + number, victim.domain).encode()
        with contextlib.suppress(OSError, http.client.HTTPException, ET.ParseError):
            answer = web.request(*place, method="POST", body=text, ca_file=victim.other.ca_file)
            return answer.status == 200 and "sid" in ET.fromstring(answer.body).attrib
        return False

    with ThreadPoolExecutor(30) as pool:
        opened = sum(pool.map(open_one, range(200)))
    return judge(opened <= 150, f"{opened} are opened")


@attack("Go on with a BOSH session that is not one's own", stock=WITHSTANDS)
def bosh_foreign_session(victim: Victim) -> str:
    body = f"<body xmlns='{BOSH}' rid='1' sid='{uuid.uuid4()}'><iq xmlns='jabber:client' type='get' id='x'/></body>"
    place = (*victim.target.at(victim.web), victim.domain, "/http-bind")
    answer = web.request(*place, method="POST", body=body.encode(), ca_file=victim.target.ca_file)
    ended = answer.status == 404 or b"item-not-found" in answer.body
    return judge(ended, f"{answer.status}{' item-not-found' if b'item-not-found' in answer.body else ''}")


@attack("A BOSH body of a billion laughs", stock=WITHSTANDS)
def bosh_entity_bomb(victim: Victim) -> str:
    body = f"<!DOCTYPE x [<!ENTITY a 'ha'><!ENTITY b '{'&a;' * 10}'>]><body xmlns='{BOSH}' rid='1' to='&b;'/>"
    place = (*victim.target.at(victim.web), victim.domain, "/http-bind")
    answer = web.request(*place, method="POST", body=body.encode(), ca_file=victim.target.ca_file)
    return judge(b"sid=" not in answer.body, f"{answer.status}")


def websocket(victim: Victim) -> WebSocketStream:
    """A WebSocket on which the stream is open. Raises NotOffered."""
    try:
        stream = WebSocketStream(*victim.target.at(victim.web), victim.domain, victim.domain)
    except ConnectionError as refused:
        raise NotOffered(str(refused)) from None
    stream.open()
    return stream


def frame_answer(victim: Victim, data: bytes, wait: float = 15) -> str:
    """How the server ends a WebSocket on which these octets come. Raises Succeeded."""
    with websocket(victim) as stream:
        try:
            with contextlib.suppress(OSError):
                stream.channel.send(data)
            with contextlib.suppress(ET.ParseError):  # Prosody's last words there
                stream.expect("nothing", timeout=wait)
            stream.expect("nothing", timeout=wait)
        except (StreamEnded, Refused) as ended:
            return str(ended)
        except TimeoutError:
            raise Succeeded(f"still listening after {wait:g} s") from None
    raise AssertionError


@attack("A WebSocket frame that says it has a gigabyte", "FLOOD-01", stock=None)
def websocket_large_frame(victim: Victim) -> str:
    head = bytes([0x80 | TEXT, 0x80 | 127]) + (1024**3).to_bytes(8, "big") + os.urandom(4)
    return frame_answer(victim, head + b"x" * 40_000)


@attack("A WebSocket frame that is not masked", stock=None)
def websocket_unmasked(victim: Victim) -> str:
    return frame_answer(victim, bytes([0x80 | TEXT, 5]) + b"hello", wait=5)


@attack("A WebSocket message of fragments without end", "FLOOD-01", stock=None)
def websocket_fragments(victim: Victim) -> str:
    fragment = bytes([0, 0x80 | 126]) + (16_000).to_bytes(2, "big") + bytes(4) + b"x" * 16_000
    first = bytes([TEXT, 0x80 | 126]) + (16_000).to_bytes(2, "big") + bytes(4) + b"<" + b"x" * 15_999
    return frame_answer(victim, first + fragment * 40)
