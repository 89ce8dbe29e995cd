"""The second factor as a client sees it: one-time codes, and the ad-hoc commands that set it up and add devices."""

from __future__ import annotations

import base64
import hmac
import struct
import time
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from .xmpp import Client, StanzaError

NS = {"commands": "http://jabber.org/protocol/commands", "data": "jabber:x:data"}
STEP = 30  # seconds


class Refused(Exception):
    """The server refused a command; the text is what it tells the user."""


def one_time_code(secret: str, at: float | None = None) -> str:
    """The six digits that an authenticator app shows (RFC 6238, HMAC-SHA-1).

    Args:
        secret: base32, without padding.
        at: seconds since 1970; now by default.
    """
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int((time.time() if at is None else at) // STEP)), "sha1")
    offset = digest[-1] & 15
    return f"{(struct.unpack_from('>I', digest, offset)[0] & 0x7FFFFFFF) % 10**6:06}"


def wait_for_step(seconds_left: float = 8.0) -> None:
    """Wait for the next step of the one-time codes if this one is about to end."""
    left = STEP - time.time() % STEP
    if left < seconds_left:
        time.sleep(left + 0.1)


@dataclass
class Factor:
    """What the owner of an enrolled account has.

    Attributes:
        secret: what the authenticator app keeps, base32.
        recovery: recovery codes that are left.
    """

    secret: str
    recovery: list[str] = field(default_factory=list)

    def code(self, steps: int = 0) -> str:
        """The code of so many steps from now. Each is good once."""
        return one_time_code(self.secret, time.time() + steps * STEP)


class Command:
    """An ad-hoc command (XEP-0050) in the hands of a client.

    Attributes:
        fields: the values in the form that came last, by name; several lines where a field has several values.
        asked: the names of its fields.
        choices: what can be chosen in it, the value by the words for it.
        note: what the server said beside it.
    """

    def __init__(self, client: Client, node: str, session: str = "") -> None:
        self.client = client
        self.node = node
        self.session = session
        self.fields: dict[str, str] = {}
        self.asked: list[str] = []
        self.choices: dict[str, str] = {}
        self.note = ""

    def begin(self) -> Command:
        """Ask for the first form. Raises Refused, StanzaError."""
        return self._send("")

    def submit(self, **values: str) -> Command:
        """Send the form back, filled in. Raises Refused, StanzaError."""
        entries = "".join(
            f"<field var={quoteattr(name)}><value>{escape(value)}</value></field>" for name, value in values.items()
        )
        return self._send(f"<x xmlns='{NS['data']}' type='submit'>{entries}</x>")

    def _send(self, form: str) -> Command:
        session = f" sessionid={quoteattr(self.session)}" if self.session else ""
        node = f"xmlns='{NS['commands']}' node={quoteattr(self.node)}"
        domain = self.client.bare.rpartition("@")[2]
        answer = self.client.iq("set", f"<command {node}{session} action='execute'>{form}</command>", to=domain)
        self._read(answer.find("commands:command", NS))
        return self

    def _read(self, command: ET.Element | None) -> None:
        assert command is not None
        self.session = command.get("sessionid", "")
        note = command.find("commands:note", NS)
        self.note = "" if note is None else note.text or ""
        if note is not None and note.get("type") == "error":
            raise Refused(self.note)
        fields = command.findall("data:x/data:field", NS)
        self.asked = [field.get("var", "") for field in fields]
        self.choices = {
            option.get("label", ""): option.findtext("data:value", "", NS)
            for option in command.iterfind("data:x/data:field/data:option", NS)
        }
        self.fields = {
            field.get("var", ""): "\n".join(value.text or "" for value in field.findall("data:value", NS))
            for field in fields
        }


def command(client: Client, name: str) -> Command:
    """Begin one of the commands of the second factor, such as add-device. Raises Refused, StanzaError."""
    return Command(client, f"portcullis:mfa#{name}").begin()


def set_up(client: Client, password: str) -> Factor:
    """Enrol the account of a client that its password has logged in. Raises Refused."""
    setting_up = command(client, "set-up").submit(password=password)
    factor = Factor(setting_up.fields["secret"])
    factor.recovery = setting_up.submit(code=factor.code()).fields["recovery_codes"].split("\n")
    return factor


def add_device(client: Client, password: str, name: str, code: str = "") -> str:
    """Add a device and return its password. `code` may be empty while a former one is fresh. Raises Refused."""
    adding = command(client, "add-device")
    proof = {"password": password, **({"code": code} if code else {})}
    return adding.submit(**proof, name=name).fields["password"]


__all__ = ["Command", "Factor", "Refused", "StanzaError", "add_device", "command", "one_time_code", "set_up"]
