"""Whoever behaves has a turn soon, however much others have to say."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from attacks.members import ping
from attacks.stage import Victim

SESSIONS = 10  # of one account, which floods
AT_ONCE = 100  # messages of each
ROUNDS = 5
FEW, MANY = 30, 100  # messages that are handled while somebody's ping waits: with turns, and without


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
