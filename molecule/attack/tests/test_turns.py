"""Whoever behaves has a turn soon, however much others have to say."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from attacks.members import ping
from attacks.stage import Victim

from verification.probes.prosody_console import Prosody

SESSIONS = 10  # of one account, which floods
AT_ONCE = 100  # messages of each
ROUNDS = 5
FEW, MANY = 30, 100  # messages that are handled while somebody's ping waits: with turns, and without
MORE = 1000  # messages of each session, which are not handled before it has hung up
CALM, SECONDS = 0.2, 20.0  # share of a processor, and how soon
TIMES = 4  # as many messages between two runs of a timer, without turns

# Counts the messages that are handled between two runs of a timer that is due a hundred times a second.
COUNT = """
    local count, timer = { now = 0, most = 0 }, require "prosody.util.timer"
    local function add() count.now = count.now + 1 end
    local function look()
        count.most, count.now = math.max(count.most, count.now), 0
        return 0.01
    end
    local events, task = prosody.hosts["%s"].events, timer.add_task(0.01, look)
    events.add_handler("pre-message/full", add, 1000)
    function prosody.stop_counting()
        events.remove_handler("pre-message/full", add)
        timer.stop(task)
        return math.max(count.most, count.now)
    end
    return true
"""


def handled_meanwhile(victim: Victim) -> int:
    """How many messages of a flood the server handles while a ping waits for its answer; the worst of all rounds."""
    arrivals: list[float] = []
    over = threading.Event()
    waits = []
    with contextlib.ExitStack() as sessions:
        bob, alice = (sessions.enter_context(victim.log_in(name, victim.office)) for name in ("bob", "alice"))
        carols = [sessions.enter_context(victim.log_in("carol")) for _ in range(SESSIONS)]

        def receive() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    bob.wait("message", timeout=0.5)
                    arrivals.append(time.monotonic())

        receiver = threading.Thread(target=receive)
        receiver.start()
        for number in range(ROUNDS):
            flood = f"<message to='{bob.jid}' type='chat'><body>{number}</body></message>" * AT_ONCE
            for carol in carols:
                carol.send(flood)
            time.sleep(0.01)
            asked = time.monotonic()
            ping(alice)
            waits.append((asked, time.monotonic()))
            await_silence(arrivals)
        over.set()
        receiver.join()
    return max(sum(asked < arrival <= answered for arrival in arrivals) for asked, answered in waits)


def await_silence(arrivals: list[float]) -> None:
    """Wait until nothing has arrived for a second."""
    while time.monotonic() - (arrivals[-1] if arrivals else 0) < 1:
        time.sleep(0.1)


@pytest.mark.control("FLOOD-21")
def test_a_ping_has_its_turn_in_the_midst_of_a_flood(victims, evidence):
    ours, stock = (handled_meanwhile(victims[name]) for name in ("ours", "stock"))
    evidence(
        f"while a ping waits, at most {ours} messages of a flood are handled; by a stock server {stock}, in {ROUNDS}"
    )
    assert ours <= FEW
    assert stock >= MANY, "a stock server shows no difference: this test proves nothing"


def handled_between_timers(victim: Victim) -> int:
    """How many messages of a flood are handled before a timer has its turn; the most of all rounds."""
    prosody = Prosody(victim.host)
    with contextlib.ExitStack() as sessions:
        bob = sessions.enter_context(victim.log_in("bob", victim.office))
        carols = [sessions.enter_context(victim.log_in("carol")) for _ in range(SESSIONS)]
        flood = f"<message to='{bob.jid}' type='chat'><body>flood</body></message>" * AT_ONCE
        prosody.run(" ".join((COUNT % victim.domain).split()))
        for _ in range(ROUNDS):
            for carol in carols:
                carol.send(flood)
            for carol in carols:
                carol.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=victim.domain)
        (most,) = prosody.run("return prosody.stop_counting()")
        return most


@pytest.mark.control("FLOOD-21")
def test_timers_have_their_turn_in_the_midst_of_a_flood(victims, evidence):
    ours, stock = (handled_between_timers(victims[name]) for name in ("ours", "stock"))
    evidence(f"between two runs of a timer at most {ours} messages of a flood are handled; by a stock server {stock}")
    assert stock >= MANY, "a stock server shows no difference: this test proves nothing"
    assert ours * TIMES <= stock


@pytest.mark.control("FLOOD-21")
def test_who_floods_and_hangs_up_can_be_shown_out(victims, evidence):
    """What hung up in the queue, and is closed by the server, must not be reported to it without end."""
    victim = victims["ours"]
    with contextlib.ExitStack() as sessions:
        bob = sessions.enter_context(victim.log_in("bob", victim.office))
        carols = [sessions.enter_context(victim.log_in("carol")) for _ in range(SESSIONS)]
        flood = f"<message to='{bob.jid}' type='chat'><body>flood</body></message>" * MORE
        for carol in carols:
            carol.send(flood)
    shown_out = victim.host.check_output("prosodyctl shell account disconnect %s", carols[0].bare)
    seconds = seconds_until_calm(victim)
    evidence(f"{SESSIONS} sessions flood and hang up, then: {shown_out}; Prosody is at rest after {seconds:.0f} s")
    assert seconds < SECONDS


def seconds_until_calm(victim: Victim) -> float:
    """How long it takes until the server has nothing to do for a second; SECONDS if longer."""
    started, used = time.monotonic(), victim.processor()
    while (elapsed := time.monotonic() - started) < SECONDS:
        time.sleep(1)
        before, used = used, victim.processor()
        if used - before < CALM:
            return elapsed
    return SECONDS
