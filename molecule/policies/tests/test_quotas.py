"""What one account may keep here, and do in a room."""

from __future__ import annotations

import uuid

import pytest
from conftest import OPEN, PEER, archived, send, settle, stranger

from verification.probes.services import FORM, MUC, invite, join
from verification.probes.xmpp import C2S, Client, StanzaError, StreamEnded

# As the inventory has them.
CONTACTS, REQUESTS, NODES, INVITATIONS, MESSAGES, WAITING, CALLS = 10, 10, 10, 3, 100, 10, 40
PUBSUB = "http://jabber.org/protocol/pubsub"
COMMANDS = "http://jabber.org/protocol/commands"


def until_refused(client: Client, payload, most: int, to: str = "") -> tuple[int, StanzaError]:
    """How many of such requests are answered, and why the next is not."""
    for number in range(most):
        try:
            client.iq("set", payload(number), to=to)
        except StanzaError as refused:
            return number, refused
    return most, StanzaError(client.iq("get", "<ping xmlns='urn:xmpp:ping'/>"))


@pytest.mark.control("FLOOD-07")
def test_a_roster_is_bounded(person, evidence):
    alice = person()

    def item(number: int) -> str:
        return f"<query xmlns='jabber:iq:roster'><item jid='c{number}@far.example'/></query>"

    taken, refused = until_refused(alice, item, CONTACTS * 2)
    evidence(f"{taken} contacts, then {refused}")
    assert (taken, refused.condition) == (CONTACTS, "resource-constraint")
    alice.iq("set", item(0))  # what is there may be changed
    alice.send(f"<presence type='subscribe' to='one-more@{OPEN}'/>")
    assert StanzaError(alice.wait("presence", type="error")).condition == "resource-constraint"
    alice.iq("set", item(0).replace("'/>", "' subscription='remove'/>"))
    alice.iq("set", item(CONTACTS))


@pytest.mark.control("FLOOD-07")
def test_requests_to_become_a_contact_are_bounded(person, peer, evidence):
    bob, server = person(), peer()
    for number in range(REQUESTS + 5):
        server.send(f"<presence type='subscribe' from='r{number}@{PEER}' to='{bob.bare}'/>")
    bob.wait("message", id=send(server, bob.bare, "<body>then</body>", from_=stranger()))
    asked = [p for p in bob.kept("presence") if p.get("type") == "subscribe"]
    evidence(f"{REQUESTS + 5} requests -> {len(asked)} reach the account")
    assert len(asked) == REQUESTS


@pytest.mark.control("FLOOD-07")
def test_nodes_of_personal_eventing_are_bounded(person, evidence):
    alice = person()

    def publish(number: int) -> str:
        item = "<item id='current'><x xmlns='urn:example:quota'/></item>"
        return f"<pubsub xmlns='{PUBSUB}'><publish node='n{number}'>{item}</publish></pubsub>"

    taken, refused = until_refused(alice, publish, NODES * 2)
    evidence(f"{taken} nodes, then {refused}")
    assert refused.condition == "resource-constraint"
    assert 0 < taken <= NODES
    alice.iq("set", publish(0))


@pytest.mark.control("FLOOD-07")
def test_open_invitations_are_bounded(person, evidence):
    alice = person()
    command = f"<command xmlns='{COMMANDS}' node='urn:xmpp:invite#invite' action='execute'/>"
    taken, refused = until_refused(alice, lambda _: command, INVITATIONS * 2, to=OPEN)
    evidence(f"{taken} invitations, then {refused}")
    assert (taken, refused.condition) == (INVITATIONS, "resource-constraint")


@pytest.mark.control("FLOOD-07")
def test_calls_of_other_servers_are_bounded(person, evidence):
    alice = person()
    for number in range(CALLS + 5):
        alice.send(f"<iq type='get' id='c{number}' to='s{number}.far.example'><ping xmlns='urn:xmpp:ping'/></iq>")
    settle(alice)
    errors = {answer.get("id"): StanzaError(answer) for answer in alice.kept("iq")}
    refused = [each for each, error in errors.items() if error.condition == "resource-constraint"]
    evidence(f"questions to {CALLS + 5} servers -> {len(refused)} refused: {errors[refused[0]]}")
    assert refused == [f"c{number}" for number in range(CALLS, CALLS + 5)]


@pytest.mark.control("FLOOD-07")
def test_reports_of_spam_are_bounded(person, enter, evidence):
    admin, alice = enter(f"admin@{OPEN}"), person()
    for number in range(25):
        report = "<report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'/>"
        alice.iq("set", f"<block xmlns='urn:xmpp:blocking'><item jid='s{number}@{PEER}'>{report}</item></block>")
    settle(admin)
    told = [m for m in admin.kept("message") if alice.bare in "".join(m.itertext())]
    blocked = alice.iq("get", "<blocklist xmlns='urn:xmpp:blocking'/>").findall(".//{urn:xmpp:blocking}item")
    evidence(f"25 reports -> {len(told)} messages to the administrator, {len(blocked)} blocked")
    assert (len(told), len(blocked)) == (20, 25)


@pytest.mark.control("FLOOD-07")
def test_messages_that_wait_for_a_login_are_bounded(person, target, evidence):
    alice, bob = person(), person()
    bob.send("</stream:stream>")
    with pytest.raises(StreamEnded):  # then nothing goes to that session any more
        while True:
            bob.stream.receive()
    sent = [send(alice, bob.bare, f"<body>{number}</body>") for number in range(WAITING + 5)]
    settle(alice)
    with Client.login(*target.at(C2S), bob.bare, bob.password) as bob:
        bob.send("<presence/>")
        settle(bob)
        waited = [m.get("id") for m in bob.kept("message") if m.find("{urn:xmpp:delay}delay") is not None]
        kept = [message for message in sent if archived(bob, message)]
    evidence(f"{len(sent)} messages for somebody who is away -> {len(waited)} at the next login, all in the archive")
    assert waited == sent[:WAITING]
    assert kept == sent


@pytest.mark.control("FLOOD-07")
def test_an_archive_is_bounded(person, evidence):
    alice, bob = person(), person()
    first = send(alice, bob.bare, "<body>the first</body>")
    bob.wait("message", id=first)
    assert archived(bob, first)
    for _ in range(MESSAGES + 5):
        last = send(alice, bob.bare, "<body>one more</body>")
    bob.wait("message", id=last, timeout=20)
    rsm = "<set xmlns='http://jabber.org/protocol/rsm'><max>0</max></set>"
    count = bob.iq("set", f"<query xmlns='urn:xmpp:mam:2'>{rsm}</query>").findtext(
        ".//{http://jabber.org/protocol/rsm}count"
    )
    evidence(f"{MESSAGES + 6} messages -> {count} in the archive")
    assert int(count or 0) <= MESSAGES
    assert archived(bob, last)


@pytest.mark.control("FLOOD-08")
def test_a_member_cannot_flood_a_room(person, evidence):
    alice, bob = person("gentle.example"), person("gentle.example")
    room = f"{uuid.uuid4()}@conference.gentle.example"
    join(alice, room, "alice")
    alice.iq("set", f"<query xmlns='{MUC}#owner'>{FORM}</x></query>", to=room)
    invite(alice, room, bob.bare)
    join(bob, room, "bob")
    told = {}
    for kind, to in (("groupchat", room), ("chat", f"{room}/alice")):
        sent = [send(bob, to, f"<body>{number}</body>", kind) for number in range(100)]
        settle(bob)
        refused = sum(m.get("type") == "error" and m.get("id") in sent for m in bob.kept("message"))
        settle(alice)
        heard = sum(m.get("id") in sent and m.get("type") != "error" for m in alice.kept("message"))
        told[kind] = heard, refused
    evidence(f"100 messages of a member each: heard and refused {told}")
    alice.wait("message", id=send(alice, room, "<body>I am not meant</body>", "groupchat"))
    alice.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=room)
    assert sum(heard for heard, _ in told.values()) < 100
    assert all(heard + refused == 100 for heard, refused in told.values())
    assert told["groupchat"][0] >= 50
