"""People with real clients, who go on talking whatever happens to the server."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from slixmpp import ClientXMPP

from verification.probes.client import Login

PAUSE = 0.02  # seconds between two messages of one person
PATIENCE = 60  # seconds


class Person(ClientXMPP):
    """A client that comes back by itself, and then says again what the server had not acknowledged.

    Attributes:
        here: it has a session in which the server acknowledges.
        resumed: how often it went on with a session, and `begun` how often it began one.
        pending: what it wrote and the server has not acknowledged, in its order.
        acknowledged: what the server has (XEP-0198).
        heard: how often it heard what.
    """

    def __init__(self, login: Login) -> None:
        super().__init__(login.jid, login.password)
        self.login = login
        self.ca_certs = login.ca_file
        self.register_plugin("xep_0198", {"window": 1})
        self.here = False
        self.resumed = self.begun = 0
        self.pending: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self.heard: Counter[str] = Counter()
        self.add_event_handler("sm_enabled", self._begin)
        self.add_event_handler("session_resumed", self._resume)
        self.add_event_handler("disconnected", self._come_back)
        self.add_event_handler("stanza_acked", self._note)
        self.add_event_handler("message", lambda message: self.heard.update([message["body"]]))

    def come(self) -> None:
        """Connect, and go on trying."""
        self.connect(self.login.address, self.login.port)

    def say(self, to: str, body: str) -> None:
        """Send a message."""
        self.pending[body] = to
        self.send_message(mto=to, mbody=body, mtype="chat")

    def lose_connection(self) -> None:
        """As when a telephone leaves its network."""
        self.here = False
        self.abort()

    def _begin(self, _: object) -> None:
        self.here = True
        self.begun += 1
        self.send_presence()
        for body, to in list(self.pending.items()):
            self.say(to, body)

    def _resume(self, _: object) -> None:
        self.here = True
        self.resumed += 1

    def _come_back(self, _: object) -> None:
        self.here = False
        self.come()

    def _note(self, stanza: Any) -> None:
        body = stanza["body"] if stanza.name == "message" else ""
        if self.pending.pop(body, None):
            self.acknowledged.add(body)


class Crowd:
    """People in an event loop of their own, who are asked from another thread.

    Args:
        talkers, listeners: how they log in. Each talker writes to the account of the first listener.
        marker: begins every message.
    """

    def __init__(self, talkers: list[Login], listeners: list[Login], marker: str) -> None:
        self.marker = marker
        self.to = listeners[0].jid
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.talkers, self.listeners = self._ask(self._gather(talkers, listeners))
        self.talking: Future[None] | None = None

    @property
    def everybody(self) -> list[Person]:
        """All of them."""
        return [*self.talkers, *self.listeners]

    @property
    def acknowledged(self) -> set[str]:
        """Every message that the server has acknowledged."""
        return set().union(*(person.acknowledged for person in self.talkers))

    def wait_until(self, condition: Callable[[Person], bool], what: str) -> None:
        """Wait until something is true of everybody. Raises AssertionError."""

        async def wait() -> None:
            while not all(map(condition, self.everybody)):
                await asyncio.sleep(0.1)

        try:
            self._ask(asyncio.wait_for(wait(), PATIENCE))
        except TimeoutError:
            missing = [str(person.boundjid) for person in self.everybody if not condition(person)]
            raise AssertionError(f"after {PATIENCE} s not {what}: {', '.join(missing)}") from None

    def talk(self) -> None:
        """Begin to talk; whoever is away is silent meanwhile."""
        self.talking = asyncio.run_coroutine_threadsafe(self._talk(), self.loop)

    def hush(self) -> None:
        """Stop talking, and wait until all that was said is acknowledged. Raises AssertionError."""
        assert self.talking
        self.talking.cancel()
        self.loop.call_soon_threadsafe(lambda: [person.plugin["xep_0198"].request_ack() for person in self.talkers])
        self.wait_until(lambda person: not person.pending, "acknowledged")

    def lose_connections(self) -> None:
        """Everybody loses the connection."""
        self.loop.call_soon_threadsafe(lambda: [person.lose_connection() for person in self.everybody])

    def leave(self) -> None:
        """Everybody goes for good."""
        self._ask(self._leave())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _ask(self, answer: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(answer, self.loop).result()

    async def _gather(self, *groups: list[Login]) -> list[list[Person]]:
        people = [[Person(login) for login in logins] for logins in groups]
        for person in itertools.chain(*people):
            person.come()
        return people

    async def _talk(self) -> None:
        for number in itertools.count(1):
            for which, person in enumerate(self.talkers):
                if person.here:
                    person.say(self.to, f"{self.marker} {which}-{number:05}.")
            await asyncio.sleep(PAUSE)

    async def _leave(self) -> None:
        if self.talking:
            self.talking.cancel()
        for person in self.everybody:
            person.del_event_handler("disconnected", person._come_back)
            person.cancel_connection_attempt()
        await asyncio.gather(*(person.disconnect(wait=0.5) for person in self.everybody))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
