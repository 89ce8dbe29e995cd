"""XML"""

from __future__ import annotations

import contextlib
import time

from verification.probes import xmpp
from verification.probes.xmpp import Stream, StreamEnded

from .catalogue import GIVES_IN, WITHSTANDS, Succeeded, attack, judge
from .stage import Victim

KIBI = 1024
LAUGHS = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
HEADER = "<stream:stream to='{}' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"


def ending(stream: Stream, patience: float = 15) -> str:
    """How the server ends the stream. Raises Succeeded when it goes on listening."""
    try:
        stream.expect("nothing", timeout=patience)
    except StreamEnded as ended:
        return str(ended)
    except TimeoutError:
        raise Succeeded(f"still listening after {patience:g} s") from None
    raise AssertionError


def header(victim: Victim, text: str) -> str:
    """How the server ends a stream that begins with this text."""
    with victim.target.channel(xmpp.C2S) as channel:
        channel.start_tls(xmpp.default_offer(victim.domain, xmpp.C2S))
        stream = Stream(channel, victim.domain)
        stream.send(text)
        return ending(stream)


def swallows(victim: Victim, stanza: str) -> str:
    """How the server ends a stream on which this comes after login. Raises Succeeded when it takes it."""
    with victim.log_in("bob") as bob:
        bob.send(stanza)
        return ending(bob.stream)


@attack("A stanza of 40 kB before login", "FLOOD-01", stock=WITHSTANDS)
def oversized_before_login(victim: Victim) -> str:
    with victim.target.stream(xmpp.C2S)[0] as stream:
        stream.send(f"<message to='{victim.domain}'><body>{'x' * 40_000}")
        return ending(stream)


@attack("A stanza of 40 kB from a server that has proven nothing", "FLOOD-01", stock=WITHSTANDS)
def oversized_from_server(victim: Victim) -> str:
    with victim.plaintext(xmpp.S2S, "peer.example") as stream:
        stream.open()
        stream.send(f"<message to='{victim.domain}'><body>{'x' * 40_000}")
        return ending(stream)


@attack("A message that never ends, after login", "FLOOD-02", stock=WITHSTANDS, waits=True)
def endless_stanza(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        bob.send("<message to='alice'><body>")
        deadline = time.monotonic() + 90
        with contextlib.suppress(OSError, xmpp.Refused):
            for sent in range(2048):
                bob.send("x" * KIBI)
                if ended := ending_now(bob.stream):
                    return f"{ended}, after {sent} KiB were sent"
                assert time.monotonic() < deadline
        return ending(bob.stream, 60)


def ending_now(stream: Stream) -> str:
    """How the server has ended the stream, if it has."""
    try:
        stream.expect("nothing", timeout=0.01)
    except StreamEnded as ended:
        return str(ended)
    except TimeoutError:
        return ""
    raise AssertionError


@attack("A message of 60 000 empty elements, for the memory that they take", "FLOOD-05", stock=GIVES_IN, waits=True)
def many_elements(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        bob.send(f"<message to='{bob.bare}'><x xmlns='urn:example:attack'>{'<a/>' * 60_000}")
        return ending(bob.stream, 40)


@attack("A message of elements in elements, 20 000 deep", "FLOOD-05", stock=None, waits=True)
def deep_nesting(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        bob.send(f"<message to='{bob.bare}'>{'<a>' * 20_000}")
        return ending(bob.stream, 20)


@attack("Elements in elements before login, 20 000 deep", stock=None)
def deep_nesting_before_login(victim: Victim) -> str:
    with victim.target.stream(xmpp.C2S)[0] as stream:
        stream.send("<message>" + "<a>" * 20_000)
        return ending(stream)


@attack("An entity that grows to a billion laughs", stock=WITHSTANDS)
def entity_bomb(victim: Victim) -> str:
    doctype = f"<!DOCTYPE bomb [<!ENTITY l0 'ha'>{LAUGHS}]>"
    return header(victim, f"<?xml version='1.0'?>{doctype}{HEADER.format('&l9;')}>")


@attack("An entity that reads a file of the server", stock=WITHSTANDS)
def external_entity(victim: Victim) -> str:
    doctype = "<!DOCTYPE x [<!ENTITY file SYSTEM 'file:///etc/passwd'>]>"
    ended = header(victim, f"<?xml version='1.0'?>{doctype}{HEADER.format(victim.domain)}>&file;")
    return judge("root:" not in ended, ended)


@attack("A stream header of 3 000 attributes", stock=WITHSTANDS)
def many_attributes(victim: Victim) -> str:
    attributes = " ".join(f"a{number}=''" for number in range(3_000))
    return header(victim, f"{HEADER.format(victim.domain)} {attributes}>")


@attack("Comments and processing instructions", stock=WITHSTANDS)
def comments(victim: Victim) -> str:
    return swallows(victim, "<!-- nothing --><?attack now?>")


@attack("Octets that are not UTF-8", stock=WITHSTANDS)
def invalid_utf8(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        bob.stream.send(b"<message to='bob'><body>\xff\xfe\xc0\xaf\xed\xa0\x80</body></message>")
        return ending(bob.stream)


@attack("Characters that XML forbids", stock=WITHSTANDS)
def forbidden_characters(victim: Victim) -> str:
    return swallows(victim, "<message to='bob'><body>&#0;&#x1;&#xFFFF;</body></message>")


@attack("Tags that do not match", stock=WITHSTANDS)
def mismatched_tags(victim: Victim) -> str:
    return swallows(victim, "<message to='bob'><body></message></body>")
