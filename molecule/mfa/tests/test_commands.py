"""The second factor in a client, by ad-hoc commands, and in an operator's hands, by `prosodyctl shell`."""

from __future__ import annotations

import pytest

from verification.probes import second_factor
from verification.probes.second_factor import Command, Refused
from verification.probes.xmpp import AuthenticationFailed, StanzaError, StreamEnded


@pytest.mark.control("MFA-01")
@pytest.mark.control("MFA-02")
def test_a_client_enrols_and_adds_a_device(member, evidence) -> None:
    alice = member()
    with alice.enrol() as client:
        password = second_factor.add_device(client, alice.password, "phone")
    alice.log_in(password).stream.close()
    with pytest.raises(AuthenticationFailed):
        alice.log_in()
    evidence("set up in the client, 8 recovery codes; the device's password logs in, the account's does not")
    assert len(set(alice.factor.recovery)) == 8


@pytest.mark.control("MFA-02")
@pytest.mark.parametrize("name", ["add-device", "set-up", "revoke-device"])
def test_a_device_alone_changes_nothing(member, name, evidence) -> None:
    """A thief with an unlocked phone can use it, and nothing more."""
    alice = member()
    with alice.log_in(alice.enrol_with_device()) as thief:
        form = second_factor.command(thief, name)
        assert {"password", "code"} <= set(form.asked)
        with pytest.raises(Refused, match="password"):
            form.submit(password="guess", code=alice.factor.code(1), name="stolen", device="any")
        with pytest.raises(Refused, match="Something is missing: "):
            second_factor.command(thief, name).submit(password=alice.password, name="stolen", device="any")
        with pytest.raises(Refused, match="code is wrong"):
            proof = {"password": alice.password, "code": "000000"}
            second_factor.command(thief, name).submit(**proof, name="stolen", device="any")
    evidence(f"{name} from a session of a device: the password and a code are asked for, one alone is refused")


@pytest.mark.control("MFA-03")
def test_a_code_is_good_once(member, evidence) -> None:
    alice = member()
    password = alice.enrol_with_device()
    code = alice.factor.code(1)
    with alice.log_in(password) as client:
        second_factor.add_device(client, alice.password, "laptop", code)
    with alice.log_in(password) as client, pytest.raises(Refused, match="was used before"):
        second_factor.add_device(client, alice.password, "thief", code)
    evidence("the code that added a device adds no second one from another session")


@pytest.mark.control("MFA-03")
def test_a_recovery_code_is_good_once(member, evidence) -> None:
    alice = member()
    password = alice.enrol_with_device()
    code = alice.factor.recovery[0]
    with alice.log_in(password) as client:
        second_factor.add_device(client, alice.password, "laptop", code)
    with alice.log_in(password) as client, pytest.raises(Refused, match="was used before"):
        second_factor.add_device(client, alice.password, "thief", code)
    evidence("a recovery code adds a device, and no second one")


@pytest.mark.control("MFA-04")
def test_a_device_is_revoked_alone(member, evidence) -> None:
    alice = member()
    with alice.enrol() as client:
        phone, laptop = (second_factor.add_device(client, alice.password, name) for name in ("phone", "laptop"))
        lost, kept = alice.log_in(phone), alice.log_in(laptop)
        revoking = second_factor.command(client, "revoke-device")
        revoking.submit(password=alice.password, device=revoking.choices["phone"])
    with pytest.raises(StreamEnded):
        lost.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=alice.jid)
        lost.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=alice.jid)
    with pytest.raises(AuthenticationFailed):
        alice.log_in(phone)
    with kept:
        kept.iq("get", "<query xmlns='jabber:iq:roster'/>")
    alice.log_in(laptop).stream.close()
    evidence("the phone is revoked: logged out, and its password refused; the laptop stays, and comes back")


@pytest.mark.control("MFA-02")
@pytest.mark.parametrize("who", ["another account", "another session of the account"])
def test_a_command_belongs_to_who_began_it(member, who, evidence) -> None:
    """mod_adhoc finds a command by its id alone, so that anybody who learns the id could go on with it."""
    alice = member()
    with alice.log_in() as client, (alice if "session" in who else member()).log_in() as other:
        setting_up = second_factor.command(client, "set-up").submit(password=alice.password)
        stolen = Command(other, setting_up.node, setting_up.session)
        with pytest.raises(StanzaError) as refusal:
            stolen.submit(code=second_factor.one_time_code(setting_up.fields["secret"]))
    evidence(f"a set-up that has begun, from {who} -> {refusal.value.condition}")
    assert refusal.value.condition == "forbidden"


@pytest.mark.control("MFA-12")
def test_an_operator_resets_a_lost_factor(member, shell, journal, evidence) -> None:
    alice = member()
    password = alice.enrol_with_device()
    online = alice.log_in(password)
    shell(f"reset {alice.jid} --actor=olga")
    with pytest.raises(StreamEnded):
        online.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=alice.jid)
        online.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=alice.jid)
    with pytest.raises(AuthenticationFailed):
        alice.log_in(password)
    alice.enrol().stream.close()
    lines = [line for line in journal() if "event=reset" in line]
    evidence(lines[0].partition("mfa ")[2])
    assert f"user={alice.jid}" in lines[0]
    assert "actor=olga" in lines[0]


@pytest.mark.control("MFA-12")
def test_an_operator_sees_who_has_none(member, shell, evidence) -> None:
    enrolled, missing = member(), member()
    enrolled.enrol().stream.close()
    assert enrolled.jid in shell(f"enrolled {enrolled.target.domain}")
    without = shell(f"missing {missing.target.domain}")
    assert missing.jid in without
    assert enrolled.jid not in without
    assert "enrolled: yes" in shell(f"status {enrolled.jid}")
    evidence("enrolled and missing accounts are told apart")
