"""The second way to log in: SASL2 (XEP-0388), with what it carries inline: Bind 2, stream management and FAST tokens.

XEP-0386 (Bind 2), XEP-0198 (stream management), XEP-0484 (FAST, mechanisms of draft-schmaus-kitten-sasl-ht).
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from .xmpp import AuthenticationFailed, Scram, Stream, condition_of, local_name

NS = {
    "sasl2": "urn:xmpp:sasl:2",
    "bind2": "urn:xmpp:bind:0",
    "fast": "urn:xmpp:fast:0",
    "sm": "urn:xmpp:sm:3",
}
BIND = f"<bind xmlns='{NS['bind2']}'><tag>probe</tag></bind>"
BIND_RESUMABLE = f"<bind xmlns='{NS['bind2']}'><tag>probe</tag><enable xmlns='{NS['sm']}' resume='1'/></bind>"


@dataclass
class Success:
    """What the server granted.

    Attributes:
        jid: the authorization identifier; with a resource when one was bound.
        data: the last message of the mechanism.
        token: a new FAST token, or "".
        resumption: the identifier by which the stream can be resumed, or "".
        resumed: whether an earlier stream was resumed.
        element: all of it.
    """

    element: ET.Element = field(repr=False)

    def _text(self, path: str) -> str:
        return self.element.findtext(path, "", NS)

    @property
    def jid(self) -> str:
        return self._text("sasl2:authorization-identifier")

    @property
    def data(self) -> bytes:
        return base64.b64decode(self._text("sasl2:additional-data"))

    @property
    def token(self) -> str:
        token = self.element.find("fast:token", NS)
        return "" if token is None else token.get("token", "")

    @property
    def resumption(self) -> str:
        enabled = self.element.find("bind2:bound/sm:enabled", NS)
        return "" if enabled is None else enabled.get("id", "")

    @property
    def resumed(self) -> bool:
        return self.element.find("sm:resumed", NS) is not None


def offered(features: ET.Element) -> list[str]:
    """The mechanisms in stream features."""
    return [item.text or "" for item in features.iterfind("sasl2:authentication/sasl2:mechanism", NS)]


def begin(stream: Stream, mechanism: str, first: str | bytes, inline: str = "", client_id: str = "") -> ET.Element:
    """Send <authenticate/> and return the <challenge/> or <success/>.

    Args:
        inline: XML of further requests, such as BIND.
        client_id: identifies the client's installation; FAST wants one.

    Raises AuthenticationFailed, StreamEnded.
    """
    data = first.encode() if isinstance(first, str) else first
    agent = f"<user-agent id={quoteattr(client_id)}/>" if client_id else ""
    stream.send(
        f"<authenticate xmlns='{NS['sasl2']}' mechanism='{mechanism}'>"
        f"<initial-response>{base64.b64encode(data).decode()}</initial-response>{agent}{inline}</authenticate>"
    )
    return _answer(stream)


def respond(stream: Stream, data: str) -> ET.Element:
    """Answer a challenge. Raises AuthenticationFailed, StreamEnded."""
    stream.send(f"<response xmlns='{NS['sasl2']}'>{base64.b64encode(data.encode()).decode()}</response>")
    return _answer(stream)


def scram(
    stream: Stream, exchange: Scram, *, mechanism: str = "SCRAM-SHA-256", inline: str = BIND, client_id: str = ""
) -> Success:
    """Log in with SCRAM. Raises AuthenticationFailed, StreamEnded, ValueError."""
    challenge = begin(stream, mechanism, exchange.first(), inline, client_id)
    success = Success(respond(stream, exchange.final(base64.b64decode(challenge.text or "").decode())))
    if not exchange.verify(success.data.decode()):
        raise ValueError("the server did not prove that it knows the password")
    return success


def request_token(mechanism: str = "HT-SHA-256-NONE") -> str:
    """The inline request for a FAST token."""
    return f"<request-token xmlns='{NS['fast']}' mechanism='{mechanism}'/>"


def resume(identifier: str, handled: int = 0) -> str:
    """The inline request to resume a stream."""
    return f"<resume xmlns='{NS['sm']}' previd={quoteattr(identifier)} h='{handled}'/>"


def fast(
    stream: Stream,
    username: str,
    token: str,
    client_id: str,
    *,
    inline: str = BIND,
    invalidate: bool = False,
    mechanism: str = "HT-SHA-256-NONE",
    binding: bytes = b"",
) -> Success:
    """Log in with a FAST token. Raises AuthenticationFailed, StreamEnded, ValueError."""
    first = username.encode() + b"\0" + hmac.digest(token.encode(), b"Initiator" + binding, "sha256")
    end = " invalidate='true'" if invalidate else ""
    success = Success(begin(stream, mechanism, first, f"<fast xmlns='{NS['fast']}'{end}/>{inline}", client_id))
    if not hmac.compare_digest(success.data, hmac.digest(token.encode(), b"Responder" + binding, "sha256")):
        raise ValueError("the server did not prove that it knows the token")
    return success


def _answer(stream: Stream) -> ET.Element:
    answer = stream.expect("challenge", "success", "failure")
    if local_name(answer) == "failure":
        raise AuthenticationFailed(condition_of(answer), answer.findtext("sasl2:text", "", NS))
    return answer
