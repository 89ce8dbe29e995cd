"""Encryption in transit"""

from __future__ import annotations

import contextlib
from functools import partial

from verification.probes import tls, xmpp
from verification.probes.tls import Offer, Refused
from verification.probes.xmpp import NS, AuthenticationFailed, Scram, StanzaError, StreamEnded

from .catalogue import GIVES_IN, WITHSTANDS, Succeeded, attack, judge, refusal
from .stage import Victim

PEER = "peer.example"
BOTH = (xmpp.C2S, xmpp.S2S)
ALL = (xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT)
CBC = "ALL:!AESGCM:!CHACHA20:!AESCCM:!ARIAGCM:!eNULL:!aNULL:@SECLEVEL=0"
STATIC = "kRSA:aNULL:eNULL:kDHE:@SECLEVEL=0"


def handshakes(victim: Victim, offer: Offer) -> str:
    """How each port that is there refuses a handshake. Raises Succeeded when one accepts it."""
    answers = {}
    for port in ALL:
        with contextlib.suppress(ConnectionError, StreamEnded), victim.target.channel(port, sender=PEER) as channel:
            try:
                channel.start_tls(offer)
            except Refused as refused:
                answers[port] = str(refused)
                continue
            raise Succeeded(f"{port} takes {channel.version} {channel.cipher}")
    return ", ".join(dict.fromkeys(answers.values()))


@attack("Log in before the connection is encrypted", "TLS-01", stock=WITHSTANDS)
def plaintext_login(victim: Victim) -> str:
    with victim.plaintext(xmpp.C2S) as stream:
        stream.open()
        return refusal(lambda: xmpp.plain(stream, "alice", "guess"), "the password is read in plaintext")


@attack("Ask something before the connection is encrypted", "TLS-01", stock=WITHSTANDS)
def plaintext_request(victim: Victim) -> str:
    with victim.plaintext(xmpp.C2S) as stream:
        stream.open()
        stream.send("<iq type='get' id='early'><query xmlns='jabber:iq:register'/></iq>")

        def answer() -> None:
            if (said := stream.expect("iq")).get("type") == "error":
                raise StanzaError(said)

        return refusal(answer, "answered in plaintext")


@attack("Speak as another server without encryption", "TLS-02", stock=WITHSTANDS)
def plaintext_server(victim: Victim) -> str:
    with victim.plaintext(xmpp.S2S, PEER) as stream:
        stream.open()
        stream.send(f"<db:result from='{PEER}' to='{victim.domain}'>0123456789abcdef</db:result>")
        try:
            return refusal(lambda: stream.receive(timeout=3), "dialback goes on in plaintext")
        except TimeoutError:
            return "not answered"


@attack("Slip a request in before TLS, to be answered within it", "TLS-09", stock=WITHSTANDS)
def starttls_injection(victim: Victim) -> str:
    with victim.plaintext(xmpp.C2S) as stream:
        stream.open()
        injected = "<iq type='get' id='injected'><query xmlns='jabber:iq:register'/></iq>"
        stream.send(f"<starttls xmlns='{NS['tls']}'/>{injected}")
        stream.expect("proceed")
        try:
            stream.channel.start_tls(Offer(victim.domain))
        except Refused as refused:
            return f"ended before TLS: {refused}"
        stream.open()
        try:
            answer = stream.receive(timeout=1)
        except TimeoutError:
            return "thrown away"
        raise Succeeded(f"answered within TLS: {answer.get('id')}")


@attack("Speak TLS 1.0 or 1.1", "TLS-03", stock=WITHSTANDS)
def old_tls(victim: Victim) -> str:
    return handshakes(victim, Offer(victim.domain, "TLSv1", "TLSv1.1", "ALL:@SECLEVEL=0"))


@attack("Speak SSL 3.0, RC4, 3DES or export suites", "TLS-03", "TLS-04", stock=WITHSTANDS)
def broken_suites(victim: Victim) -> str:
    answers = []
    for version, ciphers in (("SSLv3", "ALL"), ("TLSv1.2", "RC4:3DES:EXPORT:LOW")):
        with victim.target.channel(xmpp.C2S) as channel:
            offer = partial(tls.legacy_handshake, channel, version, ciphers)
            answers.append(refusal(offer, f"{version} {ciphers}"))
    return ", ".join(dict.fromkeys(answers))


@attack("Speak TLS 1.2 with CBC suites", "TLS-04", stock=None)
def cbc_suites(victim: Victim) -> str:
    return handshakes(victim, Offer(victim.domain, maximum="TLSv1.2", ciphers=CBC))


@attack("Speak TLS 1.2 without forward secrecy, without a certificate, or without encryption", "TLS-04", stock=None)
def static_suites(victim: Victim) -> str:
    return handshakes(victim, Offer(victim.domain, maximum="TLSv1.2", ciphers=STATIC))


@attack("Renegotiate again and again, for the work that it makes", "TLS-08", stock=WITHSTANDS)
def renegotiation(victim: Victim) -> str:
    with victim.target.channel(xmpp.C2S) as channel:
        channel.start_tls(Offer(victim.domain, maximum="TLSv1.2"))
        channel.timeout = 3
        try:
            return refusal(channel.renegotiate, "renegotiated")
        except TimeoutError:
            return "not answered"


@attack("Have passwords sent as they are, inside TLS", "AUTH-01", stock=GIVES_IN)
def plain_mechanism(victim: Victim) -> str:
    with victim.target.stream(xmpp.C2S)[0] as stream:
        try:
            xmpp.plain(stream, "nobody-here", "guess")
        except AuthenticationFailed as failure:
            return judge(failure.condition == "invalid-mechanism", f"PLAIN: {failure.condition}")
    raise Succeeded("PLAIN: logged in")


@attack("Log in with SCRAM over SHA-1", "AUTH-01", stock=GIVES_IN)
def sha1_mechanism(victim: Victim) -> str:
    with victim.target.stream(xmpp.C2S)[0] as stream:
        first = Scram("alice", "", "sha1").first()
        return refusal(lambda: xmpp.sasl(stream, "SCRAM-SHA-1", first), "SCRAM-SHA-1: taken up")


def scram(victim: Victim, suffix: str, gs2: str, binding: bytes) -> str:
    """How the server refuses alice's own login with this GS2 header and binding. Raises Succeeded."""
    stream, features = victim.target.stream(xmpp.C2S)
    with stream:
        offered = xmpp.mechanisms(features)
        digest = next(digest for digest in ("256", "1") if f"SCRAM-SHA-{digest}{suffix}" in offered)
        exchange = Scram("alice", victim.passwords["alice"], f"sha{digest}", gs2, binding)
        return refusal(lambda: xmpp.scram(stream, f"SCRAM-SHA-{digest}{suffix}", exchange), "logged in all the same")


@attack("Make a client believe that the server knows no channel binding", "AUTH-02", stock=WITHSTANDS)
def binding_downgrade(victim: Victim) -> str:
    return scram(victim, "", "y", b"")


@attack("Pass somebody's login on over a connection of one's own", "AUTH-02", stock=WITHSTANDS)
def forged_binding(victim: Victim) -> str:
    return scram(victim, "-PLUS", "p=tls-exporter", bytes(32))
