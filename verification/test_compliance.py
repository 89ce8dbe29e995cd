"""The compliance suites of XEP-0479, each XEP by doing it; what other areas do already bears both controls there."""

from __future__ import annotations

import base64
import hashlib
import struct
import uuid
import zlib
from xml.etree import ElementTree as ET

import pytest

from verification.probes import xmpp
from verification.test_xmpp import PEER, PUBSUB, disco, publish, refusal_of_registration, text

CAPS = "http://jabber.org/protocol/caps"
DISCO = "http://jabber.org/protocol/disco"
FORM = "jabber:x:data"
NICK = "http://jabber.org/protocol/nick"
VCARD = "vcard-temp"
# What XMPP Providers asks of category A, as far as it can be measured: https://providers.xmpp.net/
LARGEST_FILE, DAYS_KEPT = 20_000_000, 7


@pytest.fixture
def marker() -> str:
    """A text that occurs nowhere else."""
    return f"portcullis-{uuid.uuid4()}"


# Core


@pytest.mark.control("CHAT-10")
def test_services_are_discovered(login, target, evidence):
    alice = login()
    assert f"{DISCO}#info" in disco(alice, target.domain)
    answer = alice.iq("get", f"<query xmlns='{DISCO}#items'/>", to=target.domain)
    services = [item.get("jid", "") for item in answer.iter(f"{{{DISCO}#items}}item") if not item.get("node")]
    for service in services:
        assert disco(alice, service), f"{service} announces nothing"
    wanted = {name for host in target.hosts[:1] for name in (host.muc, host.upload) if name}
    evidence(f"XEP-0030: {target.domain} leads to {', '.join(services) or 'no service'}, each tells its features")
    assert wanted <= set(services), f"{', '.join(wanted - set(services))} cannot be found"


@pytest.mark.control("CHAT-10")
def test_the_server_s_capabilities_are_what_its_hash_says(login, target, evidence):
    alice = login()
    caps = alice.features.find(f"{{{CAPS}}}c")
    assert caps is not None, "the stream features bear no entity capabilities"
    node = f"{caps.get('node')}#{caps.get('ver')}"
    answer = alice.iq("get", f"<query xmlns='{DISCO}#info' node='{node}'/>", to=target.domain)
    query = answer.find(f"{{{DISCO}#info}}query")
    assert query is not None
    evidence(f"XEP-0115: {node}, the SHA-1 of {len(query)} identities, features and forms")
    assert verification_string(query) == caps.get("ver")


def verification_string(query: ET.Element) -> str:
    """The hash of service information (XEP-0115 section 5.1)."""
    identities = sorted(
        "/".join([item.get("category", ""), item.get("type", ""), item.get(LANG, ""), item.get("name", "")])
        for item in query.iterfind(f"{{{DISCO}#info}}identity")
    )
    features = sorted(item.get("var", "") for item in query.iterfind(f"{{{DISCO}#info}}feature"))
    forms = []
    for form in query.iterfind(f"{{{FORM}}}x"):
        fields = {
            field.get("var", ""): sorted(value.text or "" for value in field.iterfind(f"{{{FORM}}}value"))
            for field in form.iterfind(f"{{{FORM}}}field")
        }
        kind = fields.pop("FORM_TYPE")
        forms.append([*kind, *(part for name in sorted(fields) for part in (name, *fields[name]))])
    parts = [*identities, *features, *(part for form in sorted(forms) for part in form)]
    return base64.b64encode(hashlib.sha1("".join(f"{part}<" for part in parts).encode()).digest()).decode()


LANG = "{http://www.w3.org/XML/1998/namespace}lang"


@pytest.mark.control("CHAT-10")
def test_events_reach_who_asks_for_them(login, marker, evidence):
    phone, laptop = login(), login()
    # A set of features that the server has not seen yet: it remembers those that it has asked for.
    features = f"<identity category='client' type='pc' name='{marker}'/><feature var='{NICK}+notify'/>"
    query = f"<query xmlns='{DISCO}#info'>{features}</query>"
    ver = verification_string(ET.fromstring(query))
    laptop.send(f"<presence><c xmlns='{CAPS}' hash='sha-1' node='urn:example:portcullis' ver='{ver}'/></presence>")
    asked = laptop.wait("iq", type="get")
    node = f"urn:example:portcullis#{ver}"
    told = f"<query xmlns='{DISCO}#info' node='{node}'>{features}</query>"
    laptop.send(f"<iq type='result' id='{asked.get('id')}' to='{asked.get('from')}'>{told}</iq>")
    laptop.iq("get", "<ping xmlns='urn:xmpp:ping'/>")  # by now the server has read the answer
    try:
        publish(phone, NICK, f"<item id='current'><nick xmlns='{NICK}'>{marker}</nick></item>", access="presence")
        assert text(laptop.wait("message", from_=phone.bare), "event/items/item/nick") == marker
    finally:
        phone.iq("set", f"<pubsub xmlns='{PUBSUB}#owner'><delete node='{NICK}'/></pubsub>")
    evidence("XEP-0163: an event was published, and pushed to the device whose capabilities ask for it")


# Instant messaging


@pytest.mark.control("CHAT-12")
def test_contacts_are_kept_and_pushed(login, marker, evidence):
    phone, laptop = login(), login()
    laptop.iq("get", "<query xmlns='jabber:iq:roster'/>")
    contact = f"{marker}@{PEER}"
    phone.iq("set", f"<query xmlns='jabber:iq:roster'><item jid='{contact}' name='{marker}'/></query>")
    try:
        pushed = laptop.wait("iq", type="set").find("{jabber:iq:roster}query/{jabber:iq:roster}item")
        assert pushed is not None
        assert pushed.get("jid") == contact
    finally:
        phone.iq("set", f"<query xmlns='jabber:iq:roster'><item jid='{contact}' subscription='remove'/></query>")
    evidence("RFC 6121: a contact was added, pushed to the other device, and removed")


@pytest.mark.control("CHAT-12")
def test_a_picture_and_a_card_are_one_in_both_protocols(login, marker, evidence):
    alice, bob = login(0), login(1)
    before = alice.iq("get", f"<vCard xmlns='{VCARD}'/>").find(f"{{{VCARD}}}vCard")
    alice.iq("set", f"<vCard xmlns='{VCARD}'><FN>{marker}</FN></vCard>")
    picture = pixel()
    digest = hashlib.sha1(picture).hexdigest()
    data = f"<data xmlns='urn:xmpp:avatar:data'>{base64.b64encode(picture).decode()}</data>"
    info = f"<info bytes='{len(picture)}' id='{digest}' height='1' type='image/png' width='1'/>"
    metadata = f"<metadata xmlns='urn:xmpp:avatar:metadata'>{info}</metadata>"
    try:
        publish(alice, "urn:xmpp:avatar:data", f"<item id='{digest}'>{data}</item>", access="open")
        publish(alice, "urn:xmpp:avatar:metadata", f"<item id='{digest}'>{metadata}</item>", access="open")
        card = bob.iq("get", f"<vCard xmlns='{VCARD}'/>", to=alice.bare)
    finally:
        empty = "<metadata xmlns='urn:xmpp:avatar:metadata'/>"
        publish(alice, "urn:xmpp:avatar:metadata", f"<item id='current'>{empty}</item>", access="open")
        alice.iq("set", ET.tostring(before).decode() if before is not None else f"<vCard xmlns='{VCARD}'/>")
    assert text(card, "vCard/FN") == marker, "another account reads no card"
    shown = base64.b64decode(text(card, "vCard/PHOTO/BINVAL"))
    evidence(f"XEP-0054: the card was read by another account; XEP-0398: the avatar is in it ({len(shown)} bytes)")
    assert shown == picture


def pixel() -> bytes:
    """A PNG of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" + uuid.uuid4().bytes[:1])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# Mobile


@pytest.mark.control("CHAT-13")
def test_a_sleeping_phone_hears_what_matters_alone(login, marker, evidence):
    phone, bob = login(0), login(1)
    phone.send("<presence/>")
    phone.wait("presence", from_=phone.jid)
    phone.send("<inactive xmlns='urn:xmpp:csi:0'/>")
    bob.iq("get", "<ping xmlns='urn:xmpp:ping'/>")  # of the phone any word would say that it is awake
    composing = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
    bob.send(f"<message type='chat' to='{phone.jid}'>{composing}</message>")
    assert phone.silent("message", from_=bob.jid), "somebody's typing wakes the phone"
    bob.send(f"<message type='chat' to='{phone.jid}'><body>{marker}</body></message>")
    heard = [phone.wait("message", from_=bob.jid), phone.wait("message", from_=bob.jid)]
    assert [text(message, "body") for message in heard] == ["", marker]
    phone.send("<active xmlns='urn:xmpp:csi:0'/>")
    evidence("XEP-0352: typing is held back from an inactive device, and comes with the message that follows")


# XMPP Providers


@pytest.mark.control("CHAT-14")
@pytest.mark.kit
def test_the_measures_of_xmpp_providers_are_good(login, target, evidence):
    alice = login()
    refusal = refusal_of_registration(target, target.domain, "")
    evidence(f"account without an invitation -> {refusal}: category D, for clients to complete, not to suggest")
    contacts = target.variables.get("prosody_contacts") or {}
    evidence(f"contacts: {', '.join(contacts) or 'none'}")
    small = []
    for host in target.hosts:
        if host.upload:
            size = int(form_of(alice, host.upload).get("max-file-size", "0"))
            evidence(f"{host.upload}: files up to {size / 1e6:.0f} MB")
            if size < LARGEST_FILE:
                small.append(f"{host.upload}: files over {size / 1e6:.0f} MB are refused")
    for name in ("prosody_archive_expires_after", "prosody_upload_expires_after"):
        period = target.variables[name]
        evidence(f"{name}: {period}")
        if days(period) < DAYS_KEPT:
            small.append(f"{name}: {period} is less than {DAYS_KEPT} days")
    assert not small, "; ".join(small)
    assert contacts, "no contact is published"


def form_of(account: xmpp.Client, address: str) -> dict[str, str]:
    """The fields of the forms in an address's service information (XEP-0128)."""
    answer = account.iq("get", f"<query xmlns='{DISCO}#info'/>", to=address)
    fields = answer.iter(f"{{{FORM}}}field")
    return {field.get("var", ""): field.findtext(f"{{{FORM}}}value", "") for field in fields}


def days(period: str) -> float:
    """A period as Prosody reads it, such as "4 weeks" or "never", in days."""
    if period == "never":
        return float("inf")
    number, _, unit = period.partition(" ")
    lengths = {"day": 1, "week": 7, "month": 30, "year": 365}
    return float(number) * next((length for name, length in lengths.items() if unit.startswith(name)), 0)
