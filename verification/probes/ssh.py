"""The first words of SSH (RFC 4253): what a server offers, and how it answers a client that knows only weak words."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT = 5.0  # seconds
SILENCE = 1.5  # seconds without a word after which the server has accepted the algorithms and waits for the client
MSG_DISCONNECT, MSG_KEXINIT = 1, 20
HOST_KEYS = "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256,ssh-rsa"


@dataclass(frozen=True)
class Offer:
    """The algorithms of a KEXINIT message, most wanted first, the same in both directions."""

    kex: tuple[str, ...]
    host_keys: tuple[str, ...]
    ciphers: tuple[str, ...]
    macs: tuple[str, ...]


def offered(address: str, port: int) -> Offer:
    """What the server is ready to use. Raises OSError, or EOFError when it hangs up."""
    with socket.create_connection((address, port), TIMEOUT) as connection:
        names = _names(_greet(connection))
    return Offer(names[0], names[1], names[3], names[5])


def refusal(address: str, port: int, algorithms: Mapping[str, str]) -> str:
    """How the server turns down a client that knows these algorithms alone, or "" if it takes them.

    `algorithms` has lists separated by commas under "kex", "cipher" and "mac". Raises as `offered`.
    """
    ciphers, macs = [algorithms["cipher"]] * 2, [algorithms["mac"]] * 2
    lists = [algorithms["kex"], HOST_KEYS, *ciphers, *macs, "none", "none", "", ""]
    payload = bytes([MSG_KEXINIT]) + os.urandom(16) + b"".join(_string(names.encode()) for names in lists) + bytes(5)
    padding = 8 - (len(payload) + 5) % 8 + 8
    packet = struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)
    with socket.create_connection((address, port), TIMEOUT) as connection:
        _greet(connection)
        connection.sendall(packet)
        connection.settimeout(SILENCE)
        try:
            answer = _packet(connection)
        except TimeoutError:
            return ""
        except (EOFError, ConnectionResetError):
            return "connection closed"
        if answer[0] == MSG_DISCONNECT:
            length = struct.unpack(">I", answer[5:9])[0]
            return answer[9 : 9 + length].decode(errors="replace")
        return ""


def methods(address: str, port: int, user: str = "nobody") -> list[str]:
    """The ways in that sshd offers this user. Raises OSError without an OpenSSH client, EOFError without an answer."""
    options = ["PreferredAuthentications=none", "BatchMode=yes", "StrictHostKeyChecking=no", "ControlPath=none",
               "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null"]  # fmt: skip
    command = ["ssh", "-F", "none", "-p", str(port), *(word for option in options for word in ("-o", option))]
    said = subprocess.run([*command, f"{user}@{address}", "true"], capture_output=True, text=True, check=False).stderr
    denied = re.search(r"Permission denied \(([^)]*)\)", said)
    if not denied:
        raise EOFError(said.strip())
    return denied[1].split(",")


def _greet(connection: socket.socket) -> bytes:
    """Exchange the version lines and return the server's KEXINIT."""
    connection.sendall(b"SSH-2.0-portcullis\r\n")
    line = b""
    while not line.startswith(b"SSH-"):
        line = b""
        while not line.endswith(b"\n"):
            line += _exactly(connection, 1)
    packet = _packet(connection)
    if packet[0] != MSG_KEXINIT:
        raise EOFError(f"message {packet[0]} in place of KEXINIT")
    return packet


def _packet(connection: socket.socket) -> bytes:
    length, padding = struct.unpack(">IB", _exactly(connection, 5))
    return _exactly(connection, length - 1)[: length - 1 - padding]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        received = connection.recv(count - len(data))
        if not received:
            raise EOFError("the server hung up")
        data += received
    return data


def _string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def _names(kexinit: bytes) -> list[tuple[str, ...]]:
    lists, rest = [], kexinit[17:]
    for _ in range(10):
        length = struct.unpack(">I", rest[:4])[0]
        lists.append(tuple(rest[4 : 4 + length].decode().split(",")))
        rest = rest[4 + length :]
    return lists
