"""Strangers write without links, and to few; whoever is known is not held back."""

from __future__ import annotations

import uuid

import pytest
from conftest import GENTLE, OPEN, PEER, archived, arrives, refusal, send, settle, stranger

from verification.probes.services import FORM, MUC, invite, join
from verification.probes.xmpp import StanzaError

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
}
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
@pytest.mark.parametrize("resource", ["bare", "there", "elsewhere"])
def test_there_is_no_way_around_by_the_resource(enter, peer, evidence, resource):
    bob, eve, server = enter(f"bob@{OPEN}"), stranger(), peer()
    to = {"bare": bob.bare, "there": bob.jid, "elsewhere": f"{bob.bare}/nowhere"}[resource]
    held, taken = send(server, to, LINK, from_=eve), send(server, bob.bare, TEXT, from_=eve)
    arrives(bob, held, last=taken)
    assert not archived(bob, held)
    evidence(f"from {PEER} to {resource}: text -> delivered, link -> neither delivered nor archived")


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
