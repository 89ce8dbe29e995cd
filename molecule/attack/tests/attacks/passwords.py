"""Passwords and names"""

from __future__ import annotations

import contextlib
import random
import re
import statistics
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlencode

from verification.probes import http, sasl2, xmpp
from verification.probes.guessing import Look, Way, guess, guess_apart, ways_of
from verification.probes.web_streams import BoshStream, WebSocketStream
from verification.probes.xmpp import AuthenticationFailed, StanzaError, Stream, StreamEnded
from verification.targets import Target

from .catalogue import GIVES_IN, WITHSTANDS, NotOffered, Succeeded, attack, judge
from .stage import Victim

GUESSES = 10
GUESSED = "not-authorized"
Headers = Mapping[str, str] | None
LOOKED_AT = 6  # guesses that a server may judge by the password before it says no to all
SLOWEST_RATIO = 1.25


def judged(answers: list[str]) -> str:
    """What became of guesses, by the conditions of the answers."""
    words = ", ".join(f"{number} times {condition}" for condition, number in Counter(answers).items())
    return judge(answers.count(GUESSED) <= LOOKED_AT, f"{GUESSES} guesses: {words}")


def guesses(way: Way, connect: Callable[[], Stream], opened: bool = True) -> str:
    """Guess the password of one account, each time on a stream of its own."""
    username, answers = f"nobody-{uuid.uuid4().hex[:8]}", []
    for _ in range(GUESSES):
        try:
            with connect() as stream:
                if not opened:
                    stream.open()
                answers.append(guess(way, stream, username).condition)
        except StreamEnded as ended:
            answers.append(ended.condition)
    return judged(answers)


def way_of(target: Target, name: str) -> Way:
    """A way to log in. Raises NotOffered."""
    for way in ways_of(target):
        if way.name == name:
            return way
    raise NotOffered


@attack("Guess a password over SASL", "AUTH-04", stock=GIVES_IN)
def guesses_sasl(victim: Victim) -> str:
    return guesses(way_of(victim.target, "SASL"), lambda: victim.target.stream(xmpp.C2S)[0])


@attack("Guess a password over SASL2", "AUTH-04", stock=None)
def guesses_sasl2(victim: Victim) -> str:
    return guesses(way_of(victim.target, "SASL2"), lambda: victim.target.stream(xmpp.C2S)[0])


@attack("Guess a FAST token", "AUTH-04", stock=None)
def guesses_fast(victim: Victim) -> str:
    username, answers = "bob", []
    for _ in range(GUESSES):
        stream, features = victim.other.stream(xmpp.C2S, sender=f"{username}@{victim.domain}")
        with stream:
            if not list(features.iter(f"{{{sasl2.NS['fast']}}}mechanism")):
                raise NotOffered
            try:
                sasl2.fast(stream, username, uuid.uuid4().hex, str(uuid.uuid4()))
            except (AuthenticationFailed, StreamEnded) as failure:
                answers.append(failure.condition)
    return judged(answers)


@attack("Guess a password over BOSH", "AUTH-04", stock=GIVES_IN)
def guesses_bosh(victim: Victim, headers: Headers = None) -> str:
    place = (*victim.target.at(victim.web), victim.domain, victim.domain, victim.target.ca_file)
    return guesses(way_of(victim.target, "SASL"), partial(BoshStream, *place, headers), opened=False)


@attack("Guess a password over WebSocket", "AUTH-04", stock=GIVES_IN)
def guesses_websocket(victim: Victim, headers: Headers = None) -> str:
    place = (*victim.other.at(victim.web), victim.domain, victim.domain)
    return guesses(way_of(victim.other, "SASL"), partial(WebSocketStream, *place, headers), opened=False)


@attack("Guess a password on the account page", "AUTH-04", stock=None)
def guesses_page(victim: Victim, headers: Headers = None) -> str:
    name, answers = f"nobody-{uuid.uuid4().hex[:8]}", []

    def ask(method: str, cookie: str = "", body: bytes | None = None) -> http.Response:
        fields = {**(headers or {}), "Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        place = (*victim.other.at(victim.web), victim.domain, "/account/login")
        return http.request(*place, method=method, headers=fields, body=body, ca_file=victim.other.ca_file)

    for _ in range(GUESSES):
        page = ask("GET")
        token = re.search(rb'name="form_token" value="(\w+)"', page.body)
        if page.status == 404 or not token:
            raise NotOffered
        form = {"form_token": token[1].decode(), "username": name, "password": uuid.uuid4().hex}
        answer = ask("POST", page.headers["set-cookie"].partition(";")[0], urlencode(form).encode())
        said = re.search(rb'role="alert"[^>]*>\s*(?:<[^>]+>)*([^<]+)', answer.body)
        answers.append(f"{answer.status} {said[1].decode().strip() if said else ''}".strip())
    first = answers[0]
    words = ", ".join(f"{number} times {answer}" for answer, number in Counter(answers).items())
    return judge(answers.count(first) <= LOOKED_AT, f"{GUESSES} guesses: {words}")


@attack("Guess a password over SSH", "FLOOD-23", stock=GIVES_IN)
def guesses_ssh(victim: Victim) -> str:
    methods = ssh(victim)
    return judge("password" not in methods, f"sshd takes {methods}")


def ssh(victim: Victim) -> str:
    """What sshd takes from somebody who has nothing."""
    address, port = victim.target.at(22)
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "PubkeyAuthentication=no"]
    command = ["ssh", "-F", "none", "-p", str(port), *(word for option in options for word in ("-o", option))]
    said = subprocess.run([*command, f"root@{address}", "true"], capture_output=True, text=True, check=False).stderr
    denied = re.search(r"Permission denied \(([^)]*)\)", said)
    assert denied, said
    return denied[1]


@attack("Guess again and again on one stream", "AUTH-04", stock=GIVES_IN)
def guesses_on_one_stream(victim: Victim) -> str:
    way, username, answers = way_of(victim.other, "SASL"), f"nobody-{uuid.uuid4().hex[:8]}", []
    with victim.other.stream(xmpp.C2S)[0] as stream, contextlib.suppress(StreamEnded):
        for _ in range(GUESSES):
            answers.append(guess(way, stream, username).condition)
    return judged(answers)


@attack("Learn from the answer whether an account exists", "AUTH-05", stock=GIVES_IN)
def names_by_answer(victim: Victim) -> str:
    way = ways_of(victim.other)[0]
    nobody = f"nobody-{uuid.uuid4().hex[:8]}"
    known = look(victim.other, way, "carol")
    unknown, again = (look(victim.other, way, nobody) for _ in range(2))
    alike = (known.condition, known.iterations, known.text) == (unknown.condition, unknown.iterations, unknown.text)
    words = f"known: {described(known)}; unknown: {described(unknown)}"
    return judge(alike and unknown.salt == again.salt and len(known.salt) == len(unknown.salt), words)


def look(target: Target, way: Way, username: str) -> Look:
    """What a wrong password shows of an account."""
    return guess_apart(target, way, username)


def described(seen: Look) -> str:
    """The answer in words."""
    return f"{f'salt, {seen.iterations} iterations, ' if seen.salt else ''}{seen.condition}"


@attack("Learn from the time it takes whether an account exists", "AUTH-05", stock=None)
def names_by_time(victim: Victim) -> str:
    way, nobody = ways_of(victim.other)[0], f"nobody-{uuid.uuid4().hex[:8]}"
    for _ in range(3):  # a difference that is the server's is there every time; one of a busy machine is not
        known, unknown = answer_times(victim.other, way, ["carol", nobody])
        ratio = max(known, unknown) / min(known, unknown)
        if ratio <= SLOWEST_RATIO:
            return f"as long, within {(ratio - 1) * 100:.0f} %"
    raise Succeeded(f"{ratio:.1f} times as long for {'an unknown' if unknown > known else 'a known'} account")


def answer_times(target: Target, way: Way, usernames: list[str]) -> list[float]:
    """The median seconds until the first answer about each account."""
    times: dict[str, list[float]] = {username: [] for username in usernames}
    for _ in range(20):
        with target.stream(xmpp.C2S)[0] as stream:
            for username in random.sample(usernames * 2, k=4):
                first = way.exchange(username, "").first()
                started = time.perf_counter()
                with contextlib.suppress(AuthenticationFailed):
                    way.begin(stream, first)
                times[username].append(time.perf_counter() - started)
    return [statistics.median(times[username]) for username in usernames]


@attack("Open an account uninvited", "REG-01", stock=WITHSTANDS)
def registration(victim: Victim) -> str:
    with victim.target.stream(xmpp.C2S)[0] as stream:
        credentials = f"<username>mallory-{uuid.uuid4().hex[:8]}</username><password>correct horse battery</password>"
        stream.send(f"<iq type='set' id='r'><query xmlns='jabber:iq:register'>{credentials}</query></iq>")
        try:
            answer = stream.expect("iq")
        except StreamEnded as ended:
            return str(ended)
    return judge(answer.get("type") == "error", str(StanzaError(answer)) if answer.get("type") == "error" else "opened")


@attack("Give an account the password 123", "AUTH-07", stock=GIVES_IN)
def weak_password(victim: Victim) -> str:
    def change(carol: xmpp.Client, password: str) -> None:
        credentials = f"<username>carol</username><password>{password}</password>"
        carol.iq("set", f"<query xmlns='jabber:iq:register'>{credentials}</query>")

    with victim.log_in("carol") as carol:
        try:
            change(carol, "123")
        except StanzaError as refused:
            return str(refused)
        change(carol, victim.passwords["carol"])
    raise Succeeded("taken")
