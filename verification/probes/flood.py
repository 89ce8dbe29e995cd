"""Floods, and what those who behave notice of one: established clients that ping, and people who log in.

Standard library alone: it runs at the attacker's and at the visitor's end of the cable. Times are of the machine's
monotonic clock, which its containers share. Every flood ends by itself.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import itertools
import os
import re
import resource
import secrets
import select
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["guesses", "handshakes", "idle", "logins", "pings", "stanzas", "watch"]

PATIENCE = 10.0  # seconds that somebody who logs in waits
SO_TIMESTAMPNS = 35  # linux/include/uapi/asm-generic/socket.h
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE


class Refused(Exception):
    """The server said no, or hung up; the text is what it said last."""


class Talk:
    """A stream of a client at `place`, an address and a port, over TLS as soon as the server lets it."""

    def __init__(self, place: tuple[str, int], domain: str, source: str = "", patience: float = PATIENCE) -> None:
        self.domain, self.said = domain, ""
        self.socket = socket.create_connection(place, patience, source_address=(source, 0) if source else None)
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.open()
            self.ask("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "<proceed")
            self.said = ""
            self.socket = TLS.wrap_socket(self.socket, server_hostname=domain)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, text: str, wanted: str) -> re.Match[str]:
        """Send text and wait for an answer that has a match of `wanted`. Raises Refused, OSError."""
        self.socket.sendall(text.encode())
        while not (found := re.search(wanted, self.said)):
            more = self.socket.recv(65536).decode()
            self.said += more
            if not more or re.search("</failure>|</stream:error>", self.said):
                raise Refused(self.said)
        self.said = self.said[found.end() :]
        return found

    def open(self) -> None:
        """Open the stream, and wait for its features."""
        self.offered = self.ask(
            f"<stream:stream to='{self.domain}' version='1.0' xmlns='jabber:client'"
            " xmlns:stream='http://etherx.jabber.org/streams'>",
            "(?s)<stream:features.*?(?:</stream:features>|/>$)",
        )[0]

    def authenticate(self, name: str, password: str) -> None:
        """SCRAM with the best hash that is offered; without a password, a guess that costs the guesser nothing."""
        self.open()
        sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
        number = "256" if "SCRAM-SHA-256<" in self.offered else "1"
        digest = f"sha{number}"
        first = f"n={name},r={secrets.token_urlsafe(18)}"
        challenge = self.ask(
            f"<auth {sasl} mechanism='SCRAM-SHA-{number}'>{_base64(f'n,,{first}')}</auth>", "<challenge[^>]*>([^<]+)"
        )[1]
        challenge = base64.b64decode(challenge).decode()
        fields = dict(item.split("=", 1) for item in challenge.split(","))
        proof = secrets.token_bytes(hashlib.new(digest).digest_size)
        final = f"c=biws,r={fields['r']}"
        if password:
            salted = _salted(digest, password, fields["s"], int(fields["i"]))
            key = hmac.digest(salted, b"Client Key", digest)
            signed = hmac.digest(hashlib.new(digest, key).digest(), f"{first},{challenge},{final}".encode(), digest)
            proof = bytes(a ^ b for a, b in zip(key, signed))
        final += f",p={base64.b64encode(proof).decode()}"
        self.ask(f"<response {sasl}>{_base64(final)}</response>", "<success")

    def log_in(self, name: str, password: str) -> None:
        """Authenticate and bind a resource. Raises Refused, OSError."""
        self.authenticate(name, password)
        self.open()
        self.ask("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", "</iq>")


@functools.cache
def _salted(digest: str, password: str, salt: str, iterations: int) -> bytes:
    """The password as SCRAM salts it, which clients keep: it takes them longer than the login takes the server."""
    return hashlib.pbkdf2_hmac(digest, password.encode(), base64.b64decode(salt), iterations)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def pings(place: tuple[str, int], jids: dict[str, str], rate: float, seconds: float) -> list[list[float]]:
    """Log in with each of these JIDs and passwords, and have each ping its server `rate` times a second (XEP-0199).

    Whether answers come or not, the next ping is sent in time. Returns when each was sent, and the seconds until its
    answer came (see `_arrival`): a thousand where none did.
    """
    poll = selectors.DefaultSelector()
    talks = []
    for jid, password in jids.items():
        name, _, domain = jid.partition("@")
        talk = Talk(place, domain)
        talk.log_in(name, password)
        talk.socket.setblocking(False)
        talk.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        poll.register(talk.socket, selectors.EVENT_READ, talk)
        talks.append(talk)
    print("ready", flush=True)
    sent: dict[str, float] = {}
    took: dict[str, float] = {}
    begun = time.monotonic()
    turns = itertools.cycle(talks)
    for number in itertools.count():
        due = begun + number / rate / len(talks)
        while (left := due - time.monotonic()) > 0:
            for key, _ in poll.select(left):
                came = _arrival(key.fileobj)
                for answered in re.findall(rb"id=.(p\d+)", _read(key.fileobj)):
                    took.setdefault(answered.decode(), came - sent[answered.decode()])
        if due > begun + seconds + 1:
            break
        if due < begun + seconds:
            talk = next(turns)
            sent[f"p{number}"] = time.monotonic()
            with contextlib.suppress(OSError):
                ping = f"<iq type='get' id='p{number}' to='{talk.domain}'><ping xmlns='urn:xmpp:ping'/></iq>"
                talk.socket.send(ping.encode())
    return [[when, took.get(name, 1000.0)] for name, when in sent.items()]


def _arrival(connection: Any) -> float:
    """When the last of what can be read came, by the monotonic clock.

    The kernel's own time-stamp: a process that shares the processor with the server has its turn later, a client on a
    machine of its own has not.
    """
    with contextlib.suppress(OSError):
        _, ancillary, _, _ = socket.socket.recvmsg(connection, 65536, socket.CMSG_SPACE(16), socket.MSG_PEEK)
        if ancillary:
            seconds, nanoseconds = struct.unpack("@ll", ancillary[0][2])
            return seconds + nanoseconds / 1e9 - (time.time() - time.monotonic())
    return time.monotonic()


def _read(connection: Any) -> bytes:
    """What has come by now."""
    data = b""
    with contextlib.suppress(ssl.SSLWantReadError, OSError):
        while more := connection.recv(65536):
            data += more
    return data


def logins(place: tuple[str, int], jid: str, password: str, rate: float, seconds: float) -> list[list[float]]:
    """Log in `rate` times a second, and out. Returns when each began, and its seconds: a thousand if it failed."""
    name, _, domain = jid.partition("@")
    outcomes: list[list[float]] = []

    def log_in() -> None:
        begun = time.monotonic()
        took = 1000.0
        with contextlib.suppress(Refused, OSError), Talk(place, domain) as talk:
            talk.log_in(name, password)
            took = time.monotonic() - begun
        outcomes.append([begun, took])

    log_in()
    outcomes.clear()
    print("ready", flush=True)
    people = []
    for _ in range(int(seconds * rate)):
        people.append(threading.Thread(target=log_in))
        people[-1].start()
        time.sleep(1 / rate)
    for each in people:
        each.join(PATIENCE)
    return sorted(outcomes)


def watch(_place: tuple[str, int], pid: int, seconds: float) -> list[list[float]]:
    """Look at a process ten times a second. Returns when, its seconds of processor time, and the MB that it holds."""
    process = Path("/proc", str(pid))
    print("ready", flush=True)
    end = time.monotonic() + seconds
    looks: list[list[float]] = []
    while time.monotonic() < end:
        used = int((process / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
        held = int((process / "status").read_text(encoding="ascii").partition("VmRSS:")[2].split()[0]) / 1024
        looks.append([time.monotonic(), used, held])
        time.sleep(0.1)
    return looks


def _step_back() -> None:
    """Take only what servers and visitors leave of the processor: an attacker has one of their own."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")


def _crowd(number: int, seconds: float, act: Callable[[int], None]) -> int:
    """Have so many do the same again and again until the time is over; how often they got through it."""
    _step_back()
    end = time.monotonic() + seconds
    print("ready", flush=True)
    done = itertools.count()

    def persist(which: int) -> None:
        while time.monotonic() < end:
            try:
                act(which)
                next(done)
            except (Refused, OSError):
                time.sleep(0.01)

    crowd = [threading.Thread(target=persist, args=(which,), daemon=True) for which in range(number)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join(max(0.0, end - time.monotonic()))
    return next(done)


def idle(place: tuple[str, int], sources: list[str], number: int, seconds: float) -> int:
    """Open so many connections and say nothing; open those anew that are closed. How many are open in the end."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _step_back()
    end = time.monotonic() + seconds
    waiting = itertools.cycle(sources)
    poll = selectors.DefaultSelector()
    print("ready", flush=True)
    for _ in range(number):
        _begin(poll, place, next(waiting))
    while (left := end - time.monotonic()) > 0:
        for key, _ in poll.select(left):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if key.data == "connecting" and not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                poll.modify(connection, selectors.EVENT_READ, "open")
                continue
            poll.unregister(connection)
            connection.close()
            _begin(poll, place, next(waiting))
        time.sleep(0.01)
    return sum(key.data == "open" for key in poll.get_map().values())


def _begin(poll: selectors.BaseSelector, place: tuple[str, int], source: str) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen on connecting
    connection.setblocking(False)
    connection.bind((source, 0))
    connection.connect_ex(place)
    poll.register(connection, selectors.EVENT_WRITE, "connecting")


def handshakes(place: tuple[str, int], sources: list[str], domain: str, number: int, seconds: float) -> int:
    """Shake hands over TLS, so many at a time, and hang up. How many handshakes there were."""

    def shake(which: int) -> None:
        Talk(place, domain, sources[which % len(sources)], 1).socket.close()

    return _crowd(number, seconds, shake)


def guesses(place: tuple[str, int], sources: list[str], jid: str, number: int, seconds: float) -> int:
    """Guess the password of an account, so many at a time. How many guesses were looked at."""
    name, _, domain = jid.partition("@")
    looked_at = itertools.count()

    def guess(which: int) -> None:
        with Talk(place, domain, sources[which % len(sources)], 1) as talk:
            try:
                talk.authenticate(name, "")
            except Refused as refused:
                if "not-authorized" in str(refused):
                    next(looked_at)

    _crowd(number, seconds, guess)
    return next(looked_at)


def stanzas(place: tuple[str, int], sources: list[str], jids: dict[str, str], seconds: float) -> int:
    """Log in with each of these, and have each write to the next as fast as it can. How many messages were sent."""
    names = list(jids)
    ready = threading.Barrier(len(names))
    sent: list[bool] = []
    _step_back()
    end = 0.0

    def write(which: int) -> None:
        nonlocal end
        jid, to = names[which], names[(which + 1) % len(names)]
        name, _, domain = jid.partition("@")
        with contextlib.suppress(OSError), Talk(place, domain, sources[which % len(sources)]) as talk:
            talk.log_in(name, jids[jid])
            ping = f"<iq type='get' id='here' to='{domain}'><ping xmlns='urn:xmpp:ping'/></iq>"
            talk.ask(f"<presence/>{ping}", "id=.here")  # and what waited since an earlier round has come
            if ready.wait(PATIENCE) == 0:
                end = time.monotonic() + seconds
                print("ready", flush=True)
            ready.wait(PATIENCE)
            talk.socket.setblocking(False)
            message = f"<message to='{to}' type='chat'><body>{'flood ' * 10}</body></message>".encode()
            left = b""
            while time.monotonic() < end:
                left = left or message * 20
                try:
                    left = left[talk.socket.send(left) :]
                    sent.append(not left)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    select.select([talk.socket], [talk.socket], [], 0.1)
                _read(talk.socket)

    crowd = [threading.Thread(target=write, args=(which,)) for which in range(len(names))]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    return 20 * sum(sent)
