"""A well-behaved client: slixmpp, which verifies the server's certificate and keeps to the rules."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from slixmpp import ClientXMPP


class LoginFailed(Exception):
    """The client did not get in; the text says where it stopped."""


@dataclass(frozen=True)
class Login:
    """Who logs in, where, and which PEM file holds the roots that the server's certificate must lead to."""

    jid: str
    password: str
    address: str
    port: int
    ca_file: Path
    direct_tls: bool = False


class WellBehavedClient(ClientXMPP):
    """Logs in and waits for messages. To be made inside the event loop that it runs in."""

    def __init__(self, login: Login) -> None:
        super().__init__(login.jid, login.password)
        self.login = login
        self.ca_certs = login.ca_file
        self.enable_direct_tls = login.direct_tls
        self.enable_starttls = not login.direct_tls
        self.inbox: asyncio.Queue[str] = asyncio.Queue()
        self.add_event_handler("message", lambda message: self.inbox.put_nowait(message["body"]))

    async def log_in(self, timeout: float = 15.0) -> None:
        """Connect, log in and become available; at most `timeout` seconds. Raises LoginFailed."""
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def settle(word: str) -> None:
            if not outcome.done():
                outcome.set_result(word)

        self.add_event_handler("session_start", lambda _: settle(""))
        for event in ("failed_all_auth", "ssl_invalid_chain", "connection_failed", "disconnected"):
            self.add_event_handler(event, lambda _, name=event: settle(name.replace("_", " ")))
        self.connect(self.login.address, self.login.port)
        try:
            word = await asyncio.wait_for(outcome, timeout)
        except TimeoutError:
            word = f"no session within {timeout:g} s"
        if word:
            self.cancel_connection_attempt()
            raise LoginFailed(f"{self.login.jid}: {word}")
        self.send_presence()

    async def receive(self, body: str) -> None:
        """Wait for the message with that body; others, such as those kept from before, are passed over."""
        while await self.inbox.get() != body:
            pass


async def exchange(sender: Login, receiver: Login, body: str, timeout: float = 10.0) -> None:
    """Log both in, send `body` from one to the other, and wait until it arrives.

    Raises LoginFailed, TimeoutError after `timeout` seconds.
    """
    clients = WellBehavedClient(sender), WellBehavedClient(receiver)
    try:
        await asyncio.gather(*(client.log_in() for client in clients))
        clients[0].send_message(mto=clients[1].boundjid, mbody=body, mtype="chat")
        await asyncio.wait_for(clients[1].receive(body), timeout)
    finally:
        await asyncio.gather(*(client.disconnect(wait=0.5) for client in clients))
