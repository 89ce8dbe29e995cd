#!/usr/bin/python
"""Look after one account of the running Prosody; the documentation below is the reference."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: prosody_account
short_description: Create, invite, suspend or delete an account of Prosody, and look after its second factor
description:
  - Talks to the running server through C(prosodyctl). A password reaches it through a pipe; no command line, no log and
    no difference shows it.
options:
  jid:
    description: Address of the account, C(user@domain).
    type: str
    required: true
  state:
    description:
      - V(present) creates the account with O(password) where it is missing. A password that is there is left alone.
      - V(invited) makes an invitation where there is neither the account nor a pending invitation for it.
      - V(absent) deletes the account with all that is stored for it.
    type: str
    choices: [present, invited, absent]
    default: present
  password:
    description: First password of a new account.
    type: str
  suspended:
    description: >-
      Whether nobody may log in to the account, whose sessions then end; nothing of it is lost. Not given, as it is.
    type: bool
  mfa_required:
    description: Whether the account must have a second factor, whatever the policy of its host. Not given, as it is.
    type: bool
  mfa_reset:
    description: >-
      Whether to take the second factor and all devices off the account, whose owner has lost them. An account that has
      none is left alone.
    type: bool
    default: false
  actor:
    description: Who did it, for the log. By default the user who has called sudo.
    type: str
attributes:
  check_mode:
    support: full
  diff_mode:
    description: >-
      Shows whether the account, the duty and the factor are there, and whether it is suspended; never a password.
    support: full
author: The Portcullis authors
"""

EXAMPLES = r"""
- name: Invite Bob
  prosody_account:
    jid: bob@example.org
    state: invited
  register: invited

- name: Create Alice, who must have a second factor
  prosody_account:
    jid: alice@example.org
    password: "{{ vault_alice_password }}"
    mfa_required: true
"""

RETURN = r"""
invitation:
  description: The link of a new invitation. It is shown this once.
  returned: when an invitation was made
  type: str
"""


NO_FACTOR = {"mfa_required": False, "enrolled": False}


class Trouble(Exception):
    """Something that the operator has to mend."""


@dataclass
class Answer:
    """What a command said, and whether it succeeded."""

    succeeded: bool
    output: str
    problem: str


Run = Callable[..., Answer]


def run(*words: str, entered: str = "") -> Answer:
    """Run prosodyctl; `entered` goes to its standard input."""
    outcome = subprocess.run(
        ["prosodyctl", *words],
        input=entered,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "2000"},  # the width of the tables it prints
    )
    problem = (outcome.stderr.strip() or outcome.stdout.strip()).removeprefix("Error: ")
    return Answer(outcome.returncode == 0, outcome.stdout.strip(), problem)


class Account:
    """One account of a running server."""

    def __init__(self, jid: str, execute: Run = run) -> None:
        """Raises Trouble for what is no bare address."""
        self.username, at, self.domain = jid.lower().partition("@")
        if not self.username or not at or not self.domain or "/" in jid:
            raise Trouble(f"jid is {jid!r}: an address such as user@example.org is wanted")
        self.jid = f"{self.username}@{self.domain}"
        self._execute = execute

    def _do(self, *words: str, entered: str = "") -> str:
        answer = self._execute(*words, entered=entered)
        if not answer.succeeded:
            raise Trouble(f"{self.jid}: {answer.problem}")
        return answer.output

    def exists(self) -> bool:
        """Whether it is there."""
        answer = self._execute("shell", "user", "role", self.jid)
        if not answer.succeeded and "No such user" not in answer.problem:
            raise Trouble(f"{self.jid}: {answer.problem}")
        return answer.succeeded

    def is_suspended(self) -> bool:
        """Whether nobody may log in to it."""
        return "suspended: yes" in self._do("shell", "account", "status", self.jid).splitlines()

    def act(self, command: str, actor: str) -> None:
        """Give one of the commands `suspend` and `resume`."""
        self._do("shell", "account", command, self.jid, f"--actor={actor}")

    def create(self, password: str) -> None:
        """Create it."""
        self._do("adduser", self.jid, entered=f"{password}\n{password}\n")

    def delete(self) -> None:
        """Delete it."""
        self._do("deluser", self.jid)

    def is_invited(self) -> bool:
        """Whether an invitation for it is pending."""
        lines = self._do("shell", "invite", "list", self.domain).splitlines()
        return any(line.rstrip().endswith(f"Register on {self.domain} with username {self.username}") for line in lines)

    def invite(self) -> str:
        """Make an invitation and return its link."""
        return self._do("shell", "invite", "create_account", self.jid).removeprefix("OK: ")

    def factor(self) -> dict[str, bool]:
        """Whether it must have a second factor by itself, and whether it has one."""
        lines = self._do("shell", "mfa", "status", self.jid).splitlines()
        status = dict(line.split(": ", 1) for line in lines if ": " in line)
        return {
            "mfa_required": status["required of this account"] == "yes",
            "enrolled": status["enrolled"] == "yes",
        }

    def change_factor(self, command: str, actor: str) -> None:
        """Give one of the commands `require`, `waive` and `reset`."""
        self._do("shell", "mfa", command, self.jid, f"--actor={actor}")


def bring(account: Account, wanted: dict, check_mode: bool, warn: Callable[[str], None]) -> dict:
    """Bring the account to what is wanted, and return the result of the module. Raises Trouble."""
    exists = account.exists()
    before: dict = {"state": "present" if exists else "absent"}
    after, result = dict(before), {}

    if wanted["state"] == "absent":
        after["state"] = "absent"
        if exists and not check_mode:
            account.delete()
    elif wanted["state"] == "present" and not exists:
        if not wanted["password"]:
            raise Trouble(f"password is missing: {account.jid} is to be created; or give state: invited")
        after["state"] = "present"
        if not check_mode:
            account.create(wanted["password"])
    elif wanted["state"] == "invited" and not exists:
        before["state"] = "invited" if account.is_invited() else "absent"
        after["state"] = "invited"
        if before != after and not check_mode:
            result["invitation"] = account.invite()

    if wanted["suspended"] is not None and after["state"] == "present":
        _bring_suspension(account, wanted, check_mode, before, after)
    about_factor = wanted["mfa_required"] is not None or wanted["mfa_reset"]
    if about_factor and after["state"] == "present":
        _bring_factor(account, wanted, check_mode, before, after)
    elif about_factor and after["state"] == "invited" and wanted["mfa_required"]:
        warn(f"{account.jid} has only been invited: run this again once the account is there, to require the factor")
    return {**result, "changed": before != after, "diff": {"before": before, "after": after}}


def _bring_suspension(account: Account, wanted: dict, check_mode: bool, before: dict, after: dict) -> None:
    is_new = before["state"] != "present"
    suspended = False if is_new else account.is_suspended()
    if not is_new:
        before["suspended"] = suspended
    after["suspended"] = wanted["suspended"]
    if wanted["suspended"] != suspended and not check_mode:
        account.act("suspend" if wanted["suspended"] else "resume", wanted["actor"])


def _bring_factor(account: Account, wanted: dict, check_mode: bool, before: dict, after: dict) -> None:
    is_new = before["state"] != "present"
    factor = NO_FACTOR if is_new and check_mode else account.factor()
    before.update({} if is_new else factor)
    after.update(factor)
    required = wanted["mfa_required"]
    if required is not None and required != factor["mfa_required"]:
        after["mfa_required"] = required
        if not check_mode:
            account.change_factor("require" if required else "waive", wanted["actor"])
    if wanted["mfa_reset"] and factor["enrolled"]:
        after["enrolled"] = False
        if not check_mode:
            account.change_factor("reset", wanted["actor"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "jid": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "invited", "absent"], "default": "present"},
            "password": {"type": "str", "no_log": True},
            "suspended": {"type": "bool"},
            "mfa_required": {"type": "bool"},
            "mfa_reset": {"type": "bool", "default": False},
            "actor": {"type": "str", "default": os.environ.get("SUDO_USER", "root")},
        },
        supports_check_mode=True,
    )
    if "\n" in (module.params["password"] or ""):
        module.fail_json(msg="password holds a line break: one line is wanted")
    try:
        module.exit_json(**bring(Account(module.params["jid"]), module.params, module.check_mode, module.warn))
    except (OSError, Trouble) as trouble:
        module.fail_json(msg=str(trouble))


if __name__ == "__main__":
    main()
