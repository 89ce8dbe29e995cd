"""Strangers write without links, and to few; whoever is known is not held back."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
from conftest import GENTLE, OPEN, PEER, archived, arrives, refusal, send, settle, stranger

from verification.probes.services import FORM, MUC, invite, join
from verification.probes.xmpp import Client, StanzaError

TEXT = "<body>Hello there</body>"
LINK = "<body>Look at https://example.org/offer</body>"
LINKS = {
    "an address": LINK,
    "in capitals": "<body>HTTPS://EXAMPLE.ORG</body>",
    "without its scheme": "<body>see www.example.org</body>",
    "a short one": "<body>t.me/offer</body>",
    "a room": "<body>xmpp:den@conference.example.org?join</body>",
    "in the subject": f"<subject>http://example.org</subject>{TEXT}",
    "beside the text": f"{TEXT}<x xmlns='jabber:x:oob'><url>https://example.org/</url></x>",
    "in formatted text": f"{TEXT}<html xmlns='http://jabber.org/protocol/xhtml-im'>"
    "<body xmlns='http://www.w3.org/1999/xhtml'><a href='https://example.org/'>here</a></body></html>",
    "in a form": f"{TEXT}<x xmlns='jabber:x:data' type='form'><instructions>https://example.org/</instructions></x>",
    "to be confirmed": f"{TEXT}<confirm xmlns='http://jabber.org/protocol/http-auth' id='1' method='GET'"
    " url='https://example.org/'/>",
    "beside an event": f"{LINK}<event xmlns='http://jabber.org/protocol/pubsub#event'/>",
    "around an element": "<body>www.<x xmlns='urn:example:x'/>example.org</body>",
}
OMEMO = (
    "<body>I sent you an OMEMO encrypted message. See https://conversations.im/omemo</body>"
    "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'/><payload>bm8gbGluaw==</payload></encrypted>"
)
LIMIT = 5  # people, as the inventory has it


@pytest.mark.control("SPAM-03")
@pytest.mark.parametrize("form", LINKS)
def test_links_of_strangers_come_back(enter, evidence, form):
    mallory, bob = enter(f"mallory@{OPEN}"), enter(f"bob@{OPEN}")
    error = refusal(mallory, bob.bare, LINKS[form])
    evidence(f"{form} from a stranger -> {error}")
    assert error.condition == "policy-violation"
    assert "does not know you" in str(error)


@pytest.mark.control("SPAM-03")
def test_requests_of_strangers_have_no_links(enter, evidence):
    mallory, bob = enter(f"mallory@{OPEN}"), enter(f"bob@{OPEN}")
    mallory.send(f"<presence type='subscribe' to='{bob.bare}'><status>https://example.org</status></presence>")
    error = StanzaError(mallory.wait("presence", type="error"))
    evidence(f"a request to become a contact, with a link -> {error}")
    assert error.condition == "policy-violation"
    assert not [asked for asked in bob.kept("presence") if asked.get("type") == "subscribe"]


@pytest.mark.control("SPAM-03")
@pytest.mark.parametrize("resource", ["bare", "there", "elsewhere"])
def test_there_is_no_way_around_by_the_resource(enter, peer, evidence, resource):
    bob, eve, server = enter(f"bob@{OPEN}"), stranger(), peer()
    to = {"bare": bob.bare, "there": bob.jid, "elsewhere": f"{bob.bare}/nowhere"}[resource]
    held, taken = send(server, to, LINK, from_=eve), send(server, bob.bare, TEXT, from_=eve)
    arrives(bob, held, last=taken)
    assert not archived(bob, held)
    evidence(f"from {PEER} to {resource}: text -> delivered, link -> neither delivered nor archived")


@pytest.mark.control("SPAM-03")
def test_the_first_encrypted_message_is_delivered(person, evidence):
    alice, bob = person(), person()
    bob.wait("message", id=send(alice, bob.bare, OMEMO))
    evidence("an OMEMO message of a stranger, with the link that clients put beside it -> delivered")


@pytest.mark.control("SPAM-03")
def test_who_is_on_the_roster_sends_links(person, evidence):
    alice, bob = person(), person()
    assert refusal(alice, bob.bare, LINK).condition == "policy-violation"
    bob.iq("set", f"<query xmlns='jabber:iq:roster'><item jid='{alice.bare}'/></query>")
    bob.wait("message", id=send(alice, bob.bare, LINK))
    evidence("a link from who is on the roster -> delivered")


@pytest.mark.control("SPAM-03")
def test_who_was_written_to_answers_with_links(person, host, evidence):
    alice, bob = person(), person()
    alice.wait("message", id=send(bob, alice.bare, TEXT))
    bob.wait("message", id=send(alice, bob.bare, LINK))
    host.check_output("prosodyctl shell module reload strangers %s", OPEN)  # the answer may come after a restart
    bob.wait("message", id=send(alice, bob.bare, LINK))
    evidence("a link as an answer -> delivered")


@pytest.mark.control("SPAM-03")
def test_a_receipt_makes_nobody_known(person):
    alice, bob = person(), person()
    alice.wait("message", id=send(bob, alice.bare, "<received xmlns='urn:xmpp:receipts' id='x'/>"))
    assert refusal(alice, bob.bare, LINK).condition == "policy-violation"


@pytest.mark.control("SPAM-03")
def test_administrators_and_rooms_send_links(enter, person, evidence):
    admin, alice, bob = enter(f"admin@{OPEN}"), person(GENTLE), person()
    bob.wait("message", id=send(admin, bob.bare, LINK))
    room = f"{uuid.uuid4()}@conference.gentle.example"
    join(alice, room, "alice")
    alice.iq("set", f"<query xmlns='{MUC}#owner'>{FORM}</x></query>", to=room)
    invite(alice, room, bob.bare)
    join(bob, room, "bob")
    bob.wait("message", id=send(alice, room, LINK, "groupchat"))
    bob.wait("message", id=send(alice, f"{room}/bob", LINK))
    alice.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=room)
    evidence("a link from an administrator, in a room, and privately in a room -> delivered")


@pytest.mark.control("SPAM-03")
def test_a_stranger_writes_to_few(enter, peer, evidence):
    bob, eve, server = enter(f"bob@{OPEN}"), stranger(), peer()
    for number in range(LIMIT):
        send(server, f"n{number}@{OPEN}", TEXT, from_=eve)
    held, taken = send(server, bob.bare, TEXT, from_=eve), send(server, bob.bare, TEXT, from_=stranger())
    arrives(bob, held, last=taken)
    evidence(f"from {PEER}: the message to the person no. {LIMIT + 1} -> not delivered")


@pytest.mark.control("SPAM-03")
@pytest.mark.parametrize("domain", [OPEN, "far.example"], ids=["here", "elsewhere"])
def test_people_of_ours_write_to_few_strangers(person, evidence, domain):
    alice = person()
    sent = {send(alice, f"n{number}@{domain}", TEXT): number for number in range(LIMIT + 2)}
    alice.send(f"<presence type='subscribe' to='n99@{domain}'/>")
    settle(alice)
    errors = [(sent[m.get("id")], StanzaError(m)) for m in alice.kept("message") if m.get("type") == "error"]
    held = {number for number, error in errors if error.condition == "policy-violation"}
    requests = [p for p in alice.kept("presence") if p.get("type") == "error"]
    evidence(f"{LIMIT + 2} people {domain}: held back {sorted(held)}, and the request: {StanzaError(requests[0])}")
    assert held == {LIMIT, LIMIT + 1}
    assert StanzaError(requests[0]).condition == "policy-violation"


def letter(kind: str, to: str, text: str = TEXT) -> str:
    """An invitation to a room, or the word that it is declined, which the room hands on."""
    return f"{text}<x xmlns='{MUC}#user'><{kind} to='{to}'/></x>"


@pytest.mark.control("SPAM-03")
def test_an_invitation_through_a_room_is_its_author_s(person, evidence):
    mallory, bob = person(GENTLE), person()
    with room_of(mallory) as room:
        error = refusal(mallory, room, letter("invite", bob.bare, LINK), "normal")
        send(mallory, room, letter("invite", bob.bare), "normal")
        invitation = bob.wait("message", from_=room)
        sent = [refusal_or_none(mallory, room, letter("invite", f"n{n}@far.example")) for n in range(LIMIT)]
    evidence(f"an invitation with a link -> {error}; without -> delivered; to the person no. {LIMIT + 1} -> {sent[-1]}")
    assert error.condition == "policy-violation"
    assert "https:" not in "".join(invitation.itertext())
    assert [each and each.condition for each in sent] == [None] * (LIMIT - 1) + ["policy-violation"]


@pytest.mark.control("SPAM-03")
def test_nobody_declines_towards_people_who_have_no_part_in_the_room(person, peer, evidence):
    alice, bob, server = person(GENTLE), person(), peer(f"conference.{GENTLE}")
    with room_of(alice) as room:
        held = [send(server, room, letter("decline", bob.bare), "normal", stranger()) for _ in range(2)]
        for name in (alice.bare, f"{room}/owner"):
            held.append(send(server, room, letter("decline", name, LINK), "normal", stranger()))
            taken = send(server, room, letter("decline", name), "normal", stranger())
            arrives(alice, *held, last=taken)
        assert bob.silent("message", from_=room)
    evidence("a stranger declines towards who has no part in the room, or with a link -> not delivered")


@contextlib.contextmanager
def room_of(owner: Client) -> Iterator[str]:
    """A new room of somebody, in which messages need no encryption."""
    room = f"{uuid.uuid4()}@conference.{GENTLE}"
    join(owner, room, "owner")
    owner.iq("set", f"<query xmlns='{MUC}#owner'>{FORM}</x></query>", to=room)
    yield room
    owner.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=room)


def refusal_or_none(sender: Client, to: str, payload: str) -> StanzaError | None:
    """Send a message, and return why it came back, if it did."""
    identifier = send(sender, to, payload, "normal")
    settle(sender)
    errors = [message for message in sender.kept("message") if message.get("id") == identifier]
    return StanzaError(errors[0]) if errors else None
