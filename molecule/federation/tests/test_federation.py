"""Federation as it happens: two servers of ours, a stranger's, and a name server between them.

Each test runs from each of our servers. One is reached by direct TLS, the other by STARTTLS alone (see
templates/dnsmasq.conf.j2).
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from verification.probes import xmpp
from verification.probes.tls import Offer
from verification.probes.xmpp import Client, StanzaError, StreamEnded

MUC = "http://jabber.org/protocol/muc"
REACHED_AT = {"a.example": xmpp.S2S_DIRECT, "b.example": xmpp.S2S}
GOOD = "good.example"
PLAIN = "plain.example"
BAD = {
    "expired.example": "certificate has expired",
    "wrongname.example": "certificate is not valid for this name",
    "selfsigned.example": "certificate is self-signed",
    "untrusted.example": "certificate is not trusted",
}


def send(sender: Client, to: str) -> str:
    """Send a chat message whose body and id, the return value, occur nowhere else."""
    body = f"portcullis-{uuid.uuid4()}"
    sender.send(f"<message type='chat' id='{body}' to='{to}'><body>{body}</body></message>")
    return body


def deliver(sender: Client, receiver: Client) -> str:
    """Send a chat message, wait until it is there, and return its body."""
    body = send(sender, receiver.jid)
    assert receiver.wait("message", from_=sender.jid, id=body).findtext("client:body", "", xmpp.NS) == body
    return body


def bounced(sender: Client, to: str) -> tuple[str, StanzaError]:
    """Send a chat message that must come back, and return its body and why it did."""
    body = send(sender, to)
    error = StanzaError(sender.wait("message", type="error", id=body))
    assert error.condition in {"remote-server-not-found", "remote-server-timeout"}
    return body, error


def got_nothing(receiver: Client, sender: Client) -> bool:
    """Whether no message of that sender was on its way to the receiver before this call."""
    receiver.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=receiver.stream.domain)
    return sender.jid not in {message.get("from") for message in receiver.kept("message")}


def journal(host, since: float = 0) -> str:
    """What Prosody wrote since that time, in seconds since 1970."""
    with host.sudo():
        return host.check_output("journalctl --unit=prosody --output=cat --since=@%s", str(int(since)))


# Between servers of ours


@pytest.mark.control("S2S-03")
def test_messages_cross(alice, bob, host, evidence):
    deliver(alice, bob)
    deliver(bob, alice)
    assert host.run("getent hosts %s", bob.stream.domain).rc == 2, "the domain is reachable without its SRV records"
    evidence(f"{alice.bare} and {bob.bare} exchanged messages; {bob.stream.domain} has SRV records and no address")


@pytest.mark.control("S2S-03")
def test_presence_crosses(alice, bob, evidence):
    for client in (alice, bob):
        client.send("<presence/>")
    try:
        alice.send(f"<presence type='subscribe' to='{bob.bare}'/>")
        bob.wait("presence", type="subscribe", from_=alice.bare)
        bob.send(f"<presence type='subscribed' to='{alice.bare}'/>")
        alice.wait("presence", from_=bob.jid)
        bob.send("<presence type='unavailable'/>")
        alice.wait("presence", type="unavailable", from_=bob.jid)
        evidence(f"{alice.bare} subscribed to {bob.bare} and saw it come and go")
    finally:
        alice.iq("set", f"<query xmlns='jabber:iq:roster'><item jid='{bob.bare}' subscription='remove'/></query>")


@pytest.mark.control("S2S-03")
def test_rooms_are_open_to_members_elsewhere(alice, bob, target, evidence):
    room = f"{uuid.uuid4()}@{target.hosts[0].muc}"
    alice.send(f"<presence to='{room}/alice'><x xmlns='{MUC}'/></presence>")
    alice.wait("presence", from_=f"{room}/alice")
    alice.iq("set", f"<query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query>", to=room)
    member = f"<item affiliation='member' jid='{bob.bare}'/>"
    alice.iq("set", f"<query xmlns='{MUC}#admin'>{member}</query>", to=room)
    bob.send(f"<presence to='{room}/bob'><x xmlns='{MUC}'/></presence>")
    assert bob.wait("presence", from_=f"{room}/bob").get("type") != "error"
    body = send(bob, f"{room}/alice")
    assert alice.wait("message", from_=f"{room}/bob").findtext("client:body", "", xmpp.NS) == body
    alice.iq("set", f"<query xmlns='{MUC}#owner'><destroy/></query>", to=room)
    evidence(f"{bob.bare} entered a room at {target.hosts[0].muc} and spoke")


@pytest.mark.control("S2S-03")
def test_connections_are_encrypted_and_authenticated(alice, bob, host, evidence):
    deliver(alice, bob)
    here, there = alice.stream.domain, bob.stream.domain
    with host.sudo():
        sessions = host.check_output("prosodyctl shell s2s show %s", here)
    rows = [[cell.strip() for cell in line.split("|")] for line in sessions.splitlines()]
    between = [row[2:] for row in rows if (row[1:2], row[3:4]) == ([here], [there])]
    assert {direction for direction, *_ in between} == {"-->", "<--"}, sessions
    for direction, _, _, security, sasl, dialback in between:
        assert (security, sasl, dialback) == ("TLSv1.3", "Succeeded", "Not used")
        evidence(f"{here} {direction} {there}: {security}, SASL EXTERNAL {sasl.lower()}")


@pytest.mark.control("S2S-03")
def test_direct_tls_is_used_where_it_is_offered(alice, bob, neighbour, host, evidence):
    deliver(alice, bob)
    port = REACHED_AT[neighbour.domain]
    connections = host.check_output("ss -Hnt state established dport = :%s", str(port))
    assert any(neighbour.variables[name] in connections for name in ("lab_address", "lab_address6"))
    evidence(f"{alice.stream.domain} -> {neighbour.domain} at port {port}")


@pytest.mark.control("CERT-02")
def test_the_operator_s_certificates_are_served(target, evidence):
    provided = x509.load_pem_x509_certificate(Path(f"{target.variables['certificate']}.crt").read_bytes())
    usage = provided.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    for port in (xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT):
        with target.channel(port, sender=GOOD) as channel:
            channel.start_tls(xmpp.default_offer(target.domain, port))
            assert channel.chain[0] == provided, f"port {port} serves another certificate"
        evidence(f"{port} -> {provided.serial_number:x}, serverAuth alone, as provided")


# With servers of others


@pytest.mark.control("S2S-03")
def test_a_good_stranger_is_welcome(alice, log_in_at, stranger_host, evidence):
    friend = log_in_at(GOOD)
    body = deliver(alice, friend)
    deliver(friend, alice)
    assert body in journal(stranger_host), "the stranger's journal does not show what arrives"
    evidence(f"{alice.bare} and a user of {GOOD} exchanged messages")


@pytest.mark.control("S2S-04")
@pytest.mark.parametrize("domain", BAD)
def test_nothing_is_sent_to_a_bad_certificate(alice, stranger_host, evidence, domain):
    body, error = bounced(alice, f"somebody@{domain}")
    evidence(f"message to {domain} -> {error}")
    assert BAD[domain] in str(error)
    assert body not in journal(stranger_host)


@pytest.mark.control("S2S-04")
def test_nothing_is_sent_in_plain(alice, stranger_host, evidence):
    body, error = bounced(alice, f"somebody@{PLAIN}")
    evidence(f"message to {PLAIN} -> {error}")
    assert body not in journal(stranger_host)


@pytest.mark.control("S2S-01")
@pytest.mark.parametrize("domain", BAD)
def test_nothing_is_taken_from_a_bad_certificate(alice, log_in_at, host, evidence, domain):
    started = time.time()
    liar = log_in_at(domain)
    _, error = bounced(liar, alice.jid)
    assert got_nothing(alice, liar)
    words = f"Forbidding insecure connection to/from {domain} because its {BAD[domain]}"
    assert words in journal(host, started)
    evidence(f"message from {domain} -> {error}; log: {words}")


@pytest.mark.control("S2S-01")
def test_nothing_is_taken_in_plain(alice, log_in_at, evidence):
    liar = log_in_at(PLAIN)
    _, error = bounced(liar, alice.jid)
    assert got_nothing(alice, liar)
    evidence(f"message from {PLAIN} -> {error}")


@pytest.mark.control("S2S-02")
@pytest.mark.parametrize("port", [xmpp.S2S, xmpp.S2S_DIRECT])
def test_a_server_speaks_for_itself_alone(target, neighbour, alice, evidence, port):
    pair = Path(target.variables["certificates"], "strangers")
    offer = Offer(target.domain, certificate=pair / f"{GOOD}.crt", key=pair / f"{GOOD}.key")
    honest, forged = f"friend@{GOOD}/honest", f"bob@{neighbour.domain}/forged"
    stream, features = target.stream(port, offer=offer, sender=GOOD)
    with stream:
        assert "EXTERNAL" in xmpp.mechanisms(features)
        xmpp.sasl(stream, "EXTERNAL", GOOD)
        stream.open()
        for sender in (honest, forged):
            stream.send(f"<message from='{sender}' to='{alice.jid}'><body>{sender}</body></message>")
        with pytest.raises(StreamEnded) as cut:
            while True:
                stream.receive()
    evidence(f"{port} {GOOD} speaking as {forged} -> {cut.value}")
    assert cut.value.condition in {"invalid-from", "not-authorized"}
    alice.wait("message", from_=honest)
    assert alice.silent("message", from_=forged)
