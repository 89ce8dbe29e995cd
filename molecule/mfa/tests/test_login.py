"""Who logs in with what: a device everywhere, an account without a second factor as ever, a password alone nowhere."""

from __future__ import annotations

import hashlib
import hmac
import time

import pytest

from verification.probes import entrances, sasl2, xmpp
from verification.probes.entrances import WAYS
from verification.probes.prosody_console import Refused
from verification.probes.xmpp import AuthenticationFailed, Client, Scram, StreamEnded


def log_in(target, way: str, user, password: str) -> Client:
    """Log in by SCRAM and bind a resource. Raises AuthenticationFailed."""
    return entrances.log_in(target, way, user.jid, password)


def works(client: Client) -> bool:
    """Whether the session is one: the server answers a request about the account."""
    client.iq("get", "<query xmlns='jabber:iq:roster'/>")
    return "/" in client.jid


@pytest.mark.control("MFA-16")
@pytest.mark.parametrize("way", WAYS)
def test_a_device_logs_in(target, alice, way, evidence) -> None:
    device = alice.add_device()
    with log_in(target, way, alice, device["password"]) as client:
        assert works(client)
        assert [entry["id"] for entry in alice.mfa("devices") if entry["online"]] == [device["id"]]
    evidence(f"{way}: the password of a device opens {client.jid}")


@pytest.mark.control("MFA-01")
@pytest.mark.parametrize("way", WAYS)
def test_the_primary_password_opens_nothing(target, alice, way, evidence) -> None:
    alice.add_device()
    with pytest.raises(AuthenticationFailed) as failure:
        log_in(target, way, alice, alice.password)
    assert failure.value.condition == "not-authorized"
    evidence(f"{way}: the primary password -> {failure.value.condition}")


@pytest.mark.control("MFA-01")
@pytest.mark.parametrize("negotiation", ["SASL", "SASL2"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-1", "OAUTHBEARER", "EXTERNAL"])
def test_no_other_mechanism_is_taken(target, alice, negotiation, mechanism, evidence) -> None:
    first = f"\0{alice.name}\0{alice.password}"
    stream, features = target.stream(xmpp.C2S, alice.domain)
    with stream:
        assert mechanism not in xmpp.mechanisms(features) + sasl2.offered(features)
        with pytest.raises(AuthenticationFailed) as failure:
            (xmpp.sasl if negotiation == "SASL" else sasl2.begin)(stream, mechanism, first)
    assert failure.value.condition == "invalid-mechanism"
    evidence(f"{negotiation}: {mechanism} -> {failure.value.condition}")


@pytest.mark.control("MFA-01")
def test_what_asks_for_a_password_elsewhere_gets_none(target, alice, bob, prosody, evidence) -> None:
    """mod_rest, the page of mod_http_oauth2 and others ask the user manager; the account page asks for the code too."""
    device = alice.add_device()

    def opens(user, password: str) -> bool:
        call = f"return usermanager.test_password('{user.name}', '{user.domain}', '{password}') or false"
        return prosody.run(call) == [True]

    assert opens(bob, bob.password)
    assert not opens(alice, alice.password)
    assert not opens(alice, device["password"])
    with pytest.raises(Refused, match="not-authorized"):
        alice.mfa("verify_password", device["password"], "198.51.100.6")
    evidence("neither the primary password nor that of a device passes the user manager; the latter not the page")


@pytest.mark.control("MFA-16")
@pytest.mark.parametrize("kept", ["SHA-1", "in clear"])
def test_an_account_of_an_older_server_is_hashed_anew(target, make_user, prosody, kept) -> None:
    """SCRAM-SHA-256 cannot log in an account hashed with SHA-1: its owner goes to the account page first."""
    carol = make_user(enrolled=False)
    if kept == "in clear":
        prosody.change_account(carol, f"account.password = '{carol.password}' account.stored_key = nil")
    else:
        key = hashlib.pbkdf2_hmac("sha1", carol.password.encode(), b"salt", 10000)
        stored = hashlib.sha1(hmac.digest(key, b"Client Key", "sha1")).hexdigest()
        server = hmac.digest(key, b"Server Key", "sha1").hex()
        prosody.change_account(
            carol, f"account.salt, account.stored_key, account.server_key = 'salt', '{stored}', '{server}'"
        )
        with pytest.raises(AuthenticationFailed, match="not-authorized"):
            log_in(target, "SASL", carol, carol.password)
        with pytest.raises(Refused, match="not-authorized"):
            carol.mfa("verify_password", "wrong", "198.51.100.6")
        assert carol.mfa("verify_password", carol.password, "198.51.100.6") is True
    with log_in(target, "SASL", carol, carol.password) as client:
        assert works(client)


@pytest.mark.control("MFA-16")
@pytest.mark.parametrize("way", WAYS)
def test_an_account_without_a_second_factor_logs_in_as_ever(target, bob, way) -> None:
    with log_in(target, way, bob, bob.password) as client:
        assert works(client)
    with pytest.raises(AuthenticationFailed, match="not-authorized"):
        log_in(target, way, bob, "wrong")


@pytest.mark.control("MFA-16")
@pytest.mark.parametrize("port", [xmpp.C2S, xmpp.C2S_DIRECT])
@pytest.mark.parametrize("negotiation", ["SASL", "SASL2"])
def test_a_device_logs_in_with_channel_binding(target, alice, port, negotiation, evidence) -> None:
    device = alice.add_device()
    stream, features = target.stream(port, alice.domain)
    with stream:
        binding = stream.channel.exporter()
        exchange = Scram(alice.name, device["password"], gs2="p=tls-exporter", binding=binding)
        if negotiation == "SASL":
            assert "tls-exporter" in xmpp.channel_bindings(features)
            xmpp.scram(stream, "SCRAM-SHA-256-PLUS", exchange)
        else:
            sasl2.scram(stream, exchange, mechanism="SCRAM-SHA-256-PLUS")
    evidence(f"{port} {negotiation}: SCRAM-SHA-256-PLUS with tls-exporter")


@pytest.mark.control("MFA-16")
def test_a_device_behind_an_interceptor_is_refused(target, alice, evidence) -> None:
    device = alice.add_device()
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    with stream, pytest.raises(AuthenticationFailed) as failure:
        exchange = Scram(alice.name, device["password"], gs2="p=tls-exporter", binding=b"x" * 32)
        xmpp.scram(stream, "SCRAM-SHA-256-PLUS", exchange)
    evidence(f"the binding of another connection -> {failure.value}")


@pytest.mark.control("MFA-16")
def test_any_of_twenty_devices_logs_in(target, make_user) -> None:
    alice = make_user()
    devices = alice.prosody.add_devices(alice, 20)
    for device in (devices[0], devices[11], devices[19]):
        with log_in(target, "SASL", alice, device["password"]) as client:
            assert works(client)


@pytest.mark.control("MFA-04")
def test_a_device_is_revoked_alone(target, alice, evidence) -> None:
    lost, kept = alice.add_device(), alice.add_device()
    with log_in(target, "SASL", alice, lost["password"]) as gone, log_in(
        target, "SASL2", alice, kept["password"]
    ) as client:
        alice.mfa("revoke_device", lost["id"])
        with pytest.raises(StreamEnded) as ended:
            gone.iq("get", "<ping xmlns='urn:xmpp:ping'/>")
        assert works(client)
    with pytest.raises(AuthenticationFailed, match="not-authorized"):
        log_in(target, "SASL", alice, lost["password"])
    with log_in(target, "SASL", alice, kept["password"]) as client:
        assert works(client)
    evidence(f"the revoked device's session -> {ended.value}; the other's lives on")


@pytest.mark.control("MFA-04")
@pytest.mark.parametrize("way", ["direct TLS", "WebSocket", "BOSH"])
def test_a_revoked_device_is_cut_off_wherever_it_came_in(target, alice, way) -> None:
    lost = alice.add_device()
    with log_in(target, way, alice, lost["password"]) as gone:
        assert works(gone)
        alice.mfa("revoke_device", lost["id"])
        with pytest.raises((StreamEnded, ConnectionError)):
            works(gone)
    with pytest.raises(AuthenticationFailed, match="not-authorized"):
        log_in(target, way, alice, lost["password"])


@pytest.mark.control("MFA-04")
def test_a_revoked_device_that_is_asleep_does_not_wake(target, alice) -> None:
    lost, kept = alice.add_device(), alice.add_device()
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    success = sasl2.scram(stream, Scram(alice.name, lost["password"]), inline=sasl2.BIND_RESUMABLE)
    assert success.resumption
    stream.channel.close()
    alice.mfa("revoke_device", lost["id"])
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    with stream:
        inline = sasl2.resume(success.resumption) + sasl2.BIND
        assert not sasl2.scram(stream, Scram(alice.name, kept["password"]), inline=inline).resumed


@pytest.mark.control("MFA-04")
def test_a_disabled_account_is_refused(target, make_user, prosody) -> None:
    alice = make_user()
    device = alice.add_device()
    with log_in(target, "SASL", alice, device["password"]) as client:
        prosody.run(f"return usermanager.disable_user('{alice.name}', '{alice.domain}')")
        with pytest.raises(StreamEnded):
            client.iq("get", "<ping xmlns='urn:xmpp:ping'/>")
    with pytest.raises(AuthenticationFailed, match="not-authorized"):
        log_in(target, "SASL", alice, device["password"])


@pytest.mark.control("MFA-04")
def test_an_expired_device_is_refused_and_its_session_ends(target, alice) -> None:
    device = alice.mfa("add_device", "for a moment", int(time.time()) + 10)
    with log_in(target, "SASL", alice, device["password"]) as client, pytest.raises(StreamEnded):
        client.wait("message", timeout=40)
    with pytest.raises(AuthenticationFailed, match="not-authorized"):
        log_in(target, "SASL", alice, device["password"])
