"""Password guessing and account enumeration, tried over every way to log in that the server offers."""

from __future__ import annotations

import base64
import random
import re
import statistics
import time
import uuid
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import pytest

from verification.probes import xmpp
from verification.probes.xmpp import AuthenticationFailed, Scram, Stream, StreamEnded

SASL2 = "urn:xmpp:sasl:2"
MECHANISM = "SCRAM-SHA-256"
ATTEMPTS_PER_STREAM = 5
GUESSED, THROTTLED = "not-authorized", "temporary-auth-failure"


@dataclass(frozen=True)
class Way:
    """One of the two negotiations in which a client logs in: SASL (RFC 6120) or SASL2 (XEP-0388)."""

    name: str

    def begin(self, stream: Stream, first: str) -> str:
        """Send the client-first message of SCRAM and return the challenge. Raises AuthenticationFailed, StreamEnded."""
        if self.name == "SASL":
            return decoded(xmpp.sasl(stream, MECHANISM, first))
        initial = f"<initial-response>{encoded(first)}</initial-response>"
        stream.send(f"<authenticate xmlns='{SASL2}' mechanism='{MECHANISM}'>{initial}</authenticate>")
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


@pytest.fixture(params=["SASL", "SASL2"])
def way(request, target) -> Way:
    """Each way to log in that this server offers."""
    if request.param == "SASL2":
        stream, features = target.stream(xmpp.C2S)
        with stream:
            if features.find(f"{{{SASL2}}}authentication") is None:
                pytest.skip("nothing to show: SASL2 is not offered")
    return Way(request.param)


@pytest.fixture
def nobody(target) -> str:
    """The name of an account that does not exist, another one each time; skips where this address is throttled."""
    exchange = Scram(f"portcullis-{uuid.uuid4().hex[:12]}", "")
    stream, _ = target.stream(xmpp.C2S)
    with stream:
        try:
            Way("SASL").begin(stream, exchange.first())
        except AuthenticationFailed as failure:
            if failure.condition == THROTTLED:
                pytest.skip("not shown: too many failed logins from here a moment ago, try again in a few minutes")
    return exchange.username


def guess(way: Way, stream: Stream, username: str) -> tuple[str, str]:
    """Try a wrong password; the condition of the failure and its text."""
    exchange = Scram(username, uuid.uuid4().hex)
    try:
        way.finish(stream, exchange.final(way.begin(stream, exchange.first())))
    except AuthenticationFailed as failure:
        return failure.condition, str(failure)
    pytest.fail(f"a random password opened the account {username}")


@pytest.mark.control("AUTH-04")
def test_guesses_are_cut_off(target, way, nobody, evidence):
    limit = target.variables["prosody_login_account_attempts"]
    outcomes = []
    for _ in range(limit + 2):  # each on a connection of its own: reconnecting resets nothing
        stream, _ = target.stream(xmpp.C2S)
        with stream:
            outcomes.append(guess(way, stream, nobody)[0])
    evidence(f"{way.name}: {outcomes.count(GUESSED)} of {len(outcomes)} guesses were looked at, then {outcomes[-1]}")
    assert set(outcomes[limit:]) == {THROTTLED}
    assert outcomes.count(GUESSED) <= limit


@pytest.mark.control("AUTH-04")
def test_guesses_begun_together_are_cut_off(target, way, nobody, evidence):
    limit = target.variables["prosody_login_account_attempts"]
    begun = []
    for _ in range(limit + 2):
        exchange = Scram(nobody, "wrong")
        stream, _ = target.stream(xmpp.C2S)
        begun.append((stream, exchange.final(way.begin(stream, exchange.first()))))
    looked_at = 0
    for stream, final in begun:
        with stream, pytest.raises(AuthenticationFailed) as failure:
            way.finish(stream, final)
        looked_at += failure.value.condition == GUESSED
    evidence(f"{way.name}: {looked_at} of {limit + 2} guesses with their challenge in hand were looked at")
    assert looked_at <= limit


@pytest.mark.control("AUTH-04")
def test_a_stream_has_few_attempts(target, way, nobody, evidence):
    stream, _ = target.stream(xmpp.C2S)
    with stream:
        for _ in range(ATTEMPTS_PER_STREAM):
            guess(way, stream, nobody)
        with pytest.raises(StreamEnded) as ended:
            guess(way, stream, nobody)
    evidence(f"{way.name}: attempt {ATTEMPTS_PER_STREAM + 1} on one stream -> {ended.value}")
    assert ended.value.condition == "policy-violation"


@pytest.mark.control("AUTH-04")
def test_a_neighbour_is_not_locked_out(target, accounts, login, nobody, evidence):
    login().stream.close()
    for _ in range(target.variables["prosody_login_account_attempts"] + 1):
        stream, _ = target.stream(xmpp.C2S, accounts[0]["jid"].partition("@")[2])
        with stream:
            outcome, _ = guess(Way("SASL"), stream, nobody)
    assert outcome == THROTTLED
    evidence(f"{nobody} is throttled, {login().bare} logs in from the same address")


@pytest.mark.control("AUTH-05")
def test_unknown_accounts_look_like_known_ones(target, accounts, way, nobody, evidence):
    known, _, domain = accounts[0]["jid"].partition("@")

    def look(username: str) -> tuple[str, str, tuple[str, str]]:
        stream, _ = target.stream(xmpp.C2S, domain)
        with stream:
            exchange = Scram(username, "wrong")
            challenge = way.begin(stream, exchange.first())
            fields = dict(field.split("=", 1) for field in challenge.split(","))
            with pytest.raises(AuthenticationFailed) as failure:
                way.finish(stream, exchange.final(challenge))
            return fields["s"], fields["i"], (failure.value.condition, str(failure.value))

    (salt, iterations, failure), again = look(nobody), look(nobody)
    other_salt, known_iterations, known_failure = look(known)
    shape = re.sub(r"[0-9a-f]", "x", base64.b64decode(salt).decode())
    evidence(f"{way.name}: {nobody} -> salt {shape}, {iterations} iterations, {failure[0]}")
    assert salt == again[0], "the salt of an unknown account changes: known ones keep theirs"
    assert shape == re.sub(r"[0-9a-f]", "x", base64.b64decode(other_salt).decode())
    assert (iterations, failure) == (known_iterations, known_failure)


@pytest.mark.control("AUTH-05")
def test_unknown_accounts_take_as_long_as_known_ones(target, accounts, nobody, evidence):
    known, _, domain = accounts[0]["jid"].partition("@")
    times: dict[str, list[float]] = {known: [], nobody: []}
    for _ in range(20):
        stream, _ = target.stream(xmpp.C2S, domain)
        with stream:
            for username in random.sample([known, nobody] * 2, k=4):
                first = Scram(username, "").first()
                started = time.perf_counter()
                Way("SASL").begin(stream, first)
                times[username].append(time.perf_counter() - started)
    medians = {username: statistics.median(taken) * 1000 for username, taken in times.items()}
    evidence(f"challenge: {medians[known]:.2f} ms for a known account, {medians[nobody]:.2f} ms for an unknown one")
    assert abs(medians[known] - medians[nobody]) <= max(0.3, 0.25 * medians[known])


@pytest.mark.control("AUTH-06")
def test_failed_logins_are_logged_with_their_address(target, host, way, nobody, evidence):
    cursor = host.check_output("journalctl --lines=0 --show-cursor --quiet").partition("cursor: ")[2]
    stream, _ = target.stream(xmpp.C2S)
    with stream:
        guess(way, stream, nobody)
    lines = host.check_output(
        "journalctl --sync; journalctl --no-pager --quiet --output=cat --unit=prosody --after-cursor=%s", cursor
    ).splitlines()
    line = next((line for line in lines if nobody in line), "")
    evidence(f"{way.name}: {line}")
    jid = re.escape(f"{nobody}@{target.domain}")
    assert re.search(rf"\sfailed login as {jid} \([a-z-]+\) from IP: [0-9a-f.:]+$", line)
