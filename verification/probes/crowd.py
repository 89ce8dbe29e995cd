"""Many connections at once, and guesses of passwords.

Standard library alone: it also runs on the host under test.
"""

from __future__ import annotations

import base64
import re
import select
import socket
import ssl
import time

__all__ = ["connects", "crowd", "guess", "packets"]


def _begin(address: str, port: int, source: str | None = None) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    if source:
        connection.bind((source, 0))
    connection.setblocking(False)
    connection.connect_ex((address, port))
    return connection


def crowd(address: str, port: int, number: int, wait: float, latecomer: str) -> dict[str, float]:
    """Begin `number` connections at once, then one from the source `latecomer`, and keep them for `wait` seconds.

    Returns how many of the crowd were `opened` and `refused` by then, the others being met with silence; the `seconds`
    it took to begin them; and whether the latecomer was `served`. A kernel tries again after 1, 3 and 7 seconds
    (RFC 6298).
    """
    started = time.monotonic()
    crowd = [_begin(address, port) for _ in range(number)]
    late = _begin(address, port, latecomer)
    begun = time.monotonic() - started
    opened, refused = _outcomes([*crowd, late], started + wait)
    served = late in opened
    for connection in (*crowd, late):
        connection.close()
    return {"opened": len(opened) - served, "refused": len(refused), "seconds": begun, "served": served}


def packets(address: str, port: int, number: int, wait: float, latecomer: str) -> dict[str, float]:
    """The same over UDP: one packet from each of `number` ports. An answer opens; the host's own no (ICMP) refuses."""
    started = time.monotonic()
    crowd = [_say(address, port) for _ in range(number)]
    late = _say(address, port, latecomer)
    begun = time.monotonic() - started
    answered, refused = _outcomes([*crowd, late], started + wait, select.POLLIN)
    served = late in answered
    for talker in (*crowd, late):
        talker.close()
    return {"opened": len(answered) - served, "refused": len(refused), "seconds": begun, "served": served}


def _say(address: str, port: int, source: str | None = None) -> socket.socket:
    talker = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if source:
        talker.bind((source, 0))
    talker.connect((address, port))
    talker.send(b"anybody there?")
    return talker


def connects(address: str, port: int, wait: float, source: str | None = None) -> bool:
    """Whether a connection opens within `wait` seconds."""
    with _begin(address, port, source) as connection:
        opened, _ = _outcomes([connection], time.monotonic() + wait)
    return bool(opened)


def _outcomes(
    connections: list[socket.socket], deadline: float, event: int = select.POLLOUT
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Those that are open and those that are refused by then."""
    waiting = {connection.fileno(): connection for connection in connections}
    opened: list[socket.socket] = []
    refused: list[socket.socket] = []
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, event)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            poll.unregister(descriptor)
            connection = waiting.pop(descriptor)
            failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            (refused if failed else opened).append(connection)
    return opened, refused


def guess(address: str, port: int, jid: str, times: int) -> list[str]:
    """Log in over direct TLS with a wrong password, again and again; the condition of each refusal (RFC 6120 6.5).

    Ends early, with "silence", when the host no longer lets anybody connect.
    """
    name, _, domain = jid.partition("@")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answers = []
    for _ in range(times):
        try:
            with socket.create_connection((address, port), 3) as plain, context.wrap_socket(
                plain, server_hostname=domain
            ) as stream:
                answers.append(_guess(stream, name, domain))
        except socket.timeout:
            return [*answers, "silence"]
    return answers


def _guess(stream: ssl.SSLSocket, name: str, domain: str) -> str:
    sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"

    def ask(text: str, wanted: str) -> re.Match[str]:
        stream.sendall(text.encode())
        said = ""
        while True:
            found = re.search(f"{wanted}|<failure.*?<(?P<condition>[a-z-]+)", said)
            if found:
                return found
            more = stream.recv(4096).decode()
            if not more:
                raise ConnectionResetError(said)
            said += more

    ask(
        f"<stream:stream to='{domain}' version='1.0' xmlns='jabber:client'"
        " xmlns:stream='http://etherx.jabber.org/streams'>",
        "</stream:features>",
    )
    first = base64.b64encode(f"n,,n={name},r=guess".encode()).decode()
    challenge = ask(f"<auth {sasl} mechanism='SCRAM-SHA-256'>{first}</auth>", "<challenge[^>]*>(?P<challenge>[^<]+)")
    if challenge["condition"]:
        return challenge["condition"]
    nonce = re.search("r=([^,]+)", base64.b64decode(challenge["challenge"]).decode())
    assert nonce, "a challenge without a nonce"
    proof = base64.b64encode(bytes(32)).decode()
    final = base64.b64encode(f"c=biws,r={nonce[1]},p={proof}".encode()).decode()
    return ask(f"<response {sasl}>{final}</response>", "<success")["condition"] or "success"
