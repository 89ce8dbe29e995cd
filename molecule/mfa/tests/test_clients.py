"""Real clients, as Debian packages them: they know nothing of a second factor, and need not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import testinfra

from verification.probes import second_factor

LogIn = Callable[..., tuple[str, str]]


@pytest.fixture
def log_in(pytestconfig, target) -> LogIn:
    """A function that logs in with a client, and returns its verdict and all that it said (molecule/mfa/clients)."""
    inventory = pytestconfig.getoption("ansible_inventory")
    machine = testinfra.get_host(f"ansible://client?ansible_inventory={inventory}")

    def run(client: str, jid: str, password: str, *options: str) -> tuple[str, str]:
        words = " ".join(["with-" + client, target.address, jid, *options])
        said = machine.check_output(f"printf '%%s\\n' %s | timeout 60 {words}", password)
        return said.splitlines()[-1], said

    return run


@pytest.mark.control("MFA-01")
@pytest.mark.parametrize("client", ["slixmpp", "profanity", "go-sendxmpp"])
def test_a_real_client_logs_in_as_a_device(member, log_in, client, evidence) -> None:
    alice = member()
    assert log_in(client, alice.jid, alice.password)[0] == "logged in", "before there was a second factor"
    device = alice.enrol_with_device()
    outcomes = {
        word: log_in(client, alice.jid, secret)[0]
        for word, secret in (("device password", device), ("primary password", alice.password))
    }
    evidence(f"{client}: " + ", ".join(f"{word} -> {outcome}" for word, outcome in outcomes.items()))
    assert outcomes == {"device password": "logged in", "primary password": "refused"}


@pytest.mark.control("MFA-04")
def test_a_real_client_comes_back_by_its_token(member, log_in, evidence) -> None:
    alice = member()
    with alice.enrol() as client:
        phone, laptop = (second_factor.add_device(client, alice.password, name) for name in ("phone", "laptop"))
    _, first = log_in("go-sendxmpp", alice.jid, phone)
    outcome, second = log_in("go-sendxmpp", alice.jid, phone)
    assert "mechanism='SCRAM-SHA-256-PLUS'" in first
    assert "secret-token:" in first
    assert "mechanism='HT-SHA-256-EXPR'" in second
    assert outcome == "logged in"
    with alice.log_in(laptop) as client:
        alice.revoke(client, "phone")
    outcome, third = log_in("go-sendxmpp", alice.jid, phone)
    evidence("go-sendxmpp: SCRAM-SHA-256-PLUS, then by its FAST token alone; revoked: neither token nor password")
    assert "mechanism='HT-SHA-256-EXPR'" in third
    assert outcome == "refused"
