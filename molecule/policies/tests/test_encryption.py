"""Plaintext passes on one virtual host, is advised against on another, refused on a third and in the first's rooms."""

from __future__ import annotations

import uuid

import pytest
from conftest import GENTLE, OPEN, PEER, SECRET, archived, arrives, refusal, send

from verification.probes import entrances, xmpp
from verification.probes.xmpp import StanzaError

ROOMS = "conference.open.example"
MUC = "http://jabber.org/protocol/muc"

BODY = "<body>The server reads this</body>"
KEYS = "<header sid='27183'><key rid='31415'>BASE64ENCODED</key><iv>BASE64ENCODED</iv></header>"
ENCRYPTED = {  # as the examples of the specifications have them
    "OMEMO 0.3": f"<encrypted xmlns='eu.siacs.conversations.axolotl'>{KEYS}<payload>AAAA</payload></encrypted>{BODY}",
    "OMEMO 0.7": f"<encrypted xmlns='urn:xmpp:omemo:1'>{KEYS}<payload>AAAA</payload></encrypted>",
    "OMEMO 0.9": f"<encrypted xmlns='urn:xmpp:omemo:2'>{KEYS}<payload>AAAA</payload></encrypted>{BODY}",
    "OX": f"<openpgp xmlns='urn:xmpp:openpgp:0'>AAAA</openpgp>{BODY}",
    "OpenPGP": f"<x xmlns='jabber:x:encrypted'>AAAA</x>{BODY}",
}
WORDLESS = {
    "receipt": "<received xmlns='urn:xmpp:receipts' id='x'/>",
    "chat state": "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
    "marker": "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>",
    "retraction": "<retract xmlns='urn:xmpp:message-retract:1' id='x'/>"
    f"<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:message-retract:1'/>{BODY}",
    "call": "<propose xmlns='urn:xmpp:jingle-message:0' id='x'/>",
}
PLAIN = {
    "plaintext": BODY,
    "an empty payload": f"<encrypted xmlns='urn:xmpp:omemo:2'>{KEYS}</encrypted>{BODY}",
    "formatted text": "<html xmlns='http://jabber.org/protocol/xhtml-im'>"
    "<body xmlns='http://www.w3.org/1999/xhtml'>The server reads this</body></html>",
    "a link": "<x xmlns='jabber:x:oob'><url>https://example.org/</url></x>",
    "a subject": "<subject>The server reads this</subject>",
}


@pytest.mark.control("E2EE-02")
@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize(
    ("sender", "receiver"), [(SECRET, SECRET), (SECRET, OPEN), (OPEN, SECRET)], ids=["within", "from", "to"]
)
def test_words_that_are_not_encrypted_come_back(enter, evidence, sender, receiver, form):
    alice, bob = enter(f"alice@{sender}"), enter(f"bob@{receiver}")
    identifier = str(uuid.uuid4())
    alice.send(f"<message type='chat' id='{identifier}' to='{bob.jid}'>{PLAIN[form]}</message>")
    error = StanzaError(alice.wait("message", type="error", id=identifier))
    evidence(f"{form} from {sender} to {receiver} -> {error}")
    assert error.condition == "policy-violation"
    assert "OMEMO" in str(error)
    assert bob.silent("message", seconds=0.3, id=identifier)
    assert not archived(bob, identifier)


@pytest.mark.control("E2EE-02")
@pytest.mark.parametrize("form", ENCRYPTED | WORDLESS)
def test_what_is_encrypted_or_wordless_arrives(enter, evidence, form):
    alice, bob = enter(f"alice@{SECRET}"), enter(f"bob@{SECRET}")
    bob.wait("message", id=send(alice, bob.jid, (ENCRYPTED | WORDLESS)[form]))
    evidence(f"{form} within {SECRET} -> delivered")


@pytest.mark.control("E2EE-02")
def test_other_servers_deliver_encrypted_messages_alone(enter, peer, evidence):
    bob, server = enter(f"bob@{SECRET}"), peer(SECRET)
    refused, taken = (
        send(server, bob.jid, payload, from_=f"eve@{PEER}/x") for payload in (BODY, ENCRYPTED["OMEMO 0.9"])
    )
    arrives(bob, refused, last=taken)
    evidence(f"from {PEER} over s2s: OMEMO delivered, plaintext not")


@pytest.mark.control("E2EE-02")
def test_advice_comes_with_a_message_that_passes(host, enter, evidence):
    host.check_output(
        "prosodyctl shell module reload e2ee_policy %s", GENTLE
    )  # which forgets whom it has advised today
    alice, bob = enter(f"alice@{GENTLE}"), enter(f"bob@{GENTLE}")
    bob.wait("message", id=send(alice, bob.jid, BODY))
    bob.wait("message", id=send(alice, bob.jid, BODY))
    bob.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=GENTLE)
    alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=GENTLE)
    words = [message.findtext("client:body", "", xmpp.NS) for message in alice.kept("message")]
    evidence(f"two plaintext messages within {GENTLE} -> delivered, {len(words)} advice")
    assert len(words) == 1, "once a day"
    assert "OMEMO" in words[0]


@pytest.mark.control("E2EE-02")
def test_a_room_service_has_a_policy_of_its_own(enter, evidence):
    alice = enter(f"alice@{OPEN}")
    room = f"{uuid.uuid4()}@{ROOMS}"
    alice.send(f"<presence to='{room}/alice'><x xmlns='{MUC}'/></presence>")
    alice.wait("presence", from_=f"{room}/alice")
    alice.iq("set", f"<query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query>", to=room)
    try:
        error = refusal(alice, room, BODY, "groupchat")
        alice.wait("message", id=send(alice, room, ENCRYPTED["OMEMO 0.3"], "groupchat"), type="groupchat")
        send(alice, room, "<subject>Tea</subject>", "groupchat")
        alice.wait("message", from_=f"{room}/alice", type="groupchat")
    finally:
        alice.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=room)
    evidence(f"plaintext to a room -> {error}; OMEMO and a subject -> delivered")
    assert error.condition == "policy-violation"


@pytest.mark.control("E2EE-02")
def test_no_policy_holds_elsewhere(enter, evidence):
    alice, bob = enter(f"alice@{OPEN}"), enter(f"bob@{OPEN}")
    bob.wait("message", id=send(alice, bob.jid, BODY))
    evidence(f"plaintext within {OPEN} -> delivered")


@pytest.mark.control("E2EE-02")
@pytest.mark.parametrize("version", ["oldmemo", "twomemo"])
def test_a_real_client_is_understood_with_omemo_and_refused_without(
    clients_machine, target, password_of, evidence, version
):
    people = "\n".join(
        word for name in ("alice", "bob") for word in (f"{name}@{SECRET}", password_of(f"{name}@{SECRET}"))
    )
    said = clients_machine.check_output("printf %%s %s | with-omemo %s %s 2>/dev/null", people, target.address, version)
    read, refused = said.splitlines()
    evidence(f"slixmpp with {version} within {SECRET} -> the other reads {read!r}; without -> {refused}")
    assert "What only the two of us can read" in read
    assert "switch on OMEMO" in refused


@pytest.mark.control("E2EE-02")
@pytest.mark.parametrize("way", entrances.WAYS)
def test_the_policy_holds_on_every_way_in(enter, evidence, way):
    alice, bob = enter(f"alice@{SECRET}", way), enter(f"bob@{SECRET}", way)
    error = refusal(alice, bob.jid, BODY)
    bob.wait("message", id=send(alice, bob.jid, ENCRYPTED["OMEMO 0.9"]))
    assert not [message for message in bob.kept("message") if message.findtext("client:body", "", xmpp.NS) in BODY]
    evidence(f"{way}: plaintext -> {error.condition}, OMEMO -> delivered")
    assert error.condition == "policy-violation"


@pytest.mark.control("E2EE-02")
def test_carbons_copy_what_passes_alone(enter, evidence):
    alice, tablet, bob, phone = (enter(f"{name}@{SECRET}") for name in ("alice", "alice", "bob", "bob"))
    for client in (tablet, phone):
        client.iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
    refusal(alice, bob.jid, BODY)
    identifier = send(alice, bob.jid, ENCRYPTED["OMEMO 0.9"])
    for client, kind in ((tablet, "sent"), (phone, "received")):
        copy = client.wait("message", from_=client.bare)
        inner = copy.find(f"{{urn:xmpp:carbons:2}}{kind}//{{jabber:client}}message")
        assert inner is not None
        assert inner.get("id") == identifier
    evidence("plaintext, then OMEMO: carbons are made of the second alone, for the sender and for the receiver")


@pytest.mark.control("E2EE-02")
def test_plaintext_does_not_leave_for_another_server(enter, evidence):
    alice, abroad = enter(f"alice@{SECRET}"), f"eve@{PEER}"
    refused = refusal(alice, abroad, BODY)
    tried = refusal(alice, abroad, ENCRYPTED["OMEMO 0.9"])
    evidence(f"to {PEER}: plaintext -> {refused.condition}; OMEMO is tried -> {tried.condition}")
    assert refused.condition == "policy-violation"
    assert tried.condition != "policy-violation"
