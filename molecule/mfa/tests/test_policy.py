"""Who must enrol, by when, and what is open to those who have not; and the limits that hold for everybody."""

from __future__ import annotations

import secrets

import pytest

from verification.probes import sasl2, xmpp
from verification.probes.prosody_console import Refused, User
from verification.probes.xmpp import AuthenticationFailed, Client, Scram, StanzaError, StreamEnded

pytestmark = pytest.mark.alone

ADDRESS = "198.51.100.8"
LONG_AGO = "account.mfa = account.mfa or {} account.mfa.seen = os.time() - 400 * 86400"


def log_in(target, user: User, password: str = "") -> Client:
    """Log in with a password, the account's own by default."""
    return Client.login(*target.at(xmpp.C2S), user.jid, password or user.password)


def run_out_of_time(user: User) -> None:
    """The time in which the account had to enrol is over."""
    user.mfa("set_required", True, "the test")
    user.prosody.change_account(user, LONG_AGO)


@pytest.mark.control("MFA-05")
def test_an_account_that_must_enrol_has_time_to(target, make_user, evidence) -> None:
    alice = make_user(enrolled=False)
    assert alice.mfa("status") | {"deadline": 0} == {
        "enrolled": False,
        "required": False,
        "may_chat": True,
        "devices": 0,
        "recovery_left": 0,
        "deadline": 0,
    }
    alice.mfa("set_required", True, "the test")
    status = alice.mfa("status")
    assert status["required"] and status["may_chat"] and status["deadline"]
    log_in(target, alice).stream.close()
    evidence("an account that is told to enrol logs in until its time is over")


@pytest.mark.control("MFA-05")
@pytest.mark.parametrize("way", ["SASL", "SASL2"])
def test_out_of_time_the_password_opens_no_chat_but_the_account_page(target, make_user, way, evidence) -> None:
    alice = make_user(enrolled=False)
    run_out_of_time(alice)
    assert alice.mfa("status")["may_chat"] is False
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    exchange = Scram(alice.name, alice.password)
    with stream, pytest.raises(AuthenticationFailed) as refused:
        if way == "SASL":
            xmpp.scram(stream, "SCRAM-SHA-256", exchange)
        else:
            sasl2.scram(stream, exchange)
    assert alice.mfa("verify_password", alice.password, ADDRESS) is True
    alice.mfa("confirm_enrolment", alice.code())
    log_in(target, alice, alice.add_device()["password"]).stream.close()
    evidence(f"{way}: out of time -> {refused.value.condition}; enrolled on the page, a device logs in")


@pytest.mark.control("MFA-05")
def test_out_of_time_open_sessions_and_tokens_end(target, make_user) -> None:
    alice = make_user(enrolled=False)
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    asking = sasl2.BIND + sasl2.request_token()
    success = sasl2.scram(stream, Scram(alice.name, alice.password), inline=asking, client_id="laptop")
    alice.mfa("set_required", True, "the test")
    alice.prosody.change_account(alice, LONG_AGO)
    alice.mfa("set_required", True, "the test")
    with pytest.raises(StreamEnded):
        stream.expect("message")
    stream, _ = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
    with stream, pytest.raises(AuthenticationFailed):
        sasl2.fast(stream, alice.name, success.token, "laptop")


@pytest.mark.control("MFA-05")
def test_administrators_must_enrol(prosody, make_user, evidence) -> None:
    alice = make_user(enrolled=False)
    assert not alice.mfa("status")["required"]
    prosody.run(f"return usermanager.set_user_role('{alice.name}', '{alice.domain}', 'prosody:admin') ~= nil")
    status = alice.mfa("status")
    assert status["required"] and status["deadline"]
    evidence("the role of an administrator -> a second factor is required, and the time to enrol runs")


@pytest.mark.control("MFA-01")
def test_enrolment_ends_what_the_password_has_opened(target, make_user, evidence) -> None:
    alice = make_user(enrolled=False)
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    asking = sasl2.BIND + sasl2.request_token()
    token = sasl2.scram(stream, Scram(alice.name, alice.password), inline=asking, client_id="laptop").token
    alice.mfa("confirm_enrolment", alice.code())
    with pytest.raises(StreamEnded) as ended:
        stream.expect("message")
    stream, _ = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
    with stream, pytest.raises(AuthenticationFailed) as refused:
        sasl2.fast(stream, alice.name, token, "laptop")
    evidence(f"at the enrolment: the open session -> {ended.value}; its FAST token -> {refused.value.condition}")


@pytest.mark.control("MFA-04")
def test_fast_needs_no_code_and_ends_when_the_client_says_so(target, alice) -> None:
    device = alice.add_device()
    stream, features = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
    assert features.find(".//fast:fast", sasl2.NS) is not None
    with stream:
        asking = sasl2.BIND + sasl2.request_token("HT-SHA-256-EXPR")
        token = sasl2.scram(stream, Scram(alice.name, device["password"]), inline=asking, client_id="phone").token

    def reconnect(**options) -> sasl2.Success:
        stream, _ = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
        with stream:
            binding = stream.channel.exporter()
            return sasl2.fast(
                stream, alice.name, token, "phone", mechanism="HT-SHA-256-EXPR", binding=binding, **options
            )

    for _ in range(2):
        assert "/" in reconnect().jid
    alice.prosody.restart()
    reconnect()
    reconnect(invalidate=True)
    with pytest.raises(AuthenticationFailed):
        reconnect()


@pytest.mark.control("MFA-04")
def test_a_token_ends_with_its_device_alone(target, make_user, evidence) -> None:
    alice = make_user()
    tokens = {}
    for name in ("lost", "kept"):
        device = alice.add_device(name)
        stream, _ = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
        with stream:
            asking = sasl2.BIND + sasl2.request_token()
            exchange = Scram(alice.name, device["password"])
            tokens[name] = device["id"], sasl2.scram(stream, exchange, inline=asking, client_id=name).token
    alice.mfa("revoke_device", tokens["lost"][0])

    def reconnect(name: str) -> sasl2.Success:
        stream, _ = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
        with stream:
            return sasl2.fast(stream, alice.name, tokens[name][1], name)

    with pytest.raises(AuthenticationFailed) as refused:
        reconnect("lost")
    assert "/" in reconnect("kept").jid
    evidence(f"the revoked device's token -> {refused.value.condition}; the other's logs in")


@pytest.mark.control("MFA-05")
def test_a_reset_opens_the_account_page_alone(target, make_user, prosody, evidence) -> None:
    alice = make_user()
    device = alice.add_device()
    run_out_of_time(alice)
    cursor = prosody.cursor()
    client = log_in(target, alice, device["password"])
    alice.mfa("reset", "root on the console")
    with pytest.raises(StreamEnded):
        client.wait("message")
    for password in (device["password"], alice.password):
        with pytest.raises(AuthenticationFailed):
            log_in(target, alice, password)
    assert alice.mfa("verify_password", alice.password, ADDRESS) is True
    line = next(line for line in prosody.log_since(cursor) if "event=reset" in line)
    assert f"user={alice.jid}" in line and 'actor="root on the console"' in line
    evidence(line.strip())


@pytest.mark.control("MFA-01")
def test_a_password_reset_by_invitation_keeps_the_second_factor(target, make_user, prosody) -> None:
    """mod_register_ibr creates the account anew for it."""
    alice = make_user()
    device = alice.add_device()
    renewed = secrets.token_urlsafe(18)
    prosody.run(f"return usermanager.create_user('{alice.name}', '{renewed}', '{alice.domain}')")
    with pytest.raises(AuthenticationFailed):
        log_in(target, alice, renewed)
    log_in(target, alice, device["password"]).stream.close()
    assert alice.mfa("verify_password", renewed, ADDRESS) is True


@pytest.mark.control("MFA-16")
def test_a_password_change_leaves_the_devices_alone(target, make_user) -> None:
    alice = make_user()
    device = alice.add_device()
    assert alice.mfa("set_password", "an entirely new pass phrase") is True
    log_in(target, alice, device["password"]).stream.close()
    assert alice.mfa("verify_password", "an entirely new pass phrase", ADDRESS) is True
    with pytest.raises(AuthenticationFailed):
        log_in(target, alice, "an entirely new pass phrase")


@pytest.mark.control("MFA-07")
@pytest.mark.parametrize("password", ["short", "password1234", "PassWord1234", "my name is {}"])
def test_weak_passwords_are_not_taken(target, make_user, password, evidence) -> None:
    bob = make_user(enrolled=False)
    password = password.format(bob.name)
    with pytest.raises(Refused) as refused:
        bob.mfa("set_password", password)
    assert refused.value.condition == "policy"
    payload = (
        f"<query xmlns='jabber:iq:register'><username>{bob.name}</username><password>{password}</password></query>"
    )
    with log_in(target, bob) as client, pytest.raises(StanzaError) as in_band:
        client.iq("set", payload)
    assert in_band.value.condition == "not-acceptable"
    evidence(f"{refused.value.detail}; in-band -> {in_band.value.condition}")


@pytest.mark.control("MFA-16")
def test_devices_have_names_and_a_limit(make_user) -> None:
    alice = make_user()
    phone = alice.add_device("phone")
    for name, condition in (
        ("phone", "conflict"),
        ("", "bad-request"),
        ("a\nb", "bad-request"),
        ("x" * 65, "bad-request"),
    ):
        with pytest.raises(Refused, match=condition):
            alice.mfa("add_device", name)
    assert alice.mfa("rename_device", phone["id"], "old phone") is True
    alice.prosody.add_devices(alice, 19)
    with pytest.raises(Refused, match="resource-constraint"):
        alice.mfa("add_device", "one too many")
    assert [device["name"] for device in alice.mfa("devices")].count("old phone") == 1
    with pytest.raises(Refused, match="item-not-found"):
        alice.mfa("revoke_device", "nothing")


@pytest.mark.control("AUTH-04")
def test_guesses_on_the_page_and_in_clients_count_together(target, make_user, prosody, evidence) -> None:
    alice = make_user(enrolled=False)
    limit = target.variables["prosody_login_account_attempts"]
    with log_in(target, alice):
        (own_address,) = prosody.run(
            f"for _, session in pairs(prosody.hosts['{alice.domain}'].sessions['{alice.name}'].sessions) do"
            " return session.ip end"
        )
    for _ in range(limit):
        with pytest.raises(Refused, match="not-authorized"):
            alice.mfa("verify_password", "wrong", own_address)
    with pytest.raises(Refused, match="throttled"):
        alice.mfa("verify_password", alice.password, own_address)
    with pytest.raises(AuthenticationFailed) as refused:
        log_in(target, alice)
    prosody.forget_failed_logins()
    log_in(target, alice).stream.close()
    evidence(f"{limit} wrong passwords on the page, then a client with the right one -> {refused.value.condition}")


@pytest.mark.control("MFA-17")
def test_a_client_with_a_stale_password_blocks_no_device(target, make_user) -> None:
    """Those that have not heard of the enrolment go on trying."""
    alice = make_user()
    lost, kept = alice.add_device(), alice.add_device()
    alice.mfa("revoke_device", lost["id"])
    for password in (alice.password, lost["password"]):
        for _ in range(target.variables["prosody_login_account_attempts"] + 1):
            with pytest.raises(AuthenticationFailed, match="not-authorized"):
                log_in(target, alice, password)
    log_in(target, alice, kept["password"]).stream.close()
