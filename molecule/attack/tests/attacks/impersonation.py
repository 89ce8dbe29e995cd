"""Others' names and rights"""

from __future__ import annotations

import contextlib
import uuid
from functools import partial

from verification.probes import xmpp
from verification.probes.xmpp import StanzaError, StreamEnded

from .catalogue import GIVES_IN, WITHSTANDS, attack, judge, refusal
from .stage import Victim

PUBSUB = "http://jabber.org/protocol/pubsub"
COMMANDS = "http://jabber.org/protocol/commands"


@attack("Send a message as somebody else", stock=WITHSTANDS)
def forged_sender(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob:
        forged = f"carol@{victim.domain}/phone"
        try:
            bob.send(f"<message from='{forged}' to='{alice.jid}' id='forged'><body>trust me</body></message>")
            bob.send(f"<message to='{alice.jid}' id='honest'><body>hello</body></message>")
            sender = alice.wait("message", id="honest", timeout=3).get("from")
        except (StreamEnded, TimeoutError):
            with contextlib.suppress(StreamEnded):
                bob.stream.receive(timeout=1)
            return judge(not from_(alice, forged), "the stream is closed")
        return judge(not from_(alice, forged), f"told as {str(sender).partition('/')[0]}")


def from_(account: xmpp.Client, sender: str) -> bool:
    """Whether the account got anything from that sender."""
    return sender in {message.get("from") for message in account.kept("message")}


@attack("Enter somebody into another's contact list", stock=WITHSTANDS)
def forged_roster_push(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob:
        item = "<query xmlns='jabber:iq:roster'><item jid='mallory@evil.example' subscription='both'/></query>"
        said = refusal(lambda: bob.iq("set", item, to=alice.bare), "taken")
        roster = alice.iq("get", "<query xmlns='jabber:iq:roster'/>")
        return judge("evil.example" not in "".join(str(each.attrib) for each in roster.iter()), said)


@attack("Make a carbon copy of a conversation that never was", stock=WITHSTANDS)
def forged_carbon(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob:
        alice.iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
        inner = (
            f"<message xmlns='jabber:client' from='carol@{victim.domain}' to='{alice.bare}'><body>x</body></message>"
        )
        carbon = (
            f"<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></received>"
        )
        bob.send(f"<message to='{alice.jid}' id='carbon'>{carbon}</message>")
        told = alice.wait("message", id="carbon").get("from")
        return judge(told == bob.jid, f"told as from {str(told).partition('@')[0]}, which clients take for no carbon")


@attack("Read another's archive", stock=WITHSTANDS)
def others_archive(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        return refusal(
            lambda: bob.iq("set", "<query xmlns='urn:xmpp:mam:2'/>", to=f"alice@{victim.domain}"), "handed out"
        )


@attack("Read another's private bookmarks", stock=WITHSTANDS)
def others_bookmarks(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        items = f"<pubsub xmlns='{PUBSUB}'><items node='urn:xmpp:bookmarks:1'/></pubsub>"
        return refusal(lambda: bob.iq("get", items, to=f"alice@{victim.domain}"), "handed out")


@attack("Publish in another's name", stock=WITHSTANDS)
def others_nodes(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        node = "eu.siacs.conversations.axolotl.devicelist"
        publish = f"<pubsub xmlns='{PUBSUB}'><publish node='{node}'><item><list xmlns='x'/></item></publish></pubsub>"
        return refusal(lambda: bob.iq("set", publish, to=f"alice@{victim.domain}"), "published")


@attack("Carry out an administrator's commands", "REG-02", stock=WITHSTANDS)
def admin_commands(victim: Victim) -> str:
    answers = []
    nodes = ["add-user", "delete-user", "get-user-password", "shutdown", "announce"]
    with victim.log_in("bob") as bob:
        for node in nodes:
            command = f"<command xmlns='{COMMANDS}' node='http://jabber.org/protocol/admin#{node}' action='execute'/>"
            answers.append(refusal(partial(bob.iq, "set", command, victim.domain), f"{node} is carried out"))
    return ", ".join(dict.fromkeys(answers))


@attack("Invite strangers to accounts", "REG-02", stock=WITHSTANDS)
def invitations(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        command = f"<command xmlns='{COMMANDS}' node='urn:xmpp:invite#create-account' action='execute'/>"
        return refusal(lambda: bob.iq("set", command, to=victim.domain), "invited")


@attack("Take over another's interrupted session", "AUTH-02", stock=WITHSTANDS)
def foreign_resumption(victim: Victim) -> str:
    sm = "urn:xmpp:sm:3"
    with victim.log_in("alice", victim.office) as alice:
        alice.send(f"<enable xmlns='{sm}' resume='true'/>")
        token = alice.stream.expect("enabled").get("id")
        with xmpp_unbound(victim, "bob") as bob:
            bob.send(f"<resume xmlns='{sm}' h='0' previd='{token}'/>")
            answer = bob.stream.expect("resumed", "failed")
            return judge(xmpp.local_name(answer) == "failed", xmpp.condition_of(answer) or xmpp.local_name(answer))


def xmpp_unbound(victim: Victim, name: str) -> xmpp.Client:
    """An account that has logged in and bound no resource."""
    jid = f"{name}@{victim.domain}"
    return xmpp.Client.login(*victim.target.at(xmpp.C2S), jid, victim.passwords[name], bind=False)


@attack("Learn the operating system and the uptime", "PRIV-02", stock=GIVES_IN)
def fingerprint(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        version = bob.iq("get", "<query xmlns='jabber:iq:version'/>", to=victim.domain)
        system = version.findtext(".//{jabber:iq:version}os", "")
        try:
            bob.iq("get", "<query xmlns='jabber:iq:last'/>", to=victim.domain)
            told = ["uptime"]
        except StanzaError:
            told = []
        told += [system] if system else []
        return judge(not told, ", ".join(told) or "told neither")


@attack("See whether somebody is there, without leave", "PRIV-02", stock=WITHSTANDS)
def presence_probe(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.log_in("bob") as bob:
        alice.send("<presence/>")
        bob.send(f"<presence type='probe' to='{alice.bare}' id='{uuid.uuid4()}'/>")
        try:
            answer = bob.wait("presence", timeout=2, from_=alice.jid)
        except TimeoutError:
            return "not told"
        return judge(bool(answer.get("type")), answer.get("type") or "told")
