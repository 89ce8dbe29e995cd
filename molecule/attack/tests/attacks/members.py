"""Floods by a member"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from verification.probes.xmpp import Client, StanzaError, StreamEnded

from .catalogue import GIVES_IN, WITHSTANDS, attack, judge
from .stage import Victim

PUBSUB = "http://jabber.org/protocol/pubsub"
DISCO = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
FLOOD_SECONDS = 3
RECOVERY = 5.0  # seconds
MEMORY = 40  # MiB that an attack may leave behind


def ping(client: Client) -> float:
    """The seconds of one round trip to the own server. Raises TimeoutError, StreamEnded."""
    started = time.perf_counter()
    with contextlib.suppress(StanzaError):
        client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=client.stream.domain)
    return time.perf_counter() - started


def flood(victim: Victim, stanza: Callable[[int], str], number: int) -> str:
    """What a member's flood costs somebody of the office: round trips before and during it."""
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob:
        rest = statistics.median(ping(alice) for _ in range(20))
        text = "".join(map(stanza, range(number)))
        ended: list[str] = []

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
        trips, deadline = [], time.monotonic() + FLOOD_SECONDS
        with contextlib.suppress(TimeoutError, StreamEnded):
            while time.monotonic() < deadline:
                trips.append(ping(alice))
                time.sleep(0.02)
        served = time.monotonic() >= deadline
        sender.join()
    cut = f"; the flood is cut off: {ended[0]}" if ended else ""
    slow = statistics.quantiles(trips, n=20)[-1] / rest if len(trips) > 1 else 0
    told = f"a neighbour's {len(trips)} requests are answered, 19 of 20 within {slow:.1f} times the time at rest{cut}"
    back = victim.seconds_away()
    return judge(served and back < RECOVERY, told if back < RECOVERY else f"nobody can log in for {back:.0f} s")


@attack("3 000 messages at once to somebody who is there", "FLOOD-06", stock=WITHSTANDS)
def message_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<message to='alice@{victim.domain}' id='m{n}'><body>flood</body></message>", 3_000)


@attack("3 000 changes of presence at once", "FLOOD-06", stock=WITHSTANDS)
def presence_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<presence><status>{n}</status></presence>", 3_000)


@attack("500 requests to subscribe", "FLOOD-06", stock=None)
def subscription_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<presence type='subscribe' to='n{n}@{victim.domain}'/>", 500)


@attack("3 000 questions what the server can do", "FLOOD-06", stock=None)
def disco_flood(victim: Victim) -> str:
    return flood(victim, lambda n: f"<iq type='get' id='d{n}' to='{victim.domain}'>{DISCO}</iq>", 3_000)


@attack("300 new PubSub nodes, one after another", "FLOOD-06", stock=None)
def pubsub_flood(victim: Victim) -> str:
    run = uuid.uuid4().hex[:6]

    def publish(number: int) -> str:
        item = f"<publish node='{run}-{number}'><item id='current'><x xmlns='urn:example:attack'/></item></publish>"
        return f"<iq type='set' id='p{number}'><pubsub xmlns='{PUBSUB}'>{item}</pubsub></iq>"

    return flood(victim, publish, 300)


@attack("1 000 contacts for one account", "FLOOD-06", stock=None)
def huge_roster(victim: Victim) -> str:
    def add(number: int) -> str:
        item = f"<item jid='c{number}@example.net' name='{number}'/>"
        return f"<iq type='set' id='r{number}'><query xmlns='jabber:iq:roster'>{item}</query></iq>"

    return flood(victim, add, 1_000)


@attack("1 000 kB at once", "FLOOD-06", stock=None)
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


@attack("Eight sessions that hold 240 kB of empty elements each", "FLOOD-05", stock=GIVES_IN, waits=True)
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
