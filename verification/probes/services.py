"""What clients do at a server's services: group chat (XEP-0045) and file upload (XEP-0363)."""

from __future__ import annotations

from dataclasses import dataclass

from . import xmpp
from .xmpp import StanzaError

MUC = "http://jabber.org/protocol/muc"
FORM = "<x xmlns='jabber:x:data' type='submit'>"


def join(member: xmpp.Client, room: str, nick: str) -> None:
    """Enter a room and wait until the room agrees."""
    member.send(f"<presence to='{room}/{nick}'><x xmlns='{MUC}'/></presence>")
    answer = member.wait("presence", from_=f"{room}/{nick}")
    if answer.get("type") == "error":
        raise StanzaError(answer)


def invite(owner: xmpp.Client, room: str, jid: str) -> None:
    """Make somebody a member."""
    item = f"<item affiliation='member' jid='{jid}'/>"
    owner.iq("set", f"<query xmlns='{MUC}#admin'>{item}</query>", to=room)


@dataclass
class Slot:
    """A place to upload to (XEP-0363): the addresses to PUT and GET, and the headers of the PUT."""

    put: str
    get: str
    headers: dict[str, str]


def slot(account: xmpp.Client, upload: str, name: str, size: int, kind: str = "text/plain") -> Slot:
    """Ask for a slot. Raises StanzaError."""
    request = f"<request xmlns='urn:xmpp:http:upload:0' filename='{name}' size='{size}' content-type='{kind}'/>"
    answer = account.iq("get", request, to=upload)
    put, get = (answer.find(f".//{{urn:xmpp:http:upload:0}}{verb}") for verb in ("put", "get"))
    assert put is not None, "the slot has no address to upload to"
    assert get is not None, "the slot has no address to download from"
    headers = {header.get("name", ""): header.text or "" for header in put}
    return Slot(put.get("url", ""), get.get("url", ""), {**headers, "Content-Type": kind})
