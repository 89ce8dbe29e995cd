"""Floods by a member"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from verification.probes.xmpp import Client, StanzaError, StreamEnded

from .catalogue import GIVES_IN, Slowed, Succeeded, attack, judge
from .stage import Victim

PUBSUB = "http://jabber.org/protocol/pubsub"
DISCO = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
REST_SECONDS = 2
FLOOD_SECONDS = 3
PAUSE = 0.1  # seconds between two requests of a neighbour, who behaves: docs/limits.md has the allowance
RECOVERY = 5.0  # seconds
SLOWER = 2.0  # times the time at rest that people do not notice
MEMORY = 64  # MiB that an attack may cost, with those that run beside it


def ping(client: Client) -> float:
    """The seconds of one round trip to the own server. Raises TimeoutError, StreamEnded."""
    started = time.perf_counter()
    with contextlib.suppress(StanzaError):
        client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=client.stream.domain)
    return time.perf_counter() - started


def trips(client: Client, seconds: float) -> list[float]:
    """The seconds that each of its requests takes, one after another for a time. Raises TimeoutError, StreamEnded."""
    found, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        found.append(ping(client))
        time.sleep(PAUSE)
    return found


def of_19_in_20(times: list[float]) -> float:
    """The time within which 19 of 20 are."""
    return statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]


def flood(victim: Victim, stanza: Callable[[int], str], number: int) -> str:
    """What a member's flood costs somebody of the office, beside the moments before. Raises Succeeded, Slowed."""
    text, ended = "".join(map(stanza, range(number))), []
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob:
        alice.send("<presence/>")
        before = victim.memory()
        rest = trips(alice, REST_SECONDS)

        def send() -> None:
            try:
                bob.send(text)
                bob.stream.expect("nothing", timeout=FLOOD_SECONDS)
            except TimeoutError:
                pass
            except (StreamEnded, OSError) as closed:
                ended.append(str(closed))

        sender = threading.Thread(target=send)
        sender.start()
        try:
            flooded = trips(alice, FLOOD_SECONDS)
        except (TimeoutError, StreamEnded) as failure:
            raise Succeeded(f"a neighbour is not served: {failure}") from None
        finally:
            sender.join()
    back = victim.seconds_away()
    if back >= RECOVERY:
        raise Succeeded(f"nobody can log in for {back:.0f} s")
    slower = of_19_in_20(flooded) / of_19_in_20(rest)
    more, left = victim.peak() - before, victim.memory() - before
    told = f"19 of 20 of a neighbour's {len(flooded)} requests take at most {slower:.1f} times as long as before"
    told += f"; {more:.0f} MiB more, {max(left, 0):.0f} afterwards"
    told += f"; the flood is cut off: {ended[0]}" if ended else ""
    judge(more < MEMORY, told)
    if slower > SLOWER:
        raise Slowed(told)
    return told


@attack("3 000 messages at once to somebody who is there", "FLOOD-06", "FLOOD-22", stock=None, measures=True)
def message_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<message to='alice@{victim.domain}' id='m{n}'><body>flood</body></message>", 3_000)


@attack("3 000 changes of presence at once", "FLOOD-06", "FLOOD-22", stock=None, measures=True)
def presence_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<presence><status>{n}</status></presence>", 3_000)


@attack("500 requests to subscribe", "FLOOD-06", "FLOOD-22", stock=None, measures=True)
def subscription_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<presence type='subscribe' to='n{n}@{victim.domain}'/>", 500)


@attack("3 000 questions what the server can do", "FLOOD-06", "FLOOD-22", stock=None, measures=True)
def disco_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<iq type='get' id='d{n}' to='{victim.domain}'>{DISCO}</iq>", 3_000)


@attack("300 new PubSub nodes, one after another", "FLOOD-06", "FLOOD-22", stock=None, measures=True)
def pubsub_flood(victim: Victim) -> str:
    run = uuid.uuid4().hex[:6]

    def publish(number: int) -> str:
        item = f"<publish node='{run}-{number}'><item id='current'><x xmlns='urn:example:attack'/></item></publish>"
        return f"<iq type='set' id='p{number}'><pubsub xmlns='{PUBSUB}'>{item}</pubsub></iq>"

    return flood(victim, publish, 300)


@attack("1 000 contacts for one account", "FLOOD-06", "FLOOD-22", stock=None, measures=True)
def huge_roster(victim: Victim) -> str:
    def add(number: int) -> str:
        item = f"<item jid='c{number}@example.net' name='{number}'/>"
        return f"<iq type='set' id='r{number}'><query xmlns='jabber:iq:roster'>{item}</query></iq>"

    return flood(victim, add, 1_000)


@attack("1 000 kB at once", "FLOOD-06", "FLOOD-22", stock=None, measures=True)
def byte_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<iq type='result' id='b{n}'/>".ljust(1000), 1_000)


@attack("40 sessions of one account", "FLOOD-04", stock=GIVES_IN)
def many_sessions(victim: Victim) -> str:
    with contextlib.ExitStack() as sessions:
        opened = list(open_sessions(victim, sessions))
        alive = sum(map(answers, opened))
    return judge(alive <= 20, f"{alive} at once")


def open_sessions(victim: Victim, sessions: contextlib.ExitStack) -> Iterator[Client]:
    """As many as the server lets in."""
    for _ in range(40):
        try:
            yield sessions.enter_context(victim.log_in("carol"))
        except (StreamEnded, StanzaError):
            return


def answers(client: Client) -> bool:
    """Whether a session is still there."""
    try:
        ping(client)
    except (StreamEnded, TimeoutError, OSError):
        return False
    return True


@attack("Eight sessions that hold 240 kB of empty elements each", "FLOOD-05", "FLOOD-22", stock=GIVES_IN, waits=True)
def element_memory(victim: Victim) -> str:
    before = victim.memory()
    with contextlib.ExitStack() as sessions:
        held = [sessions.enter_context(victim.log_in("carol", victim.other)) for _ in range(8)]
        for client in held:
            with contextlib.suppress(OSError):
                client.send(f"<message to='{client.bare}'><x xmlns='urn:example:attack'>{'<a/>' * 60_000}")
        most = 0.0
        for _ in range(15):
            time.sleep(2)
            most = max(most, victim.memory() - before)
    return judge(most < MEMORY, f"{max(most, 0):.0f} MiB more")
