"""Rooms"""

from __future__ import annotations

import contextlib
import time
import uuid

from verification.probes.services import FORM, MUC, invite, join
from verification.probes.xmpp import Client, StanzaError

from .catalogue import GIVES_IN, WITHSTANDS, Succeeded, attack, judge, refusal
from .stage import Victim

LIMIT = 150  # of 200
SILENCE = 2.0  # seconds


@contextlib.contextmanager
def room(victim: Victim, owner: Client, opened: bool = False):
    """A new room of somebody of the office: as the server makes it, or one that everybody may enter."""
    address = f"{uuid.uuid4()}@{victim.muc}"
    join(owner, address, "owner")
    choice = "<field var='muc#roomconfig_membersonly'><value>0</value></field>" if opened else ""
    kind = "<field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>"
    owner.iq("set", f"<query xmlns='{MUC}#owner'>{FORM}{kind}{choice}</x></query>", to=address)
    yield address
    owner.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=address)


@attack("Enter a room uninvited", "MUC-02", stock=GIVES_IN)
def uninvited(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob, room(victim, alice) as address:
        return refusal(lambda: join(bob, address, "bob"), "let in")


@attack("Speak in a room as somebody else", "MUC-02", stock=WITHSTANDS)
def stolen_nick(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob, room(victim, alice) as address:
        invite(alice, address, bob.bare)
        return refusal(lambda: join(bob, address, "owner"), "speaks as the owner")


@attack("Throw the owner out of a room", "MUC-02", stock=WITHSTANDS)
def coup(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob, room(victim, alice) as address:
        invite(alice, address, bob.bare)
        join(bob, address, "bob")
        item = f"<query xmlns='{MUC}#admin'><item affiliation='none' jid='{alice.bare}'/></query>"
        return refusal(lambda: bob.iq("set", item, to=address), "thrown out")


@contextlib.contextmanager
def visited(victim: Victim):
    """An open room: its owner, a visitor, its address."""
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob, room(victim, alice, True) as at:
        yield alice, bob, at


@attack("200 messages at once to an open room", "FLOOD-06", stock=GIVES_IN)
def room_flood(victim: Victim) -> str:
    with visited(victim) as (alice, bob, address):
        join(bob, address, "bob")
        bob.send(
            "".join(
                f"<message type='groupchat' to='{address}' id='g{n}'><body>{n}</body></message>" for n in range(200)
            )
        )
        heard = listen(alice, 8)
        return judge(heard <= LIMIT, f"{heard} of 200 reach the others")


def listen(client: Client, seconds: float) -> int:
    """How many messages with a body come within that time, until there is a silence."""
    deadline, heard = time.monotonic() + seconds, 0
    while (left := deadline - time.monotonic()) > 0:
        try:
            heard += client.wait("message", timeout=min(left, SILENCE)).find("{jabber:client}body") is not None
        except TimeoutError:
            break
    return heard


@attack("Enter and leave an open room 100 times at once", "FLOOD-06", stock=GIVES_IN)
def join_flood(victim: Victim) -> str:
    with visited(victim) as (alice, bob, address):
        enter = f"<presence to='{address}/bob'><x xmlns='{MUC}'/></presence>"
        leave = f"<presence to='{address}/bob' type='unavailable'/>"
        bob.send((enter + leave) * 100)
        entered = arrivals(alice, f"{address}/bob", 4)
        return judge(entered <= LIMIT / 2, f"{entered} of 100 are told to the others")


def arrivals(client: Client, nick: str, seconds: float) -> int:
    """How often somebody is seen to enter within that time."""
    deadline, seen = time.monotonic() + seconds, 0
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            seen += client.wait("presence", timeout=left, from_=nick).get("type") is None
    return seen


def letter(kind: str, to: str) -> str:
    """A link in what a room hands on to somebody."""
    return f"<body>Look at https://example.org/offer</body><x xmlns='{MUC}#user'><{kind} to='{to}'/></x></message>"


@attack("A link to somebody unknown, as an invitation to a room", "SPAM-03", stock=GIVES_IN)
def invitation_spam(victim: Victim) -> str:
    name = str(uuid.uuid4())
    with victim.log_in("bob", victim.office) as bob, victim.log_in("carol") as carol, room(victim, carol) as address:
        bob.send("<presence/>")
        carol.send(f"<message to='{address}' id='{name}'>{letter('invite', bob.bare)}")
        if not bob.silent("message", id=name):
            raise Succeeded("delivered in the name of the room")
        return str(StanzaError(carol.wait("message", id=name)))


@attack("The same from another server, as if an invitation were declined", "SPAM-03", stock=GIVES_IN)
def decline_spam(victim: Victim) -> str:
    name = str(uuid.uuid4())
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob", victim.office) as bob:
        bob.send("<presence/>")
        with room(victim, alice) as address, victim.trusted_peer() as peer:
            peer.send(f"<message to='{address}' from='m@{peer.sender}' id='{name}'>{letter('decline', bob.bare)}")
            if not bob.silent("message", id=name):
                raise Succeeded("delivered in the name of the room")
            return "not delivered"
