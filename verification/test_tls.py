"""Encryption in transit on the XMPP ports, by handshakes that should succeed and handshakes that should not."""

from __future__ import annotations

import contextlib
from xml.etree import ElementTree as ET

import pytest

from verification.probes import tls, xmpp
from verification.probes.tls import Channel, Offer, Refused
from verification.probes.xmpp import NS, StanzaError, Stream, StreamEnded

PEER = "peer.example"
# TLS 1.2 suites with forward secrecy and authenticated encryption (RFC 9325 section 4.2); all others must fail.
GOOD = ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305")  # fmt: skip
WEAK = {
    "CBC": "ALL:!AESGCM:!CHACHA20:!AESCCM:!ARIAGCM:!eNULL:!aNULL:@SECLEVEL=0",
    "RSA key exchange": "kRSA:@SECLEVEL=0",
    "finite-field Diffie-Hellman": "kDHE:@SECLEVEL=0",
    "anonymous": "aNULL:@SECLEVEL=0",
    "no encryption": "eNULL:@SECLEVEL=0",
    "SHA-1": "SHA1:@SECLEVEL=0",
}
WEAK_LEGACY = {"RC4": "RC4", "3DES": "3DES", "export": "EXPORT:LOW"}


@pytest.fixture(params=[xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT])
def port(request, reachable) -> int:
    """Each XMPP port."""
    return reachable(request.param)


def plaintext(target, port: int) -> Stream:
    """A connection to a STARTTLS port on which nothing was said yet."""
    channel = Channel.connect(*target.at(port))
    return Stream(channel, target.domain, xmpp.namespace_of(port), PEER if port == xmpp.S2S else "")


def refusal_of(stream: Stream, namespace: str) -> str:
    """How the server refuses a request with that payload; fails when it answers it."""
    addresses = f"from='{stream.sender}' to='{stream.domain}'" if stream.sender else ""
    element = "ping" if namespace.endswith("ping") else "query"
    stream.send(f"<iq type='get' id='refused' {addresses}><{element} xmlns='{namespace}'/></iq>")
    try:
        answer = stream.expect("iq", timeout=2)
    except TimeoutError:
        return "not answered"
    except StreamEnded as ended:
        return str(ended)
    assert answer.get("type") == "error", "the request is answered"
    return str(StanzaError(answer))


def refusal(target, port: int, offer: Offer) -> str:
    """How the server refuses this handshake; fails when it accepts."""
    with target.channel(port, sender=PEER) as channel:
        try:
            channel.start_tls(offer)
        except Refused as refused:
            return str(refused)
        pytest.fail(f"{port} accepted {channel.version} {channel.cipher}")


@pytest.mark.control("TLS-01")
@pytest.mark.control("CHAT-10")
def test_clients_must_encrypt_first(target, evidence):
    with plaintext(target, xmpp.C2S) as stream:
        features = stream.open()
        offered = {xmpp.local_name(feature) for feature in features}
        evidence(f"5222 in plaintext offers {', '.join(sorted(offered))}")
        assert offered <= {"starttls", "limits"}, "more than STARTTLS is offered"
        assert features.find("tls:starttls/tls:required", NS) is not None, "STARTTLS is not required"


@pytest.mark.control("TLS-01")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_login_in_plaintext_is_refused(target, evidence, mechanism):
    with plaintext(target, xmpp.C2S) as stream:
        stream.open()
        first = "\0nobody\0nothing" if mechanism == "PLAIN" else "n,,n=nobody,r=abcdefgh"
        with pytest.raises((xmpp.AuthenticationFailed, StreamEnded)) as refused:
            xmpp.sasl(stream, mechanism, first)
        evidence(f"5222 in plaintext, {mechanism} -> {refused.value}")
        assert refused.value.condition == "encryption-required", "the login was considered"


@pytest.mark.control("TLS-01")
def test_requests_in_plaintext_are_refused(target, evidence):
    with plaintext(target, xmpp.C2S) as stream:
        stream.open()
        evidence(f"5222 in plaintext, registration form -> {refusal_of(stream, 'jabber:iq:register')}")


@pytest.mark.control("TLS-02")
def test_servers_must_encrypt_first(target, evidence, federation):
    with plaintext(target, xmpp.S2S) as stream:
        features = stream.open()
        offered = {xmpp.local_name(feature) for feature in features}
        evidence(f"5269 in plaintext offers {', '.join(sorted(offered))}")
        assert offered <= {"starttls", "limits", "dialback"}, "more than STARTTLS is offered"
        assert features.find("tls:starttls/tls:required", NS) is not None, "STARTTLS is not required"


@pytest.mark.control("TLS-02")
def test_servers_in_plaintext_are_not_heard(target, evidence, federation):
    with plaintext(target, xmpp.S2S) as stream:
        stream.open()
        evidence(f"5269 in plaintext, ping -> {refusal_of(stream, 'urn:xmpp:ping')}")


@pytest.mark.control("TLS-03")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1.1"])
def test_old_versions_are_refused(target, evidence, port, version):
    offer = Offer(target.domain, minimum=version, maximum=version, ciphers=tls.EVERYTHING)
    evidence(f"{port} {version} -> {refusal(target, port, offer)}")


@pytest.mark.control("TLS-03")
def test_ssl3_is_refused(target, evidence, port):
    with target.channel(port, sender=PEER) as channel, pytest.raises(Refused) as refused:
        suite = tls.legacy_handshake(channel, "SSLv3", "ALL")
        pytest.fail(f"{port} accepted SSLv3 {suite}")
    evidence(f"{port} SSLv3 -> {refused.value}")


@pytest.mark.control("TLS-04")
@pytest.mark.parametrize("kind", WEAK)
def test_weak_suites_are_refused(target, evidence, port, kind):
    offer = Offer(target.domain, maximum="TLSv1.2", ciphers=WEAK[kind])
    evidence(f"{port} TLSv1.2 {kind} -> {refusal(target, port, offer)}")


@pytest.mark.control("TLS-04")
@pytest.mark.parametrize("kind", WEAK_LEGACY)
def test_broken_suites_are_refused(target, evidence, port, kind):
    with target.channel(port, sender=PEER) as channel, pytest.raises(Refused) as refused:
        suite = tls.legacy_handshake(channel, "TLSv1.2", WEAK_LEGACY[kind])
        pytest.fail(f"{port} accepted {suite}")
    evidence(f"{port} TLSv1.2 {kind} -> {refused.value}")


@pytest.mark.control("TLS-04")
def test_tls_1_2_with_good_suites_works(target, evidence, port):
    with target.channel(port, sender=PEER) as channel:
        channel.start_tls(Offer(target.domain, maximum="TLSv1.2", ciphers=":".join(GOOD)))
        evidence(f"{port} {channel.version} {channel.cipher}")


@pytest.mark.control("TLS-05")
def test_tls_1_3_is_spoken(target, evidence, port):
    with target.channel(port, sender=PEER) as channel:
        channel.start_tls(Offer(target.domain, minimum="TLSv1.3"))
        evidence(f"{port} {channel.version} {channel.cipher}")


@pytest.mark.control("TLS-06")
def test_key_exchange_withstands_quantum_computers(target, evidence, port):
    with target.channel(port, sender=PEER) as channel:
        channel.start_tls(Offer(target.domain))
        evidence(f"{port} {channel.version} {channel.group}")
        assert channel.group == "X25519MLKEM768", "not a hybrid with ML-KEM"


@pytest.mark.control("TLS-07")
@pytest.mark.parametrize("direct_port", [xmpp.C2S_DIRECT, xmpp.S2S_DIRECT])
def test_direct_tls_is_offered(request, target, evidence, direct_port):
    if direct_port == xmpp.S2S_DIRECT:
        request.getfixturevalue("federation")
    with target.channel(direct_port) as channel:
        channel.start_tls(xmpp.default_offer(target.domain, direct_port))
        stream = Stream(channel, target.domain, xmpp.namespace_of(direct_port), PEER)
        with contextlib.suppress(StreamEnded):  # a server that shows no certificate is sent away after its greeting
            stream.open()
        evidence(f"{direct_port} stream from {stream.header.get('from')}")
        assert stream.header.get("from") == target.domain


@pytest.mark.control("TLS-07")
@pytest.mark.kit
@pytest.mark.parametrize("direct_port", [xmpp.C2S_DIRECT, xmpp.S2S_DIRECT])
def test_direct_tls_names_its_protocol(request, target, evidence, direct_port):
    if direct_port == xmpp.S2S_DIRECT:
        request.getfixturevalue("federation")
    with target.channel(direct_port) as channel:
        channel.start_tls(xmpp.default_offer(target.domain, direct_port))
        evidence(f"{direct_port} ALPN {channel.alpn or 'none'}")
        assert channel.alpn == xmpp.ALPN[direct_port]


@pytest.mark.control("TLS-08")
def test_clients_cannot_renegotiate(target, evidence, port):
    with target.channel(port, sender=PEER) as channel:
        channel.start_tls(Offer(target.domain, maximum="TLSv1.2"))
        try:
            channel.renegotiate()
        except (Refused, TimeoutError) as refused:
            evidence(f"{port} renegotiation -> {refused}")
            return
    pytest.fail(f"{port} renegotiated")


@pytest.mark.control("TLS-08")
def test_nothing_is_compressed(target, evidence, port):
    with target.channel(port, sender=PEER) as channel:
        method = tls.compression(channel)
        evidence(f"{port} TLS compression {method or 'refused'}")
        assert not method


@pytest.mark.control("TLS-09")
@pytest.mark.parametrize("starttls_port", [xmpp.C2S, xmpp.S2S])
def test_what_is_slipped_in_before_tls_is_thrown_away(reachable, target, evidence, starttls_port):
    reachable(starttls_port)
    with plaintext(target, starttls_port) as stream:
        stream.open()
        injected = "<iq type='get' id='injected'><query xmlns='jabber:iq:register'/></iq>"
        stream.send(f"<starttls xmlns='{NS['tls']}'/>{injected}")
        stream.expect("proceed")
        try:
            stream.channel.start_tls(Offer(target.domain))
        except Refused:
            answers, end = rest_of(stream), "the connection is ended before TLS"
        else:
            with contextlib.suppress(StreamEnded):  # a server that shows no certificate is sent away
                stream.open()
                stream.send("</stream:stream>")
            answers, end = rest_of(stream), "not answered within TLS"
        answered = [answer.attrib for answer in answers if answer.get("id") == "injected"]
        assert not answered, f"{starttls_port} answered a request that came before TLS: {answered[0]}"
        evidence(f"{starttls_port} request sent along with STARTTLS -> {end}")


def rest_of(stream: Stream) -> list[ET.Element]:
    """Everything that still comes before the stream ends. Raises TimeoutError where it goes on in silence."""
    answers = []
    with contextlib.suppress(StreamEnded, ET.ParseError):  # a second stream header, in which an error is told
        while True:
            answers.append(stream.receive())
    return answers
