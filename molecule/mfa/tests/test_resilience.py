"""Damage, loss and restarts: nothing opens, nothing is lost, and one account's damage is nobody else's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from verification.probes import sasl2, xmpp
from verification.probes.prosody_console import Prosody, Refused, User
from verification.probes.second_factor import STEP, wait_for_step
from verification.probes.xmpp import AuthenticationFailed, Client, Scram

pytestmark = pytest.mark.alone

ADDRESS = "198.51.100.9"
KEY = "/etc/prosody/secrets/mfa.key"
DATA = "/var/lib/prosody"
SAVED = "/var/lib/prosody.saved"


def log_in(target, user: User, password: str) -> None:
    """Log in and out."""
    Client.login(*target.at(xmpp.C2S), user.jid, password).stream.close()


@contextmanager
def restored(prosody: Prosody, *places: str) -> Iterator[None]:
    """Put files back as they were, and restart, whatever happens."""
    for place in places:
        prosody.host.check_output("cp -a %s %s.kept", place, place)
    try:
        yield
    finally:
        prosody.host.check_output("systemctl stop prosody")
        for place in places:
            prosody.host.check_output("rm -rf %s && mv %s.kept %s", place, place, place)
        prosody.restart()


@pytest.mark.control("MFA-18")
def test_a_restart_and_a_reload_lose_nothing(target, alice, prosody) -> None:
    device = alice.add_device()
    before = alice.mfa("devices")
    for disturb in (
        prosody.restart,
        lambda: prosody.run(f"return require'prosody.core.modulemanager'.reload('{alice.domain}', 'mfa') ~= nil"),
        lambda: prosody.run(f"return require'prosody.core.modulemanager'.reload('{alice.domain}', 'auth_mfa') ~= nil"),
    ):
        disturb()
        assert alice.mfa("devices") == before
        with pytest.raises(AuthenticationFailed):
            log_in(target, alice, alice.password)
        log_in(target, alice, device["password"])
        before = alice.mfa("devices")


@pytest.mark.control("MFA-06")
def test_without_the_key_nobody_logs_in(target, alice, bob, prosody, evidence) -> None:
    device = alice.add_device()
    cursor = prosody.cursor()
    with restored(prosody, KEY):
        prosody.host.check_output("rm %s", KEY)
        prosody.restart()
        for user, password in ((alice, device["password"]), (alice, alice.password), (bob, bob.password)):
            with pytest.raises(AuthenticationFailed) as refused:
                log_in(target, user, password)
            assert refused.value.condition == "temporary-auth-failure"
        with pytest.raises(Refused, match="internal-server-error"):
            bob.mfa("verify_password", bob.password, ADDRESS)
        with pytest.raises(Refused, match="internal-server-error"):
            alice.mfa("verify_code", alice.code(1), ADDRESS)
    log_in(target, alice, device["password"])
    complaint = next(line for line in prosody.log_since(cursor) if "No master key" in line)
    assert "error" in complaint
    evidence(f"without the key: {refused.value.condition} for everybody; {complaint.strip()}")


@pytest.mark.control("MFA-06")
def test_another_key_opens_nothing_of_what_was_sealed(target, alice, bob, prosody, evidence) -> None:
    device = alice.add_device()
    with restored(prosody, KEY):
        prosody.host.check_output("head -c 32 /dev/urandom > %s", KEY)
        prosody.restart()
        for password in (device["password"], alice.password):
            with pytest.raises(AuthenticationFailed, match="not-authorized"):
                log_in(target, alice, password)
        with pytest.raises(Refused, match="internal-server-error"):
            alice.mfa("verify_code", alice.code(1), ADDRESS)
        log_in(target, bob, bob.password)
    log_in(target, alice, device["password"])
    evidence("another key in its place: an enrolled account is refused, and back with the right one")


@pytest.mark.control("MFA-06")
def test_the_key_is_rotated_without_a_new_enrolment(target, make_user, prosody, evidence) -> None:
    alice = make_user()
    device = alice.add_device()
    stream, _ = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
    with stream:
        asking = sasl2.BIND + sasl2.request_token()
        token = sasl2.scram(stream, Scram(alice.name, device["password"]), inline=asking, client_id="phone").token
    prosody.host.check_output("/usr/local/lib/portcullis/mfa-key rotate")
    prosody.wait()
    log_in(target, alice, device["password"])
    assert alice.mfa("verify_code", alice.recovery[0], ADDRESS) == "recovery"
    assert alice.mfa("verify_code", alice.code(1), ADDRESS) == "totp"
    stream, _ = target.stream(xmpp.C2S, alice.domain, sender=alice.jid)
    with stream:
        assert sasl2.fast(stream, alice.name, token, "phone").jid.startswith(alice.jid)
    evidence("a new master key: device, app, recovery code and FAST token go on; the old key is gone")


DAMAGES = {
    "no record": "record = nil",
    "no key of its own": "record.key = nil",
    "a sealed secret cut short": "record.secret = record.secret:sub(1, -5)",
    "the secret of another": "record.secret = record.key",
    "no app": "record.secret = nil",
    "devices that are none": "record.devices = { x = 'y' }",
    "a device key that is none": "for _, device in pairs(record.devices) do device.stored_key = 'x' end",
    "no steps": "record.steps = nil",
    "a text for a record": "record = { 'lost' }",
}


CALLS = """
local mfa, refusals = prosody.hosts['{domain}'].modules.mfa, {{}}
local calls = {{ verify_code = '{code}', status = false, add_device = 'new', new_recovery_codes = false }}
for name, argument in pairs(calls) do
  local result, condition = mfa[name]('{name}', argument)
  refusals[name] = result and 'done' or condition
end
return refusals
"""


@pytest.fixture(scope="module")
def others(alice, bob) -> list[tuple[User, str]]:
    """Those whose records are whole, each with a password."""
    return [(alice, alice.add_device()["password"]), (bob, bob.password)]


@pytest.mark.control("MFA-15")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_shuts_its_owner_out_alone(target, make_user, others, prosody, damage, evidence) -> None:
    victim = make_user()
    device = victim.add_device()
    log_in(target, victim, device["password"])
    victim.prosody.change_record(victim, DAMAGES[damage])
    for password in (device["password"], victim.password):
        with pytest.raises(AuthenticationFailed, match="not-authorized"):
            log_in(target, victim, password)
    calls = CALLS.format(domain=victim.domain, name=victim.name, code=victim.code(1))
    (refusals,) = prosody.run(calls.replace("\n", " "))
    assert refusals == dict.fromkeys(
        ("verify_code", "status", "add_device", "new_recovery_codes"), "internal-server-error"
    )
    for user, password in others:
        log_in(target, user, password)
    victim.mfa("reset", "the test")
    log_in(target, victim, victim.password)
    evidence(f"{damage}: refused; others log in; a reset mends it")


@pytest.mark.control("MFA-03")
def test_a_clock_that_jumps_opens_nothing_and_locks_nobody_out(make_user, prosody, evidence) -> None:
    wait_for_step()
    alice = make_user()
    ahead = int(time.time()) + 400 * 86400
    used = alice.code()  # taken at the enrolment
    # The clock was a year ahead for a while, codes were taken and the factor locked there, and it was set right again.
    prosody.change_record(
        alice,
        f"table.insert(record.steps, {ahead // STEP}) record.locks = 2 record.locked_until = {ahead}",
    )
    with pytest.raises(Refused, match="not-authorized"):
        alice.mfa("verify_code", used, ADDRESS)
    assert alice.mfa("verify_code", alice.code(1), ADDRESS) == "totp"
    evidence("after a year ahead and back: a code taken before is not taken again, the next one is")


@pytest.mark.control("MFA-06")
def test_data_restored_from_a_backup_open_nothing_new(target, make_user, prosody, evidence) -> None:
    alice, eve = make_user(), make_user(enrolled=False)
    device = alice.add_device()
    prosody.host.check_output("systemctl stop prosody && rm -rf %s && cp -a %s %s", SAVED, DATA, SAVED)
    prosody.restart()
    later = alice.add_device()
    eve.mfa("confirm_enrolment", eve.code())
    prosody.host.check_output(
        "systemctl stop prosody && rm -rf %s/* && cp -a %s/. %s && rm -rf %s", DATA, SAVED, DATA, SAVED
    )
    prosody.restart()
    log_in(target, alice, device["password"])
    for password in (alice.password, later["password"]):
        with pytest.raises(AuthenticationFailed):
            log_in(target, alice, password)
    assert alice.mfa("verify_code", alice.code(1), ADDRESS) == "totp"
    log_in(target, eve, eve.password)
    evidence("restored: the devices of then, no later ones, and no password alone for who was enrolled")


@pytest.mark.control("MFA-18")
def test_an_account_that_is_deleted_leaves_nothing_behind(target, make_user, prosody) -> None:
    alice = make_user()
    device = alice.add_device()
    prosody.remove([alice])
    again = User.create(prosody, alice.domain, enrolled=False, name=alice.name)
    assert again.mfa("status")["enrolled"] is False
    log_in(target, again, again.password)
    with pytest.raises(AuthenticationFailed):
        log_in(target, again, device["password"])
