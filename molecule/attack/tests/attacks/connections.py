"""Connections"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from verification.probes import crowd, ports, xmpp
from verification.probes.tls import Channel, Refused
from verification.probes.xmpp import StreamEnded

from . import crowds
from .catalogue import GIVES_IN, Succeeded, attack, judge
from .stage import Victim

T = TypeVar("T")
EVERY_PORT = range(1, 65536)
MEANT = {22, 80, 443, 5222, 5223, 5269, 5270}
CROWD = 600
LET_IN = 500  # of the crowd, at most: what a source may open at once, and a little more
HOLD = 5.0  # seconds
BORNE = 70  # seconds that a connection may say nothing of use


def silence(victim: Victim, begin: Callable[[], Channel], drip: bytes = b"") -> str:
    """How long the server bears a connection on which nothing, or a drip a second, follows."""
    started = time.monotonic()
    with begin() as channel:
        while (elapsed := time.monotonic() - started) < BORNE:
            try:
                if drip:
                    channel.send(drip)
                if not channel.receive(timeout=1):
                    return f"closed after {elapsed:.0f} s"
            except TimeoutError:
                continue
            except (OSError, Refused):
                return f"closed after {elapsed:.0f} s"
    raise Succeeded(f"open after {BORNE} s")


@attack("A connection that says nothing", "FLOOD-03", stock=GIVES_IN, waits=True)
def silent(victim: Victim) -> str:
    return silence(victim, lambda: Channel.connect(*victim.target.at(xmpp.C2S)))


@attack("STARTTLS, and no handshake", "FLOOD-03", stock=None, waits=True)
def silent_handshake(victim: Victim) -> str:
    return silence(victim, lambda: victim.target.channel(xmpp.C2S))


@attack("A handshake, and no login", "FLOOD-03", stock=GIVES_IN, waits=True)
def silent_login(victim: Victim) -> str:
    return silence(victim, lambda: victim.target.stream(xmpp.C2S)[0].channel)


@attack("A stream header, a character a second", "FLOOD-03", stock=GIVES_IN, waits=True)
def dripping(victim: Victim) -> str:
    return silence(victim, lambda: Channel.connect(*victim.target.at(xmpp.C2S)), b" ")


@attack("A server that says nothing", "FLOOD-03", stock=GIVES_IN, waits=True)
def silent_server(victim: Victim) -> str:
    return silence(victim, lambda: Channel.connect(*victim.target.at(xmpp.S2S)))


@attack("A login, and no session", "FLOOD-04", stock=GIVES_IN, waits=True)
def silent_session(victim: Victim) -> str:
    jid = f"carol@{victim.domain}"

    def begin() -> Channel:
        login = xmpp.Client.login(*victim.target.at(xmpp.C2S), jid, victim.passwords["carol"], bind=False)
        return login.stream.channel

    return silence(victim, begin)


@attack("Knock at every TCP port", "FW-01", stock=GIVES_IN)
def every_port(victim: Victim) -> str:
    answers = victim.attackers[1].call(ports, "answering", victim.address, EVERY_PORT, 2.0)
    found: Mapping[int, str] = {int(port): answer for port, answer in answers.items()}
    opened = sorted(port for port, answer in found.items() if answer == "open")
    told = f"open: {', '.join(map(str, opened))}; {len(found) - len(opened)} others tell that they are closed"
    return judge(set(found) <= MEANT, told)


def during(flood: Callable[[], T], office: Callable[[], object]) -> tuple[T, int]:
    """What the flood returns, and how often the office was served meanwhile, once a second."""
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood)
        served = 0
        time.sleep(1.5)  # until the flood is there
        while not flooding.done():
            office()
            served += 1
            time.sleep(0.5)
        return flooding.result(), served


def served(victim: Victim, port: int, number: int) -> str:
    """How many of an attacker's connections a port takes at once, while the office is served."""
    attacker = victim.attackers[1]

    def flood() -> int:
        address = attacker.address
        return int(attacker.call(crowd, "crowd", victim.address, port, number, HOLD, address)["opened"])

    try:
        opened, logins = during(flood, victim.is_up)
    except (OSError, StreamEnded, Refused, TimeoutError) as failed:
        raise Succeeded(f"meanwhile a login of others fails: {failed or type(failed).__name__}") from None
    return judge(opened <= LET_IN, f"{opened} of {number} are open, {logins} logins of others succeed meanwhile")


@attack(f"{CROWD} connections of clients from one address", "FLOOD-20", stock=GIVES_IN)
def client_connections(victim: Victim) -> str:
    return served(victim, xmpp.C2S, CROWD)


@attack(f"{CROWD} connections of servers from one address", "FLOOD-20", stock=GIVES_IN)
def server_connections(victim: Victim) -> str:
    return served(victim, xmpp.S2S, CROWD)


@attack("800 connections of browsers from one address", "FLOOD-20", stock=GIVES_IN)
def web_connections(victim: Victim) -> str:
    return served(victim, victim.web, 800)


@attack("1 500 TLS handshakes from one address, 16 at once", "FLOOD-20", stock=None)
def tls_handshakes(victim: Victim) -> str:
    attacker, number = victim.attackers[0], 1_500
    place = (victim.address, xmpp.C2S, victim.domain)

    def flood() -> int:
        return int(attacker.call(crowds, "handshakes", *place, number, 16, HOLD))

    with contextlib.suppress(StreamEnded):
        done, logins = during(flood, victim.is_up)
        return judge(done <= LET_IN, f"{done} are done in {HOLD:g} s, {logins} logins of others succeed meanwhile")
    raise Succeeded("meanwhile a login of others fails")
