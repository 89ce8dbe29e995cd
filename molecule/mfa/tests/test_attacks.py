"""Attacks on the second factor that have worked somewhere: each must fail here."""

from __future__ import annotations

import base64
import json
import time

import pytest

from verification.probes import sasl2, xmpp
from verification.probes.prosody_console import Refused, calling
from verification.probes.second_factor import wait_for_step
from verification.probes.xmpp import AuthenticationFailed, Client, Scram, StanzaError, StreamEnded

pytestmark = pytest.mark.alone

ADDRESS = "198.51.100.7"
REGISTER = "jabber:iq:register"


def message(element) -> str:
    """The SASL message in a challenge."""
    return base64.b64decode(element.text or "").decode()


@pytest.mark.control("MFA-01")
@pytest.mark.parametrize("way", ["SASL", "SASL2"])
def test_one_exchange_gives_nothing_to_another(target, make_user, prosody, way, evidence) -> None:
    """Mallory begins as herself, begins again as Alice, and proves that she has a device: her own."""
    alice, mallory = make_user(), make_user()
    alice.add_device()
    device = mallory.add_device()
    begin, respond = (xmpp.sasl, xmpp.sasl_respond) if way == "SASL" else (sasl2.begin, sasl2.respond)
    own, stolen = Scram(mallory.name, device["password"]), Scram(alice.name, device["password"])
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    with stream:
        challenge = message(begin(stream, "SCRAM-SHA-256", own.first()))
        salt = challenge.split(",s=")[1].split(",")[0]
        refusals = []
        for _ in range(2):  # SASL2 refuses to begin while an exchange is open, and then is ready for another
            try:
                challenge = message(begin(stream, "SCRAM-SHA-256", stolen.first()))
                respond(stream, stolen.final(challenge, salt))
            except AuthenticationFailed as failure:
                refusals.append(failure.condition)
        assert len(refusals) == 2, "logged in as somebody else"
    evidence(f"{way}: another exchange on the stream, proven with the device of the first -> {refusals}")


@pytest.mark.control("MFA-01")
def test_a_device_speaks_for_its_own_account_alone(target, make_user) -> None:
    alice, mallory = make_user(), make_user()
    device = mallory.add_device()
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    exchange = Scram(mallory.name, device["password"])
    with stream:
        first = exchange.first().replace("n,,", f"n,a={alice.jid},", 1)
        final = exchange.final(message(xmpp.sasl(stream, "SCRAM-SHA-256", first)))
        header = base64.b64encode(f"n,a={alice.jid},".encode()).decode()
        with pytest.raises(AuthenticationFailed):  # the proof covers the header that asks for Alice
            xmpp.sasl_respond(stream, final.replace(final.split(",")[0], f"c={header}", 1))


@pytest.mark.control("MFA-04")
@pytest.mark.parametrize("way", ["SASL", "SASL2"])
@pytest.mark.parametrize("meanwhile", ["the device is revoked", "the account is disabled", "the account enrols"])
def test_an_exchange_from_before_opens_nothing_after(target, make_user, prosody, meanwhile, way, evidence) -> None:
    """Whoever is about to be shut out waits with the proof in hand."""
    alice = make_user(enrolled=meanwhile != "the account enrols")
    device = alice.add_device() if alice.recovery else {"id": "", "password": alice.password}
    begin, respond = (xmpp.sasl, xmpp.sasl_respond) if way == "SASL" else (sasl2.begin, sasl2.respond)
    exchange = Scram(alice.name, device["password"])
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    with stream:
        final = exchange.final(message(begin(stream, "SCRAM-SHA-256", exchange.first())))
        if meanwhile == "the device is revoked":
            alice.mfa("revoke_device", device["id"])
        elif meanwhile == "the account is disabled":
            prosody.run(f"return usermanager.disable_user('{alice.name}', '{alice.domain}')")
        else:
            alice.mfa("confirm_enrolment", alice.code())
        with pytest.raises(AuthenticationFailed) as refused:
            respond(stream, final)
    evidence(f"{way}: {meanwhile} between the challenge and the proof -> {refused.value.condition}")


@pytest.mark.control("MFA-02")
def test_a_password_change_sent_before_login_is_forgotten(target, alice, evidence) -> None:
    """Stanzas sent along with the proof must not wait for a session that may do more."""
    device = alice.add_device()
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    exchange = Scram(alice.name, device["password"])
    change = (
        f"<iq type='set' id='early'><query xmlns='{REGISTER}'><username>{alice.name}</username>"
        "<password>mallory was here first</password></query></iq>"
    )
    with stream:
        final = exchange.final(message(xmpp.sasl(stream, "SCRAM-SHA-256", exchange.first())))
        encoded = base64.b64encode(final.encode()).decode()
        stream.send(change + f"<response xmlns='{xmpp.NS['sasl']}'>{encoded}</response>")
        try:
            stream.expect("success")
            stream.open()
            client = Client(stream, alice.jid)
            client.bind()
            alice.prosody.grant_sudo(alice)
            client.iq("get", "<query xmlns='jabber:iq:roster'/>")
        except StreamEnded:
            pass
    assert alice.mfa("verify_password", alice.password, ADDRESS) is True
    evidence("a password change sent before the login, then a fresh code in the session: the password is the old one")


@pytest.mark.control("MFA-02")
@pytest.mark.parametrize(
    "request_",
    ["<username>{}</username><password>a new pass phrase</password>", "<remove/>"],
    ids=["password", "deletion"],
)
def test_a_device_changes_the_account_with_a_fresh_code_alone(target, make_user, request_, evidence) -> None:
    alice = make_user()
    device = alice.add_device()
    payload = f"<query xmlns='{REGISTER}'>{request_.format(alice.name)}</query>"
    with Client.login(*target.at(xmpp.C2S), alice.jid, device["password"]) as client:
        for to in ("", alice.domain):
            with pytest.raises(StanzaError) as refused:
                client.iq("set", payload, to=to)
            assert refused.value.condition == "forbidden"
        alice.prosody.grant_sudo(alice)
        client.iq("set", payload)
    evidence(f"without a code -> {refused.value.condition}, with one -> done")


@pytest.mark.control("MFA-04")
@pytest.mark.parametrize("way", ["inline", "classic"])
def test_a_stream_is_resumed_by_its_own_device_alone(target, alice, way, evidence) -> None:
    own, other = alice.add_device(), alice.add_device()

    def asleep() -> str:
        stream, _ = target.stream(xmpp.C2S, alice.domain)
        success = sasl2.scram(stream, Scram(alice.name, own["password"]), inline=sasl2.BIND_RESUMABLE)
        stream.channel.close()
        return success.resumption

    def resumed(password: str, identifier: str) -> bool:
        stream, features = target.stream(xmpp.C2S, alice.domain)
        with stream:
            if way == "inline":
                return sasl2.scram(stream, Scram(alice.name, password), inline=sasl2.resume(identifier)).resumed
            xmpp.authenticate(stream, features, alice.name, password)
            stream.open()
            stream.send(sasl2.resume(identifier))
            return xmpp.local_name(stream.expect("resumed", "failed")) == "resumed"

    identifier = asleep()
    assert not resumed(other["password"], identifier)
    assert resumed(own["password"], identifier)
    evidence(f"{way}: another device of the account does not resume the stream, its own does")


@pytest.mark.control("MFA-01")
@pytest.mark.parametrize("way", ["inline", "classic"])
def test_a_session_from_before_the_second_factor_is_not_resumed(target, make_user, way, evidence) -> None:
    """Whoever knew the password kept a session; the owner enrols; the session must be out of reach."""
    alice = make_user(enrolled=False)
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    before = sasl2.scram(stream, Scram(alice.name, alice.password), inline=sasl2.BIND_RESUMABLE).resumption
    stream.channel.close()
    alice.mfa("confirm_enrolment", alice.code())
    device = alice.add_device()
    stream, features = target.stream(xmpp.C2S, alice.domain)
    with stream:
        with pytest.raises(AuthenticationFailed):
            inline = sasl2.resume(before)
            sasl2.scram(stream, Scram(alice.name, alice.password), inline=inline)
        if way == "inline":
            assert not sasl2.scram(stream, Scram(alice.name, device["password"]), inline=sasl2.resume(before)).resumed
        else:
            xmpp.authenticate(stream, features, alice.name, device["password"])
            stream.open()
            stream.send(sasl2.resume(before))
            assert xmpp.local_name(stream.expect("resumed", "failed")) == "failed"
    evidence(f"{way}: neither the password nor a device resumes a session from before the enrolment")


@pytest.mark.control("MFA-03")
def test_a_stale_code_tried_again_and_again_locks_nobody_out(make_user, evidence) -> None:
    alice = make_user()
    stale = alice.code(-20)
    for _ in range(12):
        with pytest.raises(Refused, match="not-authorized"):
            alice.mfa("verify_code", stale, ADDRESS)
    assert alice.mfa("verify_code", alice.code(1), ADDRESS) == "totp"
    evidence("12 retries of one stale code, then the right one -> taken")


@pytest.mark.control("MFA-03")
def test_distinct_wrong_codes_lock_the_factor_longer_each_time(make_user, evidence) -> None:
    alice = make_user()
    lengths = []
    for round_ in range(2):
        for guess in range(5):
            with pytest.raises(Refused, match="not-authorized"):
                alice.mfa("verify_code", f"00{round_}{guess}zz", ADDRESS)
        with pytest.raises(Refused) as refused:
            alice.mfa("verify_code", alice.code(1), ADDRESS)
        assert refused.value.condition == "locked"
        lengths.append(round((refused.value.detail - time.time()) / 60))
        assert alice.mfa("status")["locked_until"] == refused.value.detail
        alice.prosody.change_record(alice, "record.locked_until = os.time() - 1")
    assert alice.mfa("verify_code", alice.code(1), ADDRESS) == "totp"
    evidence(
        f"5 distinct wrong codes -> locked for {lengths[0]} minutes, then {lengths[1]}, and the right one is refused"
    )
    assert lengths == [15, 30]


@pytest.mark.control("MFA-03")
def test_a_code_is_good_within_one_step_and_once(make_user, evidence) -> None:
    wait_for_step()
    alice = make_user()
    for steps in (-3, 3):  # 90 seconds
        with pytest.raises(Refused, match="not-authorized"):
            alice.mfa("verify_code", alice.code(steps), ADDRESS)
    for steps in (0, -1):  # taken at the enrolment, and older
        with pytest.raises(Refused, match="not-authorized"):
            alice.mfa("verify_code", alice.code(steps), ADDRESS)
    code = alice.code(1)
    assert alice.mfa("verify_code", code, ADDRESS) == "totp"
    with pytest.raises(Refused, match="not-authorized"):
        alice.mfa("verify_code", code, ADDRESS)
    alice.prosody.restart()
    with pytest.raises(Refused, match="not-authorized"):
        alice.mfa("verify_code", code, ADDRESS)
    evidence("codes of 90 s ago and ahead, one taken before, and the same after a restart -> not-authorized")


@pytest.mark.control("MFA-03")
def test_a_recovery_code_is_good_once(make_user) -> None:
    alice = make_user()
    code = alice.recovery[3].upper().replace("-", " ")
    assert alice.mfa("verify_code", code, ADDRESS) == "recovery"
    assert alice.mfa("status")["recovery_left"] == 7
    with pytest.raises(Refused, match="not-authorized"):
        alice.mfa("verify_code", code, ADDRESS)
    old = alice.recovery[4]
    assert len(set(alice.mfa("new_recovery_codes"))) == 8
    with pytest.raises(Refused, match="not-authorized"):
        alice.mfa("verify_code", old, ADDRESS)


@pytest.mark.control("MFA-03")
def test_twelve_at_once_get_one_code_through_once(make_user, prosody, evidence) -> None:
    alice = make_user()
    attempt = calling(alice.domain, "verify_code", alice.name, alice.code(1), ADDRESS)
    outcomes = prosody.run_at_once(attempt, 12)
    taken = [outcome for outcome in outcomes if outcome[0] == "totp"]
    evidence(f"one code, {len(outcomes)} times at once -> taken {len(taken)} time")
    assert len(outcomes) == 12
    assert len(taken) == 1, outcomes


@pytest.mark.control("MFA-03")
def test_a_wrong_password_uses_up_no_code(make_user) -> None:
    alice = make_user()
    with pytest.raises(Refused, match="not-authorized"):
        alice.mfa("verify_password", "wrong", ADDRESS)
    assert alice.mfa("verify_code", alice.code(1), ADDRESS) == "totp"


GUESS = """
local base64 = require 'prosody.util.encodings'.base64
local proof = base64.encode(('x'):rep(32))
local function guess(name)
  local handler = usermanager.get_sasl_handler('{domain}', {{}})
  handler:select('SCRAM-SHA-256')
  local _, challenge = handler:process('n,,n=' .. name .. ',r=abc')
  return handler:process('c=biws,r=' .. challenge:match('r=([^,]+)') .. ',p=' .. proof)
end
local names, spent = {{ {names} }}, {{}}
for turn = 1, 101 do
  for _, name in ipairs(names) do
    local started = os.clock()
    guess(name)
    spent[name] = spent[name] or {{}}
    spent[name][turn] = os.clock() - started
  end
end
for name, times in pairs(spent) do
  table.sort(times)
  spent[name] = times[51]
end
return spent
"""


@pytest.fixture(scope="module")
def kinds(make_user, prosody, target) -> dict[str, str]:
    """The names of accounts of every kind: the owner of none may be told from outside."""
    users = {
        kind: make_user(enrolled=kind != "not enrolled") for kind in ("without devices", "not enrolled", "disabled")
    }
    users["with 20 devices"] = make_user()
    prosody.add_devices(users["with 20 devices"], 20)
    prosody.run(f"return usermanager.disable_user('{users['disabled'].name}', '{target.domain}')")
    return {kind: user.name for kind, user in users.items()} | {"unknown": "nobody-of-that-name"}


@pytest.mark.control("AUTH-05")
def test_accounts_of_every_kind_answer_alike(target, kinds, prosody, evidence) -> None:
    prosody.forget_failed_logins()
    answers, salts = set(), set()
    for name in kinds.values():
        for _ in range(2):
            stream, _ = target.stream(xmpp.C2S)
            with stream:
                exchange = Scram(name, "wrong")
                challenge = message(xmpp.sasl(stream, "SCRAM-SHA-256", exchange.first()))
                fields = dict(item.split("=", 1) for item in challenge.split(","))
                with pytest.raises(AuthenticationFailed) as failure:
                    xmpp.sasl_respond(stream, exchange.final(challenge))
            salts.add(fields["s"])
            answers.add((fields["i"], len(fields["s"]), str(failure.value)))
    evidence(f"{', '.join(kinds)}: each a salt of its own that stays, {answers}")
    assert len(answers) == 1
    assert len(salts) == len(kinds)


@pytest.mark.control("AUTH-05")
def test_accounts_of_every_kind_cost_the_server_the_same(target, kinds, prosody, evidence) -> None:
    """In processor time of a login, which other work on the machine does not blur."""
    names = ", ".join(f"'{name}'" for name in kinds.values())
    (spent,) = prosody.run(GUESS.format(domain=target.domain, names=names).replace("\n", " "))
    times = {kind: spent[name] * 1000 for kind, name in kinds.items()}
    evidence("a wrong guess takes " + ", ".join(f"{taken:.3f} ms ({kind})" for kind, taken in times.items()))
    assert max(times.values()) <= 1.2 * min(times.values()), times


@pytest.mark.control("MFA-06")
def test_no_secret_is_in_clear_on_disk_or_in_the_log(target, make_user, host, prosody, evidence) -> None:
    alice = make_user()
    cursor = prosody.cursor()
    device = alice.add_device()
    alice.mfa("verify_password", alice.password, ADDRESS)
    alice.mfa("verify_code", alice.recovery[0], ADDRESS)
    stream, _ = target.stream(xmpp.C2S, alice.domain)
    with stream:
        inline = sasl2.BIND + sasl2.request_token()
        exchange = Scram(alice.name, device["password"])
        token = sasl2.scram(stream, exchange, inline=inline, client_id="a phone").token
    assert token
    secrets_ = [alice.secret, device["password"], token, alice.password, *alice.recovery]
    secrets_ += [code.replace("-", "") for code in alice.recovery]
    secrets_ += [base64.b32decode(alice.secret).hex(), base64.b64encode(base64.b32decode(alice.secret)).decode()]
    patterns = " ".join(f"-e '{text}'" for text in secrets_)
    found = host.run_expect([0, 1], f"grep -rlaiF {patterns} /var/lib/prosody").stdout
    assert not found
    log = "\n".join(prosody.log_since(cursor)).lower()
    assert not [text for text in secrets_ if text.lower() in log]
    evidence(
        f"{len(secrets_)} secrets (password, app, recovery codes, device, FAST token): none in the data or the log"
    )
    assert json.dumps(device["id"]).strip('"').lower() in log
