"""Login, federation, registration and everyday use, by doing them over real connections."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import select
import time
import uuid
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from verification.probes import client, forgery, http, xmpp
from verification.probes.services import FORM, MUC, invite, join, slot
from verification.probes.tls import Channel, Offer, Refused
from verification.probes.xmpp import NS, AuthenticationFailed, Scram, StanzaError, Stream, StreamEnded
from verification.targets import Target

PEER = "peer.example"
NOBODY = "portcullis-nobody"
FORWARDED = "{urn:xmpp:forward:0}forwarded"
PUBSUB = "http://jabber.org/protocol/pubsub"
NOT_FOR_YOU = {"forbidden", "not-allowed", "item-not-found", "service-unavailable", "feature-not-implemented"}
SLOWEST_RATE = 3000  # bytes a second that a server reads: what ejabberd's configuration begins with
LONGEST_SILENCE = 45  # seconds
RATED_SECONDS = 4  # how long a client takes to send what the rate test sends
BURST_SECONDS = 2  # what mod_limits lets through at once, by default


@pytest.fixture
def marker() -> str:
    """A text that occurs nowhere else."""
    return f"portcullis-{uuid.uuid4()}"


def text(element, path: str) -> str:
    """The text at a path of local names."""
    for name in path.split("/"):
        element = next((child for child in element if xmpp.local_name(child) == name), None)
        if element is None:
            return ""
    return element.text or ""


# Login


@pytest.mark.control("AUTH-01")
@pytest.mark.parametrize("port", [xmpp.C2S, xmpp.C2S_DIRECT])
def test_scram_sha_256_alone_is_offered(reachable, target, evidence, port):
    reachable(port)
    for domain in target.domains:
        stream, features = target.stream(port, domain)
        with stream:
            offered = xmpp.mechanisms(features)
            inline = [item.text for item in features.iter("{urn:xmpp:sasl:2}mechanism")]
            evidence(f"{port} {domain} offers {', '.join(offered)}; SASL2 {', '.join(map(str, inline)) or 'nothing'}")
            assert set(offered) == {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}, "SCRAM-SHA-256 and -PLUS are wanted alone"
            assert {name for name in inline if name and not name.startswith("HT-")} <= set(offered)


@pytest.mark.control("AUTH-01")
@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        ("PLAIN", f"\0{NOBODY}\0nothing"),
        ("SCRAM-SHA-1", f"n,,n={NOBODY},r=abcdefgh"),
        ("SCRAM-SHA-1-PLUS", f"p=tls-exporter,,n={NOBODY},r=abcdefgh"),
        ("DIGEST-MD5", ""),
        ("ANONYMOUS", ""),
        ("LOGIN", NOBODY),
        ("OAUTHBEARER", f"n,a={NOBODY},\x01auth=Bearer nothing\x01\x01"),
    ],
)
def test_weak_mechanisms_are_refused(target, evidence, mechanism, first):
    stream, _ = target.stream(xmpp.C2S)
    with stream:
        with pytest.raises((AuthenticationFailed, StreamEnded)) as refused:
            xmpp.sasl(stream, mechanism, first)
            pytest.fail(f"{mechanism} was taken up")
        evidence(f"{mechanism} -> {refused.value}")
        assert refused.value.condition == "invalid-mechanism", f"{mechanism} is taken up"


@pytest.mark.control("AUTH-01")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-1"])
def test_weak_mechanisms_are_refused_over_sasl2(target, evidence, mechanism):
    stream, _ = target.stream(xmpp.C2S)
    with stream:
        first = f"\0{NOBODY}\0nothing" if mechanism == "PLAIN" else f"n,,n={NOBODY},r=abcdefgh"
        initial = base64.b64encode(first.encode()).decode()
        stream.send(
            f"<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>"
            f"<initial-response>{initial}</initial-response></authenticate>"
        )
        try:
            answer = stream.receive()
        except StreamEnded as ended:
            evidence(f"SASL2 {mechanism} -> {ended}")
            return
        condition = xmpp.condition_of(answer)
        evidence(f"SASL2 {mechanism} -> {condition}")
        assert (xmpp.local_name(answer), condition) == ("failure", "invalid-mechanism"), f"{mechanism} is taken up"


@pytest.mark.control("AUTH-02")
def test_login_is_bound_to_the_connection(target, accounts, evidence):
    username, _, domain = accounts[0]["jid"].partition("@")
    stream, features = target.stream(xmpp.C2S, domain)
    with stream:
        mechanism, digest = bound_mechanism(features)
        binding = stream.channel.exporter()
        exchange = Scram(username, accounts[0]["password"], digest, gs2="p=tls-exporter", binding=binding)
        xmpp.scram(stream, mechanism, exchange)
        evidence(f"{mechanism} with tls-exporter over {stream.channel.version} -> success")


def bound_mechanism(features: ET.Element) -> tuple[str, str]:
    """The best mechanism with tls-exporter that is offered, and its digest; fails where there is none."""
    offered = xmpp.mechanisms(features)
    best = next((digest for digest in ("SHA-256", "SHA-1") if f"SCRAM-{digest}-PLUS" in offered), "")
    assert best, f"no mechanism binds: {', '.join(offered)}"
    assert "tls-exporter" in xmpp.channel_bindings(features), "tls-exporter is not announced"
    return f"SCRAM-{best}-PLUS", best.replace("-", "").lower()


@pytest.mark.control("AUTH-02")
def test_a_forged_binding_is_refused(target, accounts, evidence):
    account = accounts[-1]
    username, _, domain = account["jid"].partition("@")
    stream, features = target.stream(xmpp.C2S, domain)
    mechanism, digest = bound_mechanism(features)
    with stream, pytest.raises(AuthenticationFailed) as refused:
        somebody_elses = bytes(32)
        exchange = Scram(username, account["password"], digest, gs2="p=tls-exporter", binding=somebody_elses)
        xmpp.scram(stream, mechanism, exchange)
    evidence(f"right password, binding of another connection -> {refused.value}")


@pytest.mark.control("AUTH-02")
def test_a_downgrade_is_detected(target, accounts, evidence):
    account = accounts[-1]
    username, _, domain = account["jid"].partition("@")
    stream, features = target.stream(xmpp.C2S, domain)
    mechanism, digest = bound_mechanism(features)
    with stream, pytest.raises(AuthenticationFailed) as refused:
        xmpp.scram(stream, mechanism.removesuffix("-PLUS"), Scram(username, account["password"], digest, gs2="y"))
    evidence(f"right password, client was told of no binding (gs2 'y') -> {refused.value}")


# Federation


@pytest.fixture(params=[xmpp.S2S, xmpp.S2S_DIRECT])
def server_port(request, reachable) -> int:
    """Each server port."""
    return reachable(request.param)


@pytest.mark.control("S2S-01")
@pytest.mark.parametrize("kind", ["none", "self-signed", "forged"])
def test_a_server_without_a_valid_certificate_is_refused(target, server_port, kind, tmp_path, evidence):
    make = {"self-signed": forgery.self_signed, "forged": forgery.forged}.get(kind)
    pair = make(tmp_path, PEER) if make else None
    refusal = refusal_of_server(target, server_port, PEER, pair)
    evidence(f"{server_port} {PEER} with certificate {kind} -> {refusal}")


@pytest.mark.control("S2S-01")
def test_nobody_may_speak_as_this_server(target, server_port, tmp_path, evidence):
    refusal = refusal_of_server(target, server_port, target.domain, forgery.forged(tmp_path, target.domain))
    evidence(f"{server_port} as {target.domain} itself with a forged certificate -> {refusal}")


def refusal_of_server(target, port: int, name: str, pair: forgery.Pair | None) -> str:
    """How a server that says it is `name` is sent away, whatever it relies on; fails when it is not."""
    offer = Offer(name, certificate=pair.certificate, key=pair.key) if pair else Offer(target.domain)
    refusals = []
    for rely in (rely_on_the_certificate, rely_on_dialback):
        try:
            stream, features = target.stream(port, offer=offer, sender=name)
            with stream:
                answer = rely(stream, features, name)
        except (StreamEnded, Refused, AuthenticationFailed) as refused:
            refusals.append(str(refused))
        except TimeoutError:
            pytest.fail(f"{port} does not send {name} away")
        else:
            assert answer is None, f"{port} answers {xmpp.local_name(answer)} {answer.get('type', '')}"
    return "; ".join(dict.fromkeys(refusals))


def rely_on_the_certificate(stream: Stream, features: ET.Element, name: str) -> ET.Element | None:
    """Log in with SASL EXTERNAL (XEP-0178); None where it is not offered. Some offer it first, and look afterwards."""
    return xmpp.sasl(stream, "EXTERNAL", name) if "EXTERNAL" in xmpp.mechanisms(features) else None


def rely_on_dialback(stream: Stream, _: ET.Element, name: str) -> ET.Element:
    """Ask to be believed for what the DNS says (XEP-0220); anything but a refusal is an answer."""
    stream.send(f"<db:result from='{name}' to='{stream.domain}'>0123456789abcdef</db:result>")
    return stream.receive(timeout=5)


# Registration


@pytest.mark.control("REG-01")
@pytest.mark.parametrize("token", ["", "forged-invitation"], ids=["no invitation", "forged invitation"])
def test_registration_needs_an_invitation(target, evidence, token):
    refusal = refusal_of_registration(target, target.domain, token)
    evidence(f"register at {target.domain}, {f'token {token}' if token else 'no token'} -> {refusal}")


@pytest.fixture
def user(target, accounts, login) -> xmpp.Client:
    """An account that does not administer the server, logged in."""
    admins = target.variables.get("prosody_admins") or []
    index = next((index for index, account in enumerate(accounts) if account["jid"] not in admins), None)
    if index is None:
        pytest.skip("not shown: every test account is an administrator")
    return login(index)


@pytest.mark.control("REG-02")
@pytest.mark.parametrize(
    "node",
    ["urn:xmpp:invite#create-account", "xmpp:prosody.im/mod_invites_adhoc#password-reset"],
    ids=["new account", "new password"],
)
def test_users_cannot_invite_to_an_account(user, evidence, node):
    with pytest.raises(StanzaError) as refused:
        execute(user, node)
        pytest.fail(f"{node} is carried out")
    evidence(f"{node} -> {refused.value}")
    assert refused.value.condition in NOT_FOR_YOU


@pytest.mark.control("REG-02")
def test_an_invitation_to_be_a_contact_opens_no_account(user, target, evidence):
    if target.variables["prosody_user_invitations_enabled"]:
        pytest.skip("users may invite others to register here")
    try:
        answer = execute(user, "urn:xmpp:invite#invite")
    except StanzaError as refused:
        evidence(f"urn:xmpp:invite#invite -> {refused}")
        return
    token = re.search(r"preauth=([^;&<]+)", "".join(answer.itertext()))
    assert token, "an invitation without a token"
    refusal = refusal_of_registration(target, user.bare.rpartition("@")[2], token[1])
    evidence(f"register with a user's invitation to be a contact -> {refusal}")


def execute(account: xmpp.Client, node: str) -> ET.Element:
    """Run an ad-hoc command of the account's own server (XEP-0050). Raises StanzaError."""
    command = f"<command xmlns='http://jabber.org/protocol/commands' node='{node}' action='execute'/>"
    return account.iq("set", command, to=account.bare.rpartition("@")[2])


def refusal_of_registration(target, domain: str, token: str) -> str:
    """How a new account is refused, asked for with the token of an invitation or none; fails when it is granted."""
    name, password = f"{NOBODY}-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    stream, _ = target.stream(xmpp.C2S, domain)
    with stream:
        try:
            if token:
                stream.send(f"<iq type='set' id='token'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></iq>")
                stream.expect("iq")
            credentials = f"<username>{name}</username><password>{password}</password>"
            stream.send(f"<iq type='set' id='register'><query xmlns='{NS['register']}'>{credentials}</query></iq>")
            answer = stream.expect("iq")
        except StreamEnded as ended:
            return str(ended)
    if answer.get("type") != "error":
        unregister(target, f"{name}@{domain}", password)
        pytest.fail(f"{name}@{domain} was registered (and removed again)")
    return str(StanzaError(answer))


def unregister(target: Target, jid: str, password: str) -> None:
    """Remove an account that should not have come to be (XEP-0077 section 3.2)."""
    with xmpp.Client.login(*target.at(xmpp.C2S), jid, password) as account:
        account.send(f"<iq type='set' id='remove'><query xmlns='{NS['register']}'><remove/></query></iq>")
        with contextlib.suppress(StreamEnded):  # the account ends, and its sessions with it
            account.wait("iq", id="remove")


@pytest.mark.control("AUTH-07")
def test_a_short_password_is_not_taken(login, accounts, target, evidence):
    length = target.variables["prosody_password_length"]
    if length < 2:
        pytest.skip("not shown: no password is too short here")
    short = uuid.uuid4().hex[: length - 1]
    account = login()
    try:
        change_password(account, short)
    except StanzaError as error:
        refused = error
    else:
        change_back(account, accounts[0]["password"], short)
        pytest.fail(f"a password of {length - 1} characters is taken (and changed back)")
    login()
    evidence(f"new password of {length - 1} characters -> {refused}; the old one still works")
    if refused.condition in NOT_FOR_YOU:
        pytest.skip(f"nobody changes a password over XMPP here: {refused.condition}")
    assert refused.condition == "not-acceptable"


def change_back(account: xmpp.Client, password: str, now: str) -> None:
    """Give an account its old password again; says what it is `now` when the old one is not taken."""
    try:
        change_password(account, password)
    except StanzaError as refused:
        pytest.fail(f"{account.bare} was given the password {now}, and its old one is refused: {refused}")


def change_password(account: xmpp.Client, password: str) -> None:
    """Give an account another password (XEP-0077 section 3.3). Raises StanzaError."""
    credentials = f"<username>{account.bare.partition('@')[0]}</username><password>{password}</password>"
    account.iq("set", f"<query xmlns='{NS['register']}'>{credentials}</query>")


# Everyday use


@pytest.mark.control("CHAT-01")
@pytest.mark.control("CHAT-10")
@pytest.mark.parametrize("receiving", [xmpp.C2S, xmpp.C2S_DIRECT])
def test_messages_arrive(target: Target, accounts, marker, evidence, receiving):
    sending = xmpp.C2S_DIRECT if receiving == xmpp.C2S and xmpp.C2S_DIRECT not in target.absent else xmpp.C2S
    ports = (sending, receiving)
    sender, receiver = (
        client.Login(
            account["jid"],
            account["password"],
            *target.at(port),
            target.ca_file,
            direct_tls=port == xmpp.C2S_DIRECT,
        )
        for account, port in zip(accounts, ports, strict=False)
    )
    asyncio.run(client.exchange(sender, receiver, marker))
    evidence(f"slixmpp: {accounts[0]['jid']} at {ports[0]} -> {accounts[1]['jid']} at {ports[1]}: delivered")


@pytest.mark.control("CHAT-02")
@pytest.mark.control("CHAT-12")
def test_every_device_sees_the_conversation(login, marker, evidence):
    phone, laptop, bob = login(0), login(0), login(1)
    for device in (phone, laptop):
        device.iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
        device.send("<presence/>")
        device.wait("presence", from_=device.jid)
    bob.send(f"<message type='chat' to='{phone.jid}'><body>{marker}</body></message>")
    assert text(phone.wait("message", from_=bob.jid), "body") == marker
    copy = laptop.wait("message", from_=laptop.bare)
    assert text(copy, "received/forwarded/message/body") == marker
    phone.send(f"<message type='chat' to='{bob.bare}'><body>{marker}</body></message>")
    copy = laptop.wait("message", from_=laptop.bare)
    assert text(copy, "sent/forwarded/message/body") == marker
    evidence("second device got what the first received and what it sent")


@pytest.mark.control("CHAT-03")
@pytest.mark.control("CHAT-12")
def test_the_archive_keeps_conversations(login, marker, evidence):
    alice, bob = login(0), login(1)
    alice.send("<presence/>")
    alice.wait("presence", from_=alice.jid)
    bob.send(f"<message type='chat' id='{marker}' to='{alice.bare}'><body>{marker}</body></message>")
    alice.wait("message", from_=bob.jid)
    for account, other in ((alice, bob), (bob, alice)):
        with_other = f"<field var='with'><value>{other.bare}</value></field>"
        mam = "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>"
        last = "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max><before/></set>"
        account.iq("set", f"<query xmlns='urn:xmpp:mam:2'>{FORM}{mam}{with_other}</x>{last}</query>")
        while (found := account.wait("message")).find("{urn:xmpp:mam:2}result") is None:
            pass  # what waited for the account from before
        assert text(found, "result/forwarded/message/body") == marker
    evidence("both found the last message in their archives")


@pytest.mark.control("CHAT-04")
@pytest.mark.control("CHAT-13")
def test_an_interrupted_session_resumes(login, marker, evidence):
    alice, bob = login(0), login(1)
    alice.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    enabled = alice.stream.expect("enabled", "failed")
    assert enabled.get("resume") in {"true", "1"}
    alice.stream.channel.close()
    bob.send(f"<message type='chat' to='{alice.jid}'><body>{marker}</body></message>")
    again = login(0, bind=False)
    again.send(f"<resume xmlns='urn:xmpp:sm:3' h='0' previd='{enabled.get('id')}'/>")
    assert xmpp.local_name(again.stream.expect("resumed", "failed")) == "resumed"
    assert text(again.wait("message", from_=bob.jid), "body") == marker
    evidence("connection cut, message sent meanwhile, session resumed: message delivered")


@pytest.mark.control("CHAT-05")
@pytest.mark.control("CHAT-13")
def test_phones_are_woken_by_push(login, evidence):
    alice = login()
    assert "urn:xmpp:push:0" in disco(alice, alice.bare), "push is not offered"
    assert alice.features.find(".//{urn:xmpp:csi:0}csi") is not None, "client state indication is not offered"
    alice.iq("set", f"<enable xmlns='urn:xmpp:push:0' jid='push.{PEER}' node='verification'/>")
    alice.iq("set", f"<disable xmlns='urn:xmpp:push:0' jid='push.{PEER}' node='verification'/>")
    evidence("urn:xmpp:push:0 enabled and disabled; urn:xmpp:csi:0 offered")


@pytest.mark.control("CHAT-06")
@pytest.mark.control("CHAT-12")
def test_bookmarks_are_kept_privately(login, marker, evidence):
    alice, bob = login(0), login(1)
    room = f"{marker}@conference.{PEER}"
    conference = f"<item id='{room}'><conference xmlns='urn:xmpp:bookmarks:1' name='Verification'/></item>"
    publish(alice, "urn:xmpp:bookmarks:1", conference, access="whitelist", persist=True)
    assert room in item_ids(alice, alice.bare, "urn:xmpp:bookmarks:1")
    with pytest.raises(StanzaError) as refused:
        item_ids(bob, alice.bare, "urn:xmpp:bookmarks:1")
    retract = f"<retract node='urn:xmpp:bookmarks:1'><item id='{room}'/></retract>"
    alice.iq("set", f"<pubsub xmlns='{PUBSUB}'>{retract}</pubsub>")
    evidence(f"bookmark kept; another account reads it -> {refused.value}")


@pytest.mark.control("CHAT-07")
def test_avatars_are_published(login, evidence):
    alice, bob = login(0), login(1)
    pixel = base64.b64encode(b"portcullis").decode()
    data = f"<item id='verification'><data xmlns='urn:xmpp:avatar:data'>{pixel}</data></item>"
    publish(alice, "urn:xmpp:avatar:data", data, access="open")
    assert item_ids(bob, alice.bare, "urn:xmpp:avatar:data") == ["verification"]
    retract = "<retract node='urn:xmpp:avatar:data'><item id='verification'/></retract>"
    alice.iq("set", f"<pubsub xmlns='{PUBSUB}'>{retract}</pubsub>")
    bob.iq("get", "<vCard xmlns='vcard-temp'/>")
    evidence("urn:xmpp:avatar:data read by another account")


@pytest.mark.control("CHAT-08")
@pytest.mark.control("CHAT-12")
def test_blocking_silences_somebody(login, marker, evidence):
    alice, bob = login(0), login(1)
    alice.send("<presence/>")
    alice.wait("presence", from_=alice.jid)
    item = f"<item jid='{bob.bare}'/>"
    message = f"<message type='chat' to='{alice.bare}'><body>{marker}</body></message>"
    alice.iq("set", f"<block xmlns='urn:xmpp:blocking'>{item}</block>")
    try:
        bob.send(message)
        assert alice.silent("message", from_=bob.jid), "a blocked account's message is delivered"
    finally:
        alice.iq("set", f"<unblock xmlns='urn:xmpp:blocking'>{item}</unblock>")
    bob.send(message)
    assert text(alice.wait("message", from_=bob.jid), "body") == marker
    evidence("blocked: nothing delivered; unblocked: delivered")


@pytest.mark.control("CHAT-09")
def test_contacts_for_abuse_and_help_are_published(login, target, evidence):
    if not target.variables.get("prosody_contacts"):
        pytest.skip("no contacts are set (xmpp_admins, prosody_contacts)")
    alice = login()
    answer = alice.iq("get", "<query xmlns='http://jabber.org/protocol/disco#info'/>", to=target.domain)
    fields = [field for field in answer.iter("{jabber:x:data}field") if (field.get("var") or "").endswith("-addresses")]
    addresses = [value.text or "" for field in fields for value in field if xmpp.local_name(value) == "value"]
    assert addresses, "no addresses in the server's information"
    evidence(f"{fields[0].get('var')}: {', '.join(addresses)}")


# Group chat


@pytest.fixture
def room(login, target):
    """A new room of the first account: (owner, its address); destroyed at the end."""
    muc = next((host.muc for host in target.hosts if host.muc), None)
    if not muc:
        pytest.skip("there is no group chat service")
    owner = login(0)
    address = f"{uuid.uuid4()}@{muc}"
    join(owner, address, "owner")
    owner.iq("set", f"<query xmlns='{MUC}#owner'>{FORM}</x></query>", to=address)
    yield owner, address
    owner.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=address)


@pytest.mark.control("MUC-01")
@pytest.mark.control("CHAT-12")
def test_group_chat_with_history(room, login, marker, evidence):
    owner, address = room
    owner.send(f"<message type='groupchat' to='{address}'><body>{marker}</body></message>")
    while text(owner.wait("message", from_=f"{address}/owner"), "body") != marker:
        pass
    bob = login(1)
    invite(owner, address, bob.bare)
    join(bob, address, "bob")
    assert text(bob.wait("message", from_=f"{address}/owner"), "body") == marker
    bob.iq("set", "<query xmlns='urn:xmpp:mam:2'/>", to=address)
    archived = [text(message, "result/forwarded/message/body") for message in bob.kept("message")]
    assert marker in archived
    evidence("a member who came later got the history, and found it in the room's archive")


@pytest.mark.control("MUC-02")
def test_rooms_are_for_members(room, login, evidence):
    _, address = room
    with pytest.raises(StanzaError) as refused:
        join(login(1), address, "stranger")
        pytest.fail("a stranger may join")
    evidence(f"joining uninvited -> {refused.value}")
    assert refused.value.condition == "registration-required"


@pytest.mark.control("MUC-03")
def test_rooms_are_not_listed(room, login, evidence):
    _, address = room
    answer = login(1).iq("get", "<query xmlns='http://jabber.org/protocol/disco#items'/>", to=address.partition("@")[2])
    listed = [item.get("jid") for item in answer.iter("{http://jabber.org/protocol/disco#items}item")]
    assert address not in listed, "the new room is listed"
    evidence(f"the service lists {len(listed)} rooms, the new one is not among them")


# File upload


@pytest.fixture
def upload(target) -> str:
    """The upload service."""
    service = next((host.upload for host in target.hosts if host.upload), None)
    if not service:
        pytest.skip("there is no upload service")
    return service


def transfer(target: Target, method: str, url: str, headers=None, body=None) -> http.Response:
    """An HTTPS request to this server under the name in the address; again while we ask too much at once (RFC 6585)."""
    parts = urlsplit(url)
    assert parts.scheme == "https", url
    for _ in range(20):  # what other tests ask for counts as well
        answer = http.request(
            *target.at(parts.port or 443),
            parts.hostname or "",
            parts.path,
            method=method,
            headers=headers,
            body=body,
            ca_file=target.ca_file,
        )
        if answer.status != 429:
            break
        time.sleep(0.5)
    return answer


@pytest.mark.control("UPL-01")
@pytest.mark.control("CHAT-12")
def test_files_are_shared(login, target, upload, marker, evidence):
    body = marker.encode()
    place = slot(login(), upload, "verification.txt", len(body))
    stored = transfer(target, "PUT", place.put, place.headers, body)
    fetched = transfer(target, "GET", place.get)
    evidence(f"PUT -> {stored.status}, GET -> {fetched.status}, {len(fetched.body)} bytes")
    assert (stored.status, fetched.status, fetched.body) == (201, 200, body)


@pytest.mark.control("UPL-02")
def test_a_file_over_the_size_limit_is_refused(login, target, upload, evidence):
    size = target.variables["prosody_upload_size_limit"] + 1
    with pytest.raises(StanzaError) as refused:
        slot(login(), upload, "large.bin", size)
        pytest.fail(f"{size} bytes are taken")
    evidence(f"{size} bytes -> {refused.value}")


@pytest.mark.control("UPL-05")
def test_an_account_over_its_daily_quota_is_refused(login, target, upload, evidence):
    if not target.throw_away:
        pytest.skip("not shown: filling a quota would count against everybody's on a server in use")
    size, quota = (target.variables[f"prosody_upload_{name}"] for name in ("size_limit", "daily_quota"))
    last = login(-1)
    with pytest.raises(StanzaError) as refused:
        for _ in range(quota // size + 1):
            slot(last, upload, "large.bin", size)
        pytest.fail(f"more than {quota} bytes a day are taken")
    evidence(f"more than {quota} bytes a day -> {refused.value}")


@pytest.mark.control("UPL-03")
@pytest.mark.parametrize("trick", ["no token", "forged token", "other size", "path traversal"])
def test_uploads_without_a_slot_are_refused(login, target, upload, evidence, trick):
    body = b"portcullis"
    place = slot(login(), upload, "verification.txt", len(body))
    if trick == "no token":
        del place.headers["Authorization"]
    elif trick == "forged token":
        place.headers["Authorization"] = place.headers["Authorization"][:-8] + "AAAAAAAA"
    elif trick == "other size":
        body *= 2
    else:
        place.put = urlsplit(place.put)._replace(path="/file_share/../../etc/cron.d/verification").geturl()
    answer = transfer(target, "PUT", place.put, place.headers, body)
    evidence(f"PUT with {trick} -> {answer.status}")
    assert 400 <= answer.status < 500


@pytest.mark.control("UPL-04")
def test_uploads_cannot_attack_a_browser(login, target, upload, evidence):
    body = b"<script>alert(1)</script>"
    place = slot(login(), upload, "page.html", len(body))
    transfer(target, "PUT", place.put, place.headers, body)
    headers = transfer(target, "GET", place.get).headers
    policy, disposition, kind = (
        headers.get(name, "none") for name in ("content-security-policy", "content-disposition", "content-type")
    )
    evidence(f"page.html -> {kind}; {disposition}; {policy}")
    assert disposition.startswith("attachment") or kind.startswith("text/plain")
    assert "default-src 'none'" in policy
    assert headers.get("x-content-type-options") == "nosniff", "a browser may guess another type"


# End-to-end encryption


@pytest.mark.control("E2EE-01")
def test_omemo_finds_what_it_needs(room, login, evidence):
    owner, address = room
    bob = login(1)
    nodes = {"eu.siacs.conversations.axolotl.devicelist": "current", "urn:xmpp:omemo:2:devices": "current"}
    for node, item in nodes.items():
        publish(owner, node, f"<item id='{item}'><list xmlns='urn:example'/></item>", access="open")
        assert item_ids(bob, owner.bare, node) == [item], f"{node} cannot be read by others"
        owner.iq("set", f"<pubsub xmlns='{PUBSUB}#owner'><delete node='{node}'/></pubsub>")
    features = disco(owner, address)
    assert "muc_nonanonymous" in features, "members of a room do not see each other's addresses"
    evidence("device lists published and read by another account; rooms are muc_nonanonymous, muc_membersonly")
    assert "muc_membersonly" in features, "rooms are open to non-members"


# Privacy


@pytest.mark.control("PRIV-02")
def test_os_and_uptime_are_hidden(login, target, evidence):
    alice = login()
    version = alice.iq("get", "<query xmlns='jabber:iq:version'/>", to=target.domain)
    operating_system = version.find(".//{jabber:iq:version}os")
    assert operating_system is None, f"the operating system is told: {operating_system.text}"
    with pytest.raises(StanzaError) as refused:
        alice.iq("get", "<query xmlns='jabber:iq:last'/>", to=target.domain)
    evidence(f"version without os; uptime -> {refused.value.condition}")


# Limits


@pytest.mark.control("FLOOD-01")
@pytest.mark.parametrize("port", [xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S])
def test_strangers_cannot_send_large_stanzas(reachable, target, evidence, port):
    if reachable(port) == xmpp.S2S:
        stream = Stream(Channel.connect(*target.at(port)), target.domain, xmpp.SERVER, PEER)
        stream.open()
    else:
        stream, _ = target.stream(port)
    with stream:
        evidence(f"{port} 40 kB before login -> {cut(stream, target.domain, 40_000)}")


@pytest.mark.control("FLOOD-02")
def test_accounts_cannot_send_huge_stanzas(accounts_here, target: Target, evidence):
    account, limit = accounts_here[-1], target.variables["prosody_c2s_stanza_size"]
    rate = min(SLOWEST_RATE, bytes_per_second(target.variables["prosody_c2s_rate"]))
    with xmpp.Client.login(*target.at(xmpp.C2S), account["jid"], account["password"]) as client:
        refused = cut(client.stream, client.bare, 2 * limit, patience=20 + limit // rate)
    evidence(f"{2 * limit // 1024} KiB in one message -> {refused}")


def cut(stream: Stream, to: str, size: int, patience: int = 20) -> str:
    """How the server cuts off a message of that many bytes that does not end; fails when it listens that many seconds.

    A server reads no faster than its rate: `patience` has to cover what it takes to reach its limit.
    """
    with contextlib.suppress(ConnectionError):  # it may have gone before all is sent, and has said why
        stream.send(f"<message to='{to}'><body>{'x' * size}")
    try:
        stream.expect("nothing", timeout=patience)
    except StreamEnded as ended:
        return str(ended)
    except TimeoutError:
        raise AssertionError(f"{size} bytes of one message are taken") from None
    raise AssertionError(f"{size} bytes of one message are answered")


@pytest.mark.control("FLOOD-06")
def test_accounts_cannot_send_faster_than_the_stated_rate(accounts_here, target: Target, evidence):
    rate = bytes_per_second(target.variables["prosody_c2s_rate"])
    account = accounts_here[-1]
    ballast = "<iq type='result' id='ballast'/>".ljust(1000)
    sent = ballast * (RATED_SECONDS * rate // len(ballast) + 1)
    with xmpp.Client.login(*target.at(xmpp.C2S), account["jid"], account["password"]) as client:
        started = time.monotonic()
        client.send(sent)
        with contextlib.suppress(TimeoutError):  # slower than stated is bounded, too
            client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", timeout=4 * RATED_SECONDS)
        took = time.monotonic() - started
    evidence(f"{len(sent)} bytes, {rate} bytes/s allowed -> read in {took:.1f} s or more")
    assert took >= RATED_SECONDS - BURST_SECONDS, "the rate is not bounded"


def bytes_per_second(rate: str) -> int:
    """A rate as mod_limits reads it, such as "50kb/s": a power of a thousand by the first letter of its unit."""
    match = re.fullmatch(r"(\d+) ?([bkmgt])[^/]*/s", rate, re.IGNORECASE)
    assert match, f"not a rate: {rate}"
    return int(match[1]) * 1000 ** "bkmgt".index(match[2].lower())


@pytest.mark.control("FLOOD-03")
def test_silent_connections_are_closed(at_once, evidence):
    closed = at_once(seconds_of_silence)
    for what, seconds in closed.items():
        if seconds is not None:
            evidence(f"{what} -> closed after {seconds:.0f} s")
    still_open = [what for what, seconds in closed.items() if seconds is None]
    assert not still_open, f"still open after {LONGEST_SILENCE} s: {', '.join(still_open)}"


def seconds_of_silence(target: Target) -> dict[str, float | None]:
    """How long the server keeps connections that wait for us; None where it does so for as long as it was asked."""
    silent = {
        "5222 says nothing": Channel.connect(*target.at(xmpp.C2S)),
        "5222 no handshake": target.channel(xmpp.C2S),
        "5222 no login": target.stream(xmpp.C2S)[0].channel,
    }
    closed: dict[str, float | None] = dict.fromkeys(silent)
    started = time.monotonic()
    waiting = {channel.socket: what for what, channel in silent.items()}
    while waiting and (left := started + LONGEST_SILENCE - time.monotonic()) > 0:
        for connection in select.select(list(waiting), [], [], left)[0]:
            if not connection.recv(65536):
                closed[waiting.pop(connection)] = time.monotonic() - started
    for channel in silent.values():
        channel.close()
    return closed


def disco(account: xmpp.Client, address: str) -> set[str]:
    """The features that an address announces (XEP-0030)."""
    answer = account.iq("get", "<query xmlns='http://jabber.org/protocol/disco#info'/>", to=address)
    return {feature.get("var", "") for feature in answer.iter("{http://jabber.org/protocol/disco#info}feature")}


def publish(account: xmpp.Client, node: str, item: str, access: str, persist: bool = False) -> None:
    """Publish an item at the account's own service (XEP-0163) with publish-options."""
    options = {"FORM_TYPE": f"{PUBSUB}#publish-options", "pubsub#access_model": access}
    if persist:
        options |= {"pubsub#persist_items": "true", "pubsub#max_items": "max"}
    fields = "".join(f"<field var='{name}'><value>{value}</value></field>" for name, value in options.items())
    publishing = f"<publish node='{node}'>{item}</publish><publish-options>{FORM}{fields}</x></publish-options>"
    account.iq("set", f"<pubsub xmlns='{PUBSUB}'>{publishing}</pubsub>")


def item_ids(account: xmpp.Client, owner: str, node: str) -> list[str]:
    """The ids of the items at somebody's node."""
    answer = account.iq("get", f"<pubsub xmlns='{PUBSUB}'><items node='{node}'/></pubsub>", to=owner)
    return [item.get("id", "") for item in answer.iter(f"{{{PUBSUB}}}item")]
