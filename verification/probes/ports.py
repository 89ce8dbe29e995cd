"""Which TCP ports of an address answer. Standard library and Python 3.8 alone: it also runs on the host under test."""

from __future__ import annotations

import errno
import resource
import select
import socket
import time
from typing import Iterable, Iterator

BATCH = 4000  # sockets at a time


def answering(address: str, ports: Iterable[int], wait: float) -> dict[int, str]:
    """Map each port that answers within `wait` seconds to "open" or "refused".

    A port that a firewall drops or rejects by ICMP is not in the answer: "refused" is the host's own TCP speaking,
    which no firewall has kept from hearing the packet. Raises OSError when the address itself is out of reach.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    size = min(BATCH, hard - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, size + 100), hard))
    remaining = sorted(set(ports))
    found: dict[int, str] = {}
    while remaining:
        batch, remaining = remaining[:size], remaining[size:]
        found.update(_answers(address, batch, wait))
    return found


def _answers(address: str, ports: list[int], wait: float) -> Iterator[tuple[int, str]]:
    sockets: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    try:
        for port in ports:
            family, kind, _, _, endpoint = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
            connection = socket.socket(family, kind)
            connection.setblocking(False)
            sockets[connection.fileno()] = port, connection
            status = connection.connect_ex(endpoint)
            if status not in (0, errno.EINPROGRESS, errno.ECONNREFUSED):
                raise OSError(status, f"{address}: {errno.errorcode[status]}")
            poll.register(connection, select.POLLOUT)
        deadline = time.monotonic() + wait
        while sockets and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                port, connection = sockets.pop(descriptor)
                poll.unregister(descriptor)
                status = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                connection.close()
                if status in (0, errno.ECONNREFUSED):
                    yield port, "refused" if status else "open"
    finally:
        for _, connection in sockets.values():
            connection.close()
