"""The running server from inside: its own functions, called through its administration socket by tests.

What a user does through the account page or a client can be set up here at once, and what no user can do, such as
damage, as well.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .second_factor import STEP, one_time_code

MARKER = "Result: "  # what the console writes before a value


class Refused(Exception):
    """The server's no; `condition` is its name, `detail` what came with it."""

    def __init__(self, condition: str, detail: Any = None) -> None:
        super().__init__(f"{condition}: {detail}" if detail else condition)
        self.condition = condition
        self.detail = detail


class Prosody:
    """The running server, through its administration socket.

    Args:
        host: the machine it runs on (testinfra).
    """

    def __init__(self, host: Any) -> None:
        self.host = host

    def run(self, lua: str) -> list[Any]:
        """Run Lua in the server; what the chunk returns. Raises RuntimeError with the server's words."""
        output = self.host.run_expect([0, 1], "prosodyctl shell %s", f">{_returning_json(lua)}").stdout
        if MARKER not in output:
            raise RuntimeError(output)
        return _results(output)

    def run_at_once(self, lua: str, count: int) -> list[list[Any]]:
        """Run Lua in the server from so many connections at once; what each returns."""
        outputs = self.host.check_output(
            f"for n in $(seq {count}); do prosodyctl shell %s & done; wait", f">{_returning_json(lua)}"
        )
        return [_results(line) for line in outputs.splitlines() if MARKER in line]

    def mfa(self, domain: str, function: str, *arguments: Any) -> Any:
        """Call a function of mod_mfa; its first result. Raises Refused when that is nil."""
        results = self.run(calling(domain, function, *arguments))
        if results and results[0] is None:
            raise Refused(*results[1:])
        return results[0] if results else None

    def add_devices(self, user: User, count: int) -> list[dict[str, str]]:
        """Add so many devices to an account at once."""
        (devices,) = self.run(
            f"local devices = {{}} for number = 1, {count} do devices[number] = prosody.hosts[{_lua(user.domain)}]"
            f".modules.mfa.add_device({_lua(user.name)}, 'device number ' .. number) end return devices"
        )
        return devices

    def remove(self, users: Sequence[User]) -> None:
        """Delete accounts."""
        calls = " ".join(f"usermanager.delete_user({_lua(user.name)}, {_lua(user.domain)})" for user in users)
        self.run(calls)

    def grant_sudo(self, user: User) -> None:
        """Give the sessions of an account what a fresh code gives them."""
        self.run(
            f"local host = prosody.hosts[{_lua(user.domain)}]"
            f" for _, session in pairs(host.sessions[{_lua(user.name)}].sessions) do"
            " host.modules.mfa.grant_sudo(session) end"
        )

    def change_record(self, user: User, change: str) -> None:
        """Run Lua on the record of an account's second factor, `record`, in the store, and have it read again."""
        self.run(
            f"local host = prosody.hosts[{_lua(user.domain)}]"
            " local store = require'prosody.core.storagemanager'.open(host.host, 'mfa', 'keyval')"
            f" local record = store:get({_lua(user.name)}) {change} assert(store:set({_lua(user.name)}, record))"
            " require'prosody.core.modulemanager'.reload(host.host, 'mfa')"
        )

    def change_account(self, user: User, change: str) -> None:
        """Run Lua on the record of an account, `account`, in the store."""
        self.run(
            f"local store = require'prosody.core.storagemanager'.open({_lua(user.domain)}, 'accounts', 'keyval')"
            f" local account = store:get({_lua(user.name)}) {change} assert(store:set({_lua(user.name)}, account))"
        )

    def forget_failed_logins(self) -> None:
        """Let nobody be throttled."""
        self.run(
            "for _, host in pairs(prosody.hosts) do local throttle = host.modules.login_throttle"
            " if throttle then throttle.module:shared('/*/login_throttle/state').failures:clear() end end"
        )

    def log_since(self, cursor: str) -> list[str]:
        """The server's log lines after a cursor."""
        return self.host.check_output(
            "journalctl --sync; journalctl --no-pager --quiet --output=cat --unit=prosody --after-cursor=%s", cursor
        ).splitlines()

    def cursor(self) -> str:
        """Where the log ends now."""
        return self.host.check_output("journalctl --lines=0 --show-cursor --quiet").partition("cursor: ")[2]

    def restart(self) -> None:
        """Restart it and wait until it answers."""
        self.host.check_output("systemctl reset-failed prosody; systemctl restart prosody")  # systemd counts restarts
        self.wait()

    def wait(self, seconds: float = 20.0) -> None:
        """Wait until its administration socket answers. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while self.host.run("prosodyctl shell %s", ">return 1").rc:
            if time.monotonic() > deadline:
                raise TimeoutError("Prosody does not answer")


@dataclass
class User:
    """An account of the second factor, and what its owner knows.

    Attributes:
        secret: of the authenticator app, in base32; of an account that is not enrolled, the pending one.
        recovery: the recovery codes not yet used.
    """

    prosody: Prosody
    name: str
    domain: str
    password: str
    secret: str = ""
    recovery: list[str] = field(default_factory=list)

    @classmethod
    def create(cls, prosody: Prosody, domain: str, *, enrolled: bool = True, name: str = "") -> User:
        """Make an account with a random password and, by default, name; enrolled, it has an authenticator app."""
        user = cls(prosody, name or f"u{secrets.token_hex(5)}", domain, secrets.token_urlsafe(18))
        (user.secret,) = prosody.run(
            f"assert(usermanager.create_user_with_role({_lua(user.name)}, {_lua(user.password)}, {_lua(domain)},"
            " 'prosody:registered'))"
            f" return prosody.hosts[{_lua(domain)}].modules.mfa.begin_enrolment({_lua(user.name)}).secret"
        )
        if enrolled:
            user.recovery = user.mfa("confirm_enrolment", user.code())
        return user

    @property
    def jid(self) -> str:
        return f"{self.name}@{self.domain}"

    def mfa(self, function: str, *arguments: Any) -> Any:
        """Call a function of mod_mfa for this account. Raises Refused."""
        return self.prosody.mfa(self.domain, function, self.name, *arguments)

    def code(self, steps: int = 0) -> str:
        """The code that the app shows, that many steps from now."""
        return one_time_code(self.secret, time.time() + steps * STEP)

    def add_device(self, name: str = "") -> dict[str, str]:
        """A device: its id, name and password."""
        return self.mfa("add_device", name or f"device {secrets.token_hex(3)}")


def calling(domain: str, function: str, *arguments: Any) -> str:
    """Lua that returns what a function of mod_mfa does."""
    return (
        f"return prosody.hosts[{_lua(domain)}].modules.mfa.{function}"
        f"(table.unpack(json.decode({_lua(json.dumps(arguments))})))"
    )


def _returning_json(lua: str) -> str:
    return (
        "return (function() local json = require'prosody.util.json'; local usermanager = "
        "require'prosody.core.usermanager'; local results = table.pack((function() " + lua + " end)()); "
        "for i = 1, results.n do if results[i] == nil then results[i] = json.null end end; "
        "results.n = nil; return json.encode({ results = results }) end)()"
    )


def _results(output: str) -> list[Any]:
    results = json.loads(output.partition(MARKER)[2])["results"]
    return results if isinstance(results, list) else []


def _lua(text: str) -> str:
    """A Lua string."""
    return (
        '"'
        + "".join(c if c.isalnum() and c.isascii() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in text)
        + '"'
    )
