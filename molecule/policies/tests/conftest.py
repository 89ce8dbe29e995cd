"""The fixtures of the verification, accounts that are made for one test, other servers, and real clients."""

from __future__ import annotations

import contextlib
import secrets
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra

from verification.conftest import evidence, given_accounts, target
from verification.probes import entrances, xmpp
from verification.probes.tls import Offer
from verification.probes.xmpp import Client, StanzaError, Stream
from verification.targets import Target

OPEN, GENTLE, SECRET = "open.example", "gentle.example", "secret.example"
PEER = "good.example"


@pytest.fixture
def password_of(given_accounts) -> Callable[[str], str]:
    """A function that returns the password of an account."""
    return {account["jid"]: account["password"] for account in given_accounts}.__getitem__


@pytest.fixture
def enter(target: Target, password_of) -> Iterator[Callable[..., Client]]:
    """A function that logs in to an account by its address, in one of the ways in."""
    with contextlib.ExitStack() as clients:

        def log_in(jid: str, way: str = "SASL") -> Client:
            client = clients.enter_context(entrances.log_in(target, way, jid, password_of(jid)))
            client.send("<presence/>")
            return client

        yield log_in


@pytest.fixture
def person(host, target: Target) -> Iterator[Callable[..., Client]]:
    """A function that makes an account whom nobody knows, and logs in to it."""
    with contextlib.ExitStack() as clients:

        def made(domain: str = OPEN) -> Client:
            jid, password = f"p{secrets.token_hex(4)}@{domain}", secrets.token_urlsafe(12)
            host.check_output("printf '%%s\\n' %s %s | prosodyctl adduser %s", password, password, jid)
            client = clients.enter_context(Client.login(*target.at(xmpp.C2S), jid, password))
            client.password = password  # type: ignore[attr-defined]
            client.send("<presence/>")
            return client

        yield made


@pytest.fixture
def peer(target: Target) -> Iterator[Callable[..., Stream]]:
    """A function that connects as another server, which ours believes."""
    with contextlib.ExitStack() as streams:

        def connect(to: str = OPEN, name: str = PEER) -> Stream:
            pair = Path(target.variables["certificates"], "strangers")
            offer = Offer(to, certificate=pair / f"{name}.crt", key=pair / f"{name}.key")
            stream, _ = target.stream(xmpp.S2S, to, offer=offer, sender=name)
            streams.enter_context(stream)
            xmpp.sasl(stream, "EXTERNAL", name)
            stream.open()
            return stream

        yield connect


@pytest.fixture(scope="session")
def clients_machine(pytestconfig: pytest.Config) -> testinfra.host.Host:
    """Where the real clients are (molecule/policies/clients)."""
    return testinfra.get_host(f"ansible://client?ansible_inventory={pytestconfig.getoption('ansible_inventory')}")


def stranger() -> str:
    """An address at another server of which nobody has heard."""
    return f"eve-{uuid.uuid4().hex[:8]}@{PEER}/x"


def send(sender: Client | Stream, to: str, payload: str, kind: str = "chat", from_: str = "") -> str:
    """Send a message, from that address where a server sends it; its id, which occurs nowhere else."""
    identifier = str(uuid.uuid4())
    author = f" from='{from_}'" if from_ else ""
    sender.send(f"<message type='{kind}' id='{identifier}' to='{to}'{author}>{payload}</message>")
    return identifier


def refusal(sender: Client, to: str, payload: str, kind: str = "chat") -> StanzaError:
    """Send a message that must come back, and return why it did."""
    return StanzaError(sender.wait("message", type="error", id=send(sender, to, payload, kind)))


def archived(client: Client, identifier: str, of: str = "") -> bool:
    """Whether the account's archive, or a room's, has a message of that id."""
    last = "<set xmlns='http://jabber.org/protocol/rsm'><before/></set>"
    client.iq("set", f"<query xmlns='urn:xmpp:mam:2'>{last}</query>", to=of)
    return any(inner.get("id") == identifier for message in client.kept("message") for inner in message.iter())


def arrives(client: Client, *refused: str, last: str) -> None:
    """The last of some messages arrives, and none of those before it."""
    client.wait("message", id=last)
    found = {message.get("id") for message in client.kept("message")}
    assert not found & set(refused), "delivered"


def settle(client: Client) -> None:
    """Wait until the server has seen what the client has sent."""
    client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=client.jid.partition("@")[2].partition("/")[0])
