"""Wrong passwords, over each way to log in that a server offers, and what they show of an account."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from verification.targets import Target

from . import xmpp
from .xmpp import AuthenticationFailed, Scram, Stream

SASL2 = "urn:xmpp:sasl:2"
DIGESTS = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}


@dataclass(frozen=True)
class Way:
    """One of the two negotiations in which a client logs in: SASL (RFC 6120) or SASL2 (XEP-0388)."""

    name: str
    mechanism: str

    def exchange(self, username: str, password: str) -> Scram:
        """A SCRAM exchange for this way."""
        return Scram(username, password, DIGESTS[self.mechanism])

    def begin(self, stream: Stream, first: str) -> str:
        """Send the client-first message of SCRAM and return the challenge. Raises AuthenticationFailed, StreamEnded."""
        if self.name == "SASL":
            return decoded(xmpp.sasl(stream, self.mechanism, first))
        initial = f"<initial-response>{encoded(first)}</initial-response>"
        stream.send(f"<authenticate xmlns='{SASL2}' mechanism='{self.mechanism}'>{initial}</authenticate>")
        return decoded(self._answer(stream))

    def finish(self, stream: Stream, final: str) -> None:
        """Send the proof. Raises AuthenticationFailed, StreamEnded."""
        if self.name == "SASL":
            xmpp.sasl_respond(stream, final)
            return
        stream.send(f"<response xmlns='{SASL2}'>{encoded(final)}</response>")
        self._answer(stream)

    @staticmethod
    def _answer(stream: Stream) -> ET.Element:
        answer = stream.expect("challenge", "success", "failure")
        if xmpp.local_name(answer) == "failure":
            raise AuthenticationFailed(xmpp.condition_of(answer), answer.findtext(f"{{{SASL2}}}text", ""))
        return answer


def encoded(message: str) -> str:
    """A SASL message as it is sent."""
    return base64.b64encode(message.encode()).decode()


def decoded(element: ET.Element) -> str:
    """The SASL message in an element."""
    return base64.b64decode(element.text or "").decode()


@dataclass(frozen=True)
class Look:
    """What a wrong password shows of an account: how it is refused and, where it was looked at, what SCRAM told."""

    condition: str
    text: str
    salt: str = ""
    iterations: str = ""


def ways_of(target: Target) -> list[Way]:
    """Each way to log in that the server offers, with the best mechanism that it has there; SASL first, if with any."""
    stream, features = target.stream(xmpp.C2S)
    stream.close()
    inline = [item.text or "" for item in features.iter(f"{{{SASL2}}}mechanism")]
    offered = {"SASL": xmpp.mechanisms(features), "SASL2": inline}
    best = {name: next((each for each in DIGESTS if each in names), "") for name, names in offered.items()}
    return [Way(name, mechanism) for name, mechanism in best.items() if mechanism]


def begin(way: Way, stream: Stream, username: str) -> Callable[[], Look]:
    """Begin to log in with a wrong password; the function returned sends the proof and tells what came back."""
    exchange = way.exchange(username, uuid.uuid4().hex)
    try:
        challenge = way.begin(stream, exchange.first())
    except AuthenticationFailed as failure:
        refused = Look(failure.condition, str(failure))
        return lambda: refused
    fields = dict(field.split("=", 1) for field in challenge.split(","))

    def finish() -> Look:
        try:
            way.finish(stream, exchange.final(challenge))
        except AuthenticationFailed as failure:
            return Look(failure.condition, str(failure), fields["s"], fields["i"])
        raise AssertionError(f"a random password opened the account {username}")

    return finish


def guess(way: Way, stream: Stream, username: str) -> Look:
    """Try a wrong password. Raises StreamEnded."""
    return begin(way, stream, username)()


def guess_apart(target, way: Way, username: str, domain: str = "") -> Look:
    """Try a wrong password on a stream of its own."""
    with target.stream(xmpp.C2S, domain)[0] as stream:
        return guess(way, stream, username)
