"""What prosody_account asks of the server, and what it says it changed."""

from __future__ import annotations

import pytest

from plugins.modules.prosody_account import Account, Answer, Trouble, bring

JID = "alice@example.org"
WANTED = {
    "state": "present",
    "password": None,
    "suspended": None,
    "mfa_required": None,
    "mfa_reset": False,
    "actor": "olga",
}


DONE = Answer(True, "", "")


class Server:
    """As much of prosodyctl as the module calls, on one account, and all that it was told."""

    def __init__(
        self, exists: bool = False, required: bool = False, enrolled: bool = False, suspended: bool = False
    ) -> None:
        self.exists, self.required, self.enrolled, self.invited = exists, required, enrolled, False
        self.suspended = suspended
        self.entered = ""
        self.told: list[tuple[str, ...]] = []

    def __call__(self, *words: str, entered: str = "") -> Answer:
        self.told.append(words)
        self.entered += entered
        command = words[:3] if words[0] == "shell" else words[:1]
        return getattr(self, "_".join(command).replace("-", "_"))()

    def shell_user_role(self) -> Answer:
        return Answer(self.exists, "", "" if self.exists else "No such user")

    def shell_account_status(self) -> Answer:
        return Answer(True, f"suspended: {'yes' if self.suspended else 'no'}\nsessions: 0\nOK: It", "")

    def shell_account_suspend(self) -> Answer:
        self.suspended = True
        return DONE

    def shell_account_resume(self) -> Answer:
        self.suspended = False
        return DONE

    def adduser(self) -> Answer:
        self.exists = True
        return DONE

    def deluser(self) -> Answer:
        self.exists = False
        return DONE

    def shell_invite_list(self) -> Answer:
        row = "abc | 2026-11-29T22:28:16  | Register on example.org with username alice   "
        return Answer(True, row if self.invited else "", "")

    def shell_invite_create_account(self) -> Answer:
        self.invited = True
        return Answer(True, "OK: https://example.org/account/invitation/abc", "")

    def shell_mfa_status(self) -> Answer:
        required, enrolled = ("yes" if value else "no" for value in (self.required, self.enrolled))
        return Answer(True, f"enrolled: {enrolled}\nrequired of this account: {required}\nOK: It has", "")

    def shell_mfa_require(self) -> Answer:
        self.required = True
        return DONE

    def shell_mfa_waive(self) -> Answer:
        self.required = False
        return DONE

    def shell_mfa_reset(self) -> Answer:
        self.enrolled = False
        return DONE


def brought(server: Server, check_mode: bool = False, **wanted: object) -> dict:
    """Bring the account to what is wanted; warnings are in the result."""
    warnings: list[str] = []
    result = bring(Account(JID, server), {**WANTED, **wanted}, check_mode, warnings.append)
    return {**result, "warnings": warnings}


@pytest.mark.parametrize(
    ("server", "wanted"),
    [
        (Server(), {"password": "heron lamp quartz"}),
        (Server(), {"password": "heron lamp quartz", "mfa_required": True}),
        (Server(), {"state": "invited"}),
        (Server(exists=True), {"state": "absent"}),
        (Server(), {"password": "heron lamp quartz", "suspended": True}),
        (Server(exists=True), {"suspended": True}),
        (Server(exists=True, suspended=True), {"suspended": False}),
        (Server(exists=True), {"mfa_required": True}),
        (Server(exists=True, required=True), {"mfa_required": False}),
        (Server(exists=True, enrolled=True), {"mfa_reset": True}),
    ],
    ids=lambda value: "" if isinstance(value, Server) else ",".join(value),
)
def test_what_was_wanted_is_done_once(server: Server, wanted: dict) -> None:
    kept = vars(server) | {"told": [], "entered": ""}
    foretold = brought(server, check_mode=True, **wanted)
    assert foretold["changed"]
    assert vars(server) | {"told": [], "entered": ""} == kept, "check mode changed something"
    done = brought(server, **wanted)
    assert done["diff"] == foretold["diff"]
    assert not brought(server, **wanted)["changed"]


def test_a_password_goes_through_the_pipe_alone() -> None:
    server = Server()
    result = brought(server, password="heron lamp quartz")
    assert server.entered == "heron lamp quartz\n" * 2
    assert "heron" not in str([result, server.told])


def test_a_password_that_is_there_is_left_alone() -> None:
    server = Server(exists=True)
    assert not brought(server, password="heron lamp quartz")["changed"]
    assert not server.entered


def test_an_invitation_is_shown_once() -> None:
    server = Server()
    assert brought(server, state="invited")["invitation"].startswith("https://")
    assert "invitation" not in brought(server, state="invited")
    assert "once the account is there" in brought(server, state="invited", mfa_required=True)["warnings"][0]


def test_the_log_learns_who_did_it() -> None:
    server = Server(exists=True, enrolled=True)
    brought(server, mfa_reset=True)
    assert server.told[-1] == ("shell", "mfa", "reset", JID, "--actor=olga")


def test_a_suspended_account_stays_so_unless_it_is_said() -> None:
    server = Server(exists=True, suspended=True)
    assert not brought(server)["changed"]
    assert server.suspended


@pytest.mark.parametrize("jid", ["alice", "@example.org", "alice@", "alice@example.org/phone"])
def test_what_is_no_address_is_refused(jid: str) -> None:
    with pytest.raises(Trouble, match="an address such as"):
        Account(jid)


def test_an_account_without_a_password_is_refused() -> None:
    with pytest.raises(Trouble, match="password is missing"):
        brought(Server())


def test_the_words_of_the_server_reach_the_operator() -> None:
    def refuse(*_: str, entered: str = "") -> Answer:
        return Answer(False, "", "No such host: example.org")

    with pytest.raises(Trouble, match="No such host"):
        bring(Account(JID, refuse), WANTED, False, print)
