"""The master key, its rotation, and the way back to passwords."""

from __future__ import annotations

import pytest

from verification.probes import second_factor
from verification.probes.xmpp import AuthenticationFailed

pytestmark = pytest.mark.alone

KEPT = "/etc/portcullis/mfa/master.key"
COPY = "/etc/prosody/secrets/mfa.key"
PREVIOUS = "/etc/prosody/secrets/mfa-previous.key"
KEEPER = "/usr/local/lib/portcullis/mfa-key"


@pytest.mark.control("MFA-13")
def test_a_rotated_key_asks_nobody_to_enrol_again(host, member, evidence) -> None:
    alice = member()
    password = alice.enrol_with_device()
    old = host.file(KEPT).content_string
    host.check_output(f"{KEEPER} rotate")
    new = host.file(KEPT).content_string
    assert new != old
    assert host.file(COPY).content_string == new
    assert not host.file(PREVIOUS).exists
    with alice.log_in(password) as client:
        second_factor.add_device(client, alice.password, "laptop", alice.factor.code(1))
    evidence("a new key, the old one destroyed: the device logs in, and the app's codes are good")


@pytest.mark.control("MFA-13")
def test_an_interrupted_rotation_is_finished(host, member, evidence) -> None:
    alice = member()
    password = alice.enrol_with_device()
    interrupted = "systemctl() { kill $$; }; . "  # where it would restart Prosody: both keys are in place by then
    assert host.run(f"sh -c '{interrupted}{KEEPER}' sh rotate").rc != 0
    new = host.file(KEPT).content_string
    assert host.file(PREVIOUS).exists
    host.check_output(f"{KEEPER} rotate")
    assert host.file(KEPT).content_string == new, "it rotated once more, and what the first key sealed is lost"
    assert not host.file(PREVIOUS).exists
    with alice.log_in(password) as client:
        second_factor.add_device(client, alice.password, "laptop", alice.factor.code(1))
    evidence("a rotation that was killed: the next run finishes it, and nobody enrols again")


@pytest.mark.control("MFA-13")
def test_a_rotation_that_made_no_key_makes_one(host, evidence) -> None:
    old = host.file(KEPT).content_string
    interrupted = "head() { kill $$; }; . "  # where it would make the key: the old one is kept as the previous
    assert host.run(f"sh -c '{interrupted}{KEEPER}' sh rotate").rc != 0
    assert host.file(PREVIOUS).content_string == old
    host.check_output(f"{KEEPER} rotate")
    assert host.file(KEPT).content_string != old, "the old key is in force"
    assert not host.file(PREVIOUS).exists
    evidence("a rotation that was killed before it had made a key: the next run makes one")


@pytest.mark.control("MFA-14")
def test_switching_off_asks_first(host, member, play, evidence) -> None:
    alice = member()
    password = alice.enrol_with_device()
    before = host.file("/etc/prosody/conf.d/mfa.cfg.lua").content_string
    outcome = play("site", mfa_policy="off", mfa_host_policies={})
    assert outcome.returncode == 2, outcome.stdout
    assert alice.jid in outcome.stdout
    assert "mfa_password_only_hosts" in outcome.stdout
    assert host.file("/etc/prosody/conf.d/mfa.cfg.lua").content_string == before
    with pytest.raises(AuthenticationFailed):
        alice.log_in()
    alice.log_in(password).stream.close()
    evidence(
        "mfa_policy: off with enrolled accounts -> refused, with their names; the password alone still opens nothing"
    )
