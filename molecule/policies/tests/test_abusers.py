"""Lists of abusers, the operator's own and those of others; reports; what is done about an account."""

from __future__ import annotations

import contextlib
import hashlib
import uuid

import pytest
from conftest import GENTLE, OPEN, PEER, SECRET, archived, arrives, refusal, send, settle, stranger

from verification.probes import http, xmpp
from verification.probes.services import FORM, MUC, join, slot
from verification.probes.xmpp import AuthenticationFailed, Client, StanzaError, StreamEnded

TEXT = "<body>Hello there</body>"
LISTS, NODE = "lists.open.example", "abusers"
ROOMS = "conference.open.example"
PUBSUB = "http://jabber.org/protocol/pubsub"
FORM_TYPE = "<field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>"
OPENED = f"{FORM}{FORM_TYPE}<field var='muc#roomconfig_membersonly'><value>0</value></field></x>"


@contextlib.contextmanager
def open_room(owner: Client):
    """A room that everybody may enter."""
    room = f"{uuid.uuid4()}@{ROOMS}"
    join(owner, room, "owner")
    owner.iq("set", f"<query xmlns='{MUC}#owner'>{OPENED}</query>", to=room)
    yield room
    owner.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=room)


def may_enter(server, owner: Client, address: str) -> bool:
    """Whether somebody of another server gets into a room."""
    with open_room(owner) as room:
        for who in (address, f"{uuid.uuid4().hex}@{PEER}"):  # the second may
            server.send(f"<presence from='{who}/x' to='{room}/{who[:8]}'><x xmlns='{MUC}'/></presence>")
        owner.wait("presence", from_=f"{room}/{who[:8]}")
        return any(p.get("from") == f"{room}/{address[:8]}" for p in owner.kept("presence"))


# The operator's own list


@pytest.mark.control("SPAM-05")
@pytest.mark.parametrize("sender", ["spammer@evil.example", "troll@good.example"])
def test_nothing_comes_from_whom_the_operator_denies(person, peer, evidence, sender):
    bob, domain = person(), sender.partition("@")[2]
    server = peer(OPEN, domain)
    bob.iq("set", f"<query xmlns='jabber:iq:roster'><item jid='{sender}'/></query>")
    held = send(server, bob.bare, TEXT, from_=f"{sender}/x")
    server.send(f"<presence type='subscribe' from='{sender}' to='{bob.bare}'/>")
    arrives(bob, held, last=send(peer(), bob.bare, TEXT, from_=stranger()))
    assert not [p for p in bob.kept("presence") if p.get("type") == "subscribe"]
    evidence(f"message and request of {sender} -> not delivered, though it is on the roster")


@pytest.mark.control("SPAM-05")
def test_whom_the_operator_denies_enters_no_room(person, peer):
    assert not may_enter(peer(ROOMS), person(), f"troll@{PEER}")


@pytest.mark.control("SPAM-05")
@pytest.mark.parametrize("to", ["spammer@evil.example", "x@deep.evil.example/y", "evil.example"])
def test_nothing_goes_to_whom_the_operator_denies(person, evidence, to):
    error = refusal(person(), to, TEXT)
    evidence(f"to {to} -> {error}")
    assert error.condition == "policy-violation"


# Lists of others


@pytest.fixture
def listing(enter, host):
    """A function that puts an address, or its hash, on the list that the server follows; it is taken off again."""
    admin = enter(f"admin@{OPEN}")

    def ask(action: str) -> None:
        admin.iq("set", f"<pubsub xmlns='{PUBSUB}'>{action}</pubsub>", to=LISTS)

    with contextlib.suppress(StanzaError):  # it is there from an earlier test
        ask(f"<create node='{NODE}'/>")
        host.check_output("prosodyctl shell module reload blocklists %s", OPEN)
        wait_for_subscription(host)
    put: list[str] = []

    def publish(item: str) -> None:
        put.append(item)
        ask(f"<publish node='{NODE}'><item id='{item}'><report xmlns='urn:example:report'/></item></publish>")

    def retract() -> None:
        while put:
            ask(f"<retract node='{NODE}' notify='1'><item id='{put.pop()}'/></retract>")

    publish.retract = retract  # type: ignore[attr-defined]
    yield publish
    retract()


def wait_for_subscription(host) -> None:
    """Wait until the server has fetched the list."""
    host.check_output(
        "for n in $(seq 50); do journalctl --sync; journalctl --quiet --output=cat --unit=prosody"
        " | grep -q 'The list .* has' && exit; sleep 0.2; done; exit 1"
    )


@pytest.mark.control("SPAM-01")
@pytest.mark.parametrize("form", ["hash", "plain"])
@pytest.mark.xdist_group("lists")
def test_who_is_on_a_list_reaches_nobody_who_does_not_know_them(person, peer, listing, evidence, form):
    bob, server, rooms, owner = person(), peer(), peer(ROOMS), person()
    spammer = f"s{uuid.uuid4().hex[:8]}@{PEER}"
    bob.wait("message", id=send(server, bob.bare, TEXT, from_=f"{spammer}/x"))
    assert may_enter(rooms, owner, spammer)
    listing(hashlib.sha256(spammer.encode()).hexdigest() if form == "hash" else spammer)
    held = send(server, bob.bare, TEXT, from_=f"{spammer}/x")
    aside = send(server, f"{bob.bare}/nowhere", TEXT, from_=f"{spammer}/x")
    arrives(bob, held, aside, last=send(server, bob.bare, TEXT, from_=stranger()))
    assert not may_enter(rooms, owner, spammer)
    bob.iq("set", f"<query xmlns='jabber:iq:roster'><item jid='{spammer}'/></query>")
    bob.wait("message", id=send(server, bob.bare, TEXT, from_=f"{spammer}/x"))
    listing.retract()
    owner.wait("message", id=send(server, owner.bare, TEXT, from_=f"{spammer}/x"))
    evidence(f"listed ({form}) -> neither a message nor in a room, at once; a contact or taken off -> delivered")


@pytest.mark.control("SPAM-01")
@pytest.mark.xdist_group("lists")
def test_a_list_is_kept_over_a_restart(person, peer, listing, host, evidence):
    bob, server, spammer = person(), peer(), f"s{uuid.uuid4().hex[:8]}@{PEER}"
    listing(hashlib.sha256(spammer.encode()).hexdigest())
    host.check_output("prosodyctl shell module reload blocklists %s", OPEN)
    held = send(server, bob.bare, TEXT, from_=f"{spammer}/x")
    arrives(bob, held, last=send(server, bob.bare, TEXT, from_=stranger()))
    evidence("before the list is fetched again -> not delivered")


# Reports


@pytest.mark.control("SPAM-02")
@pytest.mark.parametrize("domain", [OPEN, GENTLE, SECRET])
@pytest.mark.parametrize("kind", ["spam", "abuse"])
def test_a_report_reaches_the_administrators(person, enter, evidence, domain, kind):
    admin, alice = enter(f"admin@{OPEN}"), person(domain)
    spammer, words = f"{uuid.uuid4().hex}@{PEER}", "He wants my money"
    report = f"<report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:{kind}'><text>{words}</text></report>"
    alice.iq("set", f"<block xmlns='urn:xmpp:blocking'><item jid='{spammer}'>{report}</item></block>")
    told = admin.wait("message", from_=domain).findtext("client:body", "", xmpp.NS)
    evidence(f"{kind} at {domain} -> {told.replace(spammer, 'SPAMMER').replace(alice.bare, 'ALICE')}")
    assert spammer in told
    assert alice.bare in told
    assert words in told
    assert kind in told


# What is done about an account


def act(host, action: str, jid: str) -> str:
    """Give a command about an account."""
    return host.check_output("prosodyctl shell account %s %s --actor=olga", action, jid)


@pytest.mark.control("SPAM-04")
def test_a_suspended_account_is_out(person, target, host, evidence):
    mallory = person()
    assert "suspended: no" in act(host, "status", mallory.bare)
    act(host, "suspend", mallory.bare)
    with pytest.raises(StreamEnded) as ended:
        mallory.stream.expect("nothing", timeout=5)
    again = (*target.at(xmpp.C2S), mallory.bare, mallory.password)
    with pytest.raises(AuthenticationFailed) as refused:
        Client.login(*again)
    assert "suspended: yes" in act(host, "status", mallory.bare)
    act(host, "resume", mallory.bare)
    with Client.login(*again) as back:
        settle(back)
    log = host.check_output("journalctl --sync; journalctl --quiet --output=cat --unit=prosody --since=-60s")
    assert f"account suspend: {mallory.bare} by olga" in log
    evidence(f"session -> {ended.value}; login -> {refused.value}; resumed -> in")


@pytest.mark.control("SPAM-04")
def test_sessions_of_an_account_are_ended(person, target, host):
    mallory = person()
    act(host, "disconnect", mallory.bare)
    with pytest.raises(StreamEnded):
        mallory.stream.expect("nothing", timeout=5)
    with Client.login(*target.at(xmpp.C2S), mallory.bare, mallory.password) as back:
        settle(back)


@pytest.mark.control("SPAM-04")
def test_what_an_account_sent_is_purged(person, target, host, evidence):
    mallory, bob, far = person(GENTLE), person(GENTLE), person(OPEN)
    room = f"{uuid.uuid4()}@conference.gentle.example"
    join(mallory, room, "mallory")
    mallory.iq("set", f"<query xmlns='{MUC}#owner'>{FORM}{FORM_TYPE}</x></query>", to=room)
    mallory.iq("set", f"<query xmlns='{MUC}#admin'><item affiliation='owner' jid='{bob.bare}'/></query>", to=room)
    join(bob, room, "bob")
    spam = [send(mallory, to.bare, TEXT) for to in (bob, far)]
    for client, identifier in zip((bob, far), spam, strict=True):
        client.wait("message", id=identifier)
    answer = send(bob, mallory.bare, TEXT)
    mallory.wait("message", id=answer)
    said = send(mallory, room, TEXT, "groupchat")
    bob.wait("message", id=said)
    reply = send(bob, room, TEXT, "groupchat")
    bob.wait("message", id=reply)
    place = slot(mallory, "upload.gentle.example", "spam.txt", 4)

    def fetch(url: str, **more) -> int:
        path = "/" + url.split("/", 3)[3]
        return http.request(*target.at(443), "upload.gentle.example", path, ca_file=target.ca_file, **more).status

    assert fetch(place.put, method="PUT", headers=place.headers, body=b"spam") == 201
    assert fetch(place.get) == 200
    assert archived(bob, spam[0])
    assert archived(far, spam[1])
    assert archived(bob, said, of=room)
    told = act(host, "purge", mallory.bare)
    assert not archived(bob, spam[0])
    assert not archived(far, spam[1])
    assert not archived(bob, said, of=room)
    assert fetch(place.get) in (404, 410)
    assert archived(bob, answer), "what others said is gone as well"
    assert archived(bob, reply, of=room), "what others said is gone as well"
    evidence(told.strip().splitlines()[-1])
