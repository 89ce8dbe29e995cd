"""Encryption in transit on the XMPP ports, by handshakes that should succeed and handshakes that should not."""

from __future__ import annotations

import pytest

from verification.probes import tls, xmpp
from verification.probes.tls import Channel, Offer, Refused
from verification.probes.xmpp import NS, Stream, StreamEnded

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
def port(request, target):
    """Each XMPP port."""
    if request.param in (xmpp.S2S, xmpp.S2S_DIRECT) and not target.federates:
        pytest.skip("federation is off")
    return request.param


def refusal(target, port: int, offer: Offer) -> str:
    """How the server refuses this handshake; fails when it accepts."""
    with target.channel(port, sender=PEER) as channel:
        try:
            channel.start_tls(offer)
        except Refused as refused:
            return str(refused)
        pytest.fail(f"{port} accepted {channel.version} {channel.cipher}")


@pytest.mark.control("TLS-01")
def test_clients_must_encrypt_first(target, evidence):
    with Stream(Channel.connect(target.address, target.port(xmpp.C2S)), target.domain) as stream:
        features = stream.open()
        assert features.find("tls:starttls/tls:required", NS) is not None, "5222 does not require STARTTLS"
        assert not xmpp.mechanisms(features), f"5222 in plaintext offers {xmpp.mechanisms(features)}"
        offered = [xmpp.local_name(feature) for feature in features]
        evidence(f"5222 in plaintext offers {', '.join(offered)} (required)")
        assert offered == ["starttls"]


@pytest.mark.control("TLS-01")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_login_in_plaintext_is_refused(target, evidence, mechanism):
    with Stream(Channel.connect(target.address, target.port(xmpp.C2S)), target.domain) as stream:
        stream.open()
        first = "\0nobody\0nothing" if mechanism == "PLAIN" else "n,,n=nobody,r=abcdefgh"
        with pytest.raises((xmpp.AuthenticationFailed, StreamEnded)) as refused:
            xmpp.sasl(stream, mechanism, first)
        evidence(f"5222 in plaintext, {mechanism} -> {refused.value}")
        assert refused.value.condition == "encryption-required"


@pytest.mark.control("TLS-01")
def test_stanzas_in_plaintext_are_refused(target, evidence):
    with Stream(Channel.connect(target.address, target.port(xmpp.C2S)), target.domain) as stream:
        stream.open()
        stream.send("<iq type='get' id='p'><query xmlns='jabber:iq:register'/></iq>")
        with pytest.raises(StreamEnded) as refused:
            answer = stream.receive()
            pytest.fail(f"5222 answered a request in plaintext: {answer.tag} {answer.attrib}")
        evidence(f"5222 in plaintext, <iq/> -> {refused.value}")


@pytest.mark.control("TLS-02")
def test_servers_must_encrypt_first(target, evidence):
    if not target.federates:
        pytest.skip("federation is off")
    with Stream(Channel.connect(target.address, target.port(xmpp.S2S)), target.domain, xmpp.SERVER, PEER) as stream:
        features = stream.open()
        offered = [xmpp.local_name(feature) for feature in features]
        evidence(f"5269 in plaintext offers {', '.join(offered)}")
        assert offered == ["starttls"]
        assert features.find("tls:starttls/tls:required", NS) is not None, "5269 does not require STARTTLS"


@pytest.mark.control("TLS-02")
@pytest.mark.parametrize(
    "stanza",
    [
        f"<db:result from='{PEER}' to='{{domain}}'>0123456789abcdef</db:result>",
        f"<message from='eve@{PEER}' to='admin@{{domain}}'><body>in plaintext</body></message>",
    ],
    ids=["dialback", "message"],
)
def test_servers_in_plaintext_are_refused(target, evidence, stanza):
    if not target.federates:
        pytest.skip("federation is off")
    with Stream(Channel.connect(target.address, target.port(xmpp.S2S)), target.domain, xmpp.SERVER, PEER) as stream:
        stream.open()
        stream.send(stanza.format(domain=target.domain))
        with pytest.raises(StreamEnded) as refused:
            answer = stream.receive()
            pytest.fail(f"5269 answered in plaintext: {answer.tag} {answer.attrib}")
        evidence(f"5269 in plaintext, <{stanza[1:].split()[0]}/> -> {refused.value}")
        assert refused.value.condition in {"policy-violation", "not-authorized"}


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
        assert channel.group == "X25519MLKEM768"


@pytest.mark.control("TLS-07")
@pytest.mark.parametrize("port", [xmpp.C2S_DIRECT, xmpp.S2S_DIRECT])
def test_direct_tls_is_offered(target, evidence, port):
    if port == xmpp.S2S_DIRECT and not target.federates:
        pytest.skip("federation is off")
    stream, features = target.stream(port, sender=PEER)
    with stream:
        evidence(f"{port} ALPN {stream.channel.alpn or 'none'}, stream from {stream.header.get('from')}")
        assert stream.header.get("from") == target.domain
        assert features.find("tls:starttls", NS) is None, "STARTTLS offered inside TLS"
