"""playbooks/accounts.yml: the accounts of xmpp_accounts, from the list to the server."""

from __future__ import annotations

import secrets

import pytest

from verification.probes.xmpp import AuthenticationFailed, Client


@pytest.mark.control("MFA-12")
def test_accounts_come_and_go_by_a_list(host, target, play, journal, shell, evidence) -> None:
    domain, mark = target.domain, secrets.token_hex(3)
    carol, dave, erin = (f"{name}-{mark}@{domain}" for name in ("carol", "dave", "erin"))
    password = secrets.token_urlsafe(12)
    accounts = [
        {"jid": carol, "password": password, "mfa_required": True},
        {"jid": dave, "state": "invited"},
        {"jid": erin, "state": "absent"},
    ]
    checked = play("accounts", "--check", "--diff", xmpp_accounts=accounts)
    assert checked.returncode == 0, checked.stdout
    assert host.run("prosodyctl shell user role %s", carol).rc != 0, "check mode created an account"

    first = play("accounts", "--diff", xmpp_accounts=accounts)
    assert first.returncode == 0, first.stdout
    assert f"{dave}: https://{domain}/account/invitation/" in first.stdout
    assert "required of this account: yes" in shell(f"status {carol}")
    Client.login(*target.at(5222), carol, password).stream.close()

    second = play("accounts", xmpp_accounts=accounts)
    assert "changed=0" in second.stdout, second.stdout
    assert "/account/invitation/" not in second.stdout

    gone = play("accounts", xmpp_accounts=[{"jid": carol, "state": "absent"}])
    assert gone.returncode == 0, gone.stdout
    with pytest.raises(AuthenticationFailed):
        Client.login(*target.at(5222), carol, password)

    said = checked.stdout + first.stdout + "\n".join(journal())
    assert password not in said
    evidence("created with a duty to enrol, invited, deleted; again: nothing changed, no second invitation")


@pytest.mark.control("MFA-12")
def test_a_lost_factor_is_reset_by_the_list(member, play, journal, evidence) -> None:
    alice = member()
    password = alice.enrol_with_device()
    accounts = [{"jid": alice.jid, "mfa_reset": True}]
    assert "changed=1" in play("accounts", xmpp_accounts=accounts).stdout
    assert "changed=0" in play("accounts", xmpp_accounts=accounts).stdout
    with pytest.raises(AuthenticationFailed):
        alice.log_in(password)
    alice.log_in().stream.close()
    line = next(line for line in journal() if "event=reset" in line)
    evidence(line.partition("mfa ")[2])
    assert "actor=" in line
