"""What a time-out was about is told: the connection, or the answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from verification.probes.tls import Channel


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    """Where somebody listens who takes no call: one waits, and there is no room for a second."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        yield server.getsockname()


def connect(place: tuple[str, int]) -> Channel:
    address, port = place
    return Channel.connect(address, port, timeout=0.2)


def test_a_server_that_says_nothing(place):
    with connect(place) as channel, pytest.raises(TimeoutError, match=r"not a word within 0\.2 s"):
        channel.receive()


def test_a_server_that_lets_nobody_connect(place):
    with contextlib.ExitStack() as stack, pytest.raises(TimeoutError, match=rf"port {place[1]}, within 0\.2 s"):
        for _ in range(5):
            stack.enter_context(connect(place))
