"""What the network alone costs: a TCP connection and a TLS handshake to each port, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from xml.etree import ElementTree as ET

from verification.targets import NotOffered, Target

from . import tls, xmpp

HTTPS = 443
PORTS = (xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT, HTTPS)


def seconds(targets: Sequence[Target]) -> float:
    """The seconds of one connection to each port, added up, on average over the targets."""
    with ThreadPoolExecutor() as pool:
        return sum(pool.map(_seconds, *zip(*product(targets, PORTS)))) / len(targets)


def _seconds(target: Target, port: int) -> float:
    """A port that does not answer, or hangs up, takes no time."""
    began = time.perf_counter()
    try:
        with _channel(target, port) as channel:
            channel.start_tls(tls.Offer(target.domain))
    except (NotOffered, OSError, tls.Refused, xmpp.StreamEnded, ET.ParseError):
        return 0.0
    return time.perf_counter() - began


def _channel(target: Target, port: int) -> tls.Channel:
    return tls.Channel.connect(*target.at(port)) if port == HTTPS else target.channel(port, sender="peer.example")
