"""Federation"""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from verification.probes import forgery, xmpp
from verification.probes.tls import Refused
from verification.probes.xmpp import Refusal, StanzaError, StreamEnded

from .catalogue import GIVES_IN, WITHSTANDS, Succeeded, attack, judge
from .stage import Origin, Victim

PEER = "peer.example"


def unbelieved(victim: Victim, name: str, pair: Path | None) -> str:
    """How a server is sent away, whatever it relies on. Raises Succeeded when it is believed."""
    refusals = []
    for rely in (certificate, dialback):
        try:
            stream, features = victim.peer(name, pair)
            with stream:
                if rely(stream, features, name):
                    raise Succeeded(f"believed by {rely.__name__}")
        except (Refusal, Refused) as refused:
            refusals.append(str(refused))
        except TimeoutError:
            refusals.append(f"{rely.__name__} not answered")
    return "; ".join(dict.fromkeys(refusals)) or "no way in is offered"


def certificate(stream: xmpp.Stream, features: ET.Element, name: str) -> bool:
    """Log in with SASL EXTERNAL (XEP-0178), where it is offered."""
    return "EXTERNAL" in xmpp.mechanisms(features) and xmpp.sasl(stream, "EXTERNAL", name) is not None


def dialback(stream: xmpp.Stream, _: ET.Element, name: str) -> bool:
    """Ask to be believed for what the DNS says (XEP-0220)."""
    stream.send(f"<db:result from='{name}' to='{stream.domain}'>0123456789abcdef</db:result>")
    return stream.receive(timeout=5).get("type") == "valid"


@attack("A server without a certificate", "S2S-01", stock=WITHSTANDS)
def server_without_certificate(victim: Victim) -> str:
    return unbelieved(victim, PEER, None)


@attack("A server whose certificate vouches for itself", "S2S-01", stock=WITHSTANDS)
def server_self_signed(victim: Victim) -> str:
    with tempfile.TemporaryDirectory() as directory:
        return unbelieved(victim, PEER, forgery.self_signed(Path(directory), PEER).certificate.with_suffix(""))


@attack("A server whose certificate is of an authority of its own", "S2S-01", stock=WITHSTANDS)
def server_untrusted(victim: Victim) -> str:
    with tempfile.TemporaryDirectory() as directory:
        return unbelieved(victim, PEER, forgery.forged(Path(directory), PEER).certificate.with_suffix(""))


@attack("A server with another's good certificate", "S2S-01", stock=WITHSTANDS)
def server_mismatched(victim: Victim) -> str:
    return unbelieved(victim, PEER, victim.certificates / victim.target.variables["peer_domain"])


@attack("A server that says it is this one", "S2S-01", stock=WITHSTANDS)
def server_mirrored(victim: Victim) -> str:
    return unbelieved(victim, victim.domain, victim.certificates / victim.target.variables["peer_domain"])


@attack("A trusted server that speaks for a domain that is not its own", "S2S-02", stock=WITHSTANDS)
def forged_domain(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.trusted_peer() as peer:
        for sender in (f"m@{peer.sender}", "boss@bank.example"):
            peer.send(f"<message from='{sender}' to='{alice.jid}' id='{sender}'><body>pay me</body></message>")
        try:
            peer.expect("nothing", timeout=5)
        except StreamEnded as ended:
            alice.wait("message", id=f"m@{peer.sender}")
            return judge(alice.silent("message", id="boss@bank.example"), str(ended))
        except TimeoutError:
            return judge(alice.silent("message", id="boss@bank.example"), "thrown away")
    raise AssertionError


@attack("Dialback in the names of 50 servers, to have this one call them all", "S2S-01", stock=WITHSTANDS)
def dialback_reflection(victim: Victim) -> str:
    began, run = time.time(), uuid.uuid4().hex[:6]
    with contextlib.suppress(Refusal, Refused), victim.peer(PEER, None)[0] as stream:
        for number in range(50):
            stream.send(f"<db:result from='{run}-{number}.example' to='{victim.domain}'>0123456789abcdef</db:result>")
        with contextlib.suppress(TimeoutError):
            stream.expect("nothing", timeout=3)
    called = sum(f"{run}-{number}.example" in victim.journal(began) for number in range(50))
    return judge(called <= 1, f"{called} are called")


@attack("5 000 messages at once from a trusted server", "FLOOD-06", stock=WITHSTANDS)
def server_flood(victim: Victim) -> str:
    with victim.log_in("alice", victim.office) as alice, victim.trusted_peer() as peer:
        message = f"<message from='m@{peer.sender}' to='nobody@{victim.domain}'><body>flood</body></message>"
        with contextlib.suppress(OSError):
            peer.send(message * 5_000)
        answered = 0
        for _ in range(20):
            alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=victim.domain)
            answered += 1
            time.sleep(0.1)
        return f"a user's {answered} requests are answered"


@attack("A stanza of a megabyte from a trusted server", "FLOOD-02", stock=WITHSTANDS, waits=True)
def server_oversized(victim: Victim) -> str:
    with victim.trusted_peer() as peer:
        peer.send(f"<message from='m@{peer.sender}' to='alice@{victim.domain}'><body>{'x' * 1024 * 1024}")
        try:
            peer.expect("nothing", timeout=60)
        except StreamEnded as ended:
            return str(ended)
        except TimeoutError:
            raise Succeeded("still listening after 60 s") from None
    raise AssertionError


@attack("A message between two others, to be passed on", "S2S-02", stock=WITHSTANDS)
def relay(victim: Victim) -> str:
    with victim.trusted_peer() as peer:
        peer.send(f"<message from='m@{peer.sender}' to='a@elsewhere.example' id='r'><body>x</body></message>")
        try:
            answer = peer.expect("message", timeout=3)
        except StreamEnded as ended:
            return str(ended)
        except TimeoutError:
            return "thrown away"
        return judge(answer.get("type") == "error", "sent back")


@attack("3 000 messages for a server that takes connections and says nothing", "FLOOD-22", stock=GIVES_IN)
def queue_for_nobody(victim: Victim) -> str:
    number, bound = 3_000, 2_000
    with silence(victim.attackers[1]) as address, victim.log_in("carol") as carol:
        carol.send("".join(f"<message to='nobody@{address}' id='{each}'/>" for each in range(number)))
        carol.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=victim.domain, timeout=60)
        kept = number - len(carol.kept("message"))
    return judge(0 < kept <= bound, f"{kept} wait in memory")


@attack("3 000 questions to as many servers", "FLOOD-07", stock=GIVES_IN)
def many_calls(victim: Victim) -> str:
    number, bound, run = 3_000, 300, uuid.uuid4().hex[:6]
    with victim.log_in("bob") as bob:
        question = "<ping xmlns='urn:xmpp:ping'/></iq>"
        bob.send("".join(f"<iq type='get' id='{n}' to='{run}-{n}.example'>{question}" for n in range(number)))
        bob.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=victim.domain, timeout=60)
        refused = [answer for answer in bob.kept("iq") if StanzaError(answer).condition == "resource-constraint"]
    called = number - len(refused)
    return judge(called <= bound, f"{called} are called")


@contextlib.contextmanager
def silence(origin: Origin) -> Iterator[str]:
    """A server there that takes connections and says nothing: its address, which is its domain as well."""
    unit = "portcullis-silence"
    code = f"import signal, socket; server = socket.create_server(('', {xmpp.S2S})); signal.pause()"
    origin.host.check_output(f"systemd-run --quiet --collect --unit={unit} python3 -c %s", code)
    try:
        yield origin.address
    finally:
        origin.host.run(f"systemctl stop {unit}")
