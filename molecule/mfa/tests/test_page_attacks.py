"""What an attacker does to the account page: as a visitor without a browser, who sends whatever he likes."""

from __future__ import annotations

import http.client
import itertools
import random
import re
import secrets
import socket
import ssl
import statistics
import time
from collections.abc import Callable
from html import unescape
from urllib.parse import urlencode, urlsplit

import pytest
from browser import Authenticator

from verification.probes import http as web
from verification.probes import xmpp
from verification.probes.prosody_console import User

pytestmark = pytest.mark.alone

SITE = "mfa.example"
QUIET_SITE = "strict.example"  # where nobody else's sessions are lost
PASSWORD = "heron lamp quartz tide"

names = (f"wire{secrets.token_hex(4)}" for _ in itertools.count())


class Visitor:
    """Somebody who speaks HTTP by hand: keeps the cookie and the token of the last page, and follows nothing.

    Asks no more often than nginx lets one network.

    Attributes:
        cookie: name and value of the page's cookie.
        token: the form token of the last page.
    """

    def __init__(self, target, site: str = SITE) -> None:
        self.target = target
        self.site = site
        self.pause = 1 / target.variables["web_requests_per_second"]
        self.cookie = ""
        self.token = ""

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> web.Response:
        """One request."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            given["Cookie"] = self.cookie
        time.sleep(self.pause)
        response = web.request(
            *self.target.at(443),
            self.site,
            f"/account/{path}",
            method=method,
            headers=given,
            body=body,
            ca_file=self.target.ca_file,
        )
        self.cookie = response.headers.get("set-cookie", self.cookie).partition(";")[0]
        found = re.search(rb'name="form_token" value="(\w+)"', response.body)
        self.token = found[1].decode() if found else self.token
        return response

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> web.Response:
        """Send a form with the token of the last page, unless another is given."""
        body = urlencode({"form_token": self.token, **fields}).encode()
        return self.ask(path, "POST", body, Content_Type="application/x-www-form-urlencoded", **(headers or {}))

    def log_in(self, username: str, password: str = PASSWORD) -> web.Response:
        """Give user name and password."""
        self.ask("login")
        return self.post("login", username=username, password=password)

    def page(self, path: str = "") -> str:
        """The text of a page, or where it sends: "-> code"."""
        response = self.ask(path)
        where = response.headers.get("location", "").removeprefix("/account/")
        return f"-> {where}" if response.status == 303 else response.body.decode()


class Member(Visitor):
    """Somebody with an enrolled account, logged in."""

    def __init__(self, target, invitation: str) -> None:
        super().__init__(target, urlsplit(invitation).hostname or "")
        self.username = next(names)
        path = invitation.partition("/account/")[2]
        self.ask(path)
        self.post(path, username=self.username, password=PASSWORD, repetition=PASSWORD)
        page = self.page("enrol")
        self.app = Authenticator(unescape(re.search(r'href="(otpauth:[^"]+)"', page)[1]))
        self.post("enrol", code=self.app.code())
        self.recovery = re.findall(r"<li><code>([\w-]+)</code></li>", self.page("recovery-codes"))
        assert len(self.recovery) == 8

    def devices(self) -> list[str]:
        """The names of the devices."""
        return re.findall(r'<a href="/account/device/[^>]+>\s*<span class="name">([^<]*)', self.page())


@pytest.fixture
def invite(host) -> Callable[..., str]:
    """A function that makes an invitation to a site and returns its link."""

    def made(site: str = SITE) -> str:
        return re.search(r"https://\S+", host.check_output("prosodyctl shell invite create_account %s", site))[0]

    return made


@pytest.fixture
def member(target, invite) -> Member:
    """Somebody who has just enrolled."""
    return Member(target, invite())


@pytest.fixture
def stranger(target) -> Visitor:
    """Somebody without an account."""
    return Visitor(target)


@pytest.mark.control("MFA-08")
def test_a_password_alone_opens_nothing_but_the_prompt(member, stranger, evidence):
    assert stranger.log_in(member.username).headers["location"] == "/account/code"
    for path in ("", "enrol", "confirm", "recovery", "recovery-codes", "recovery-codes.txt", "devices/add", "password"):
        assert stranger.page(path) == "-> code", path
    before = member.devices()
    for path, fields in {
        "devices/add": {"name": "Mallory"},
        "password": {"password": "otter brick violin", "repetition": "otter brick violin"},
        "enrol": {"code": "000000"},
        "recovery": {},
        "devices/revoke": {},
    }.items():
        stranger.page("code")
        assert stranger.post(path, **fields).headers["location"] == "/account/code", path
    assert member.devices() == before
    evidence("after the password alone: 8 pages and 5 forms -> the prompt for a code")


@pytest.mark.control("MFA-08")
def test_the_code_counts_for_the_account_that_gave_its_password(target, invite, stranger):
    alice, mallory = Member(target, invite()), Member(target, invite())
    stranger.log_in(mallory.username)
    stranger.page("code")
    stranger.post("code", code=mallory.recovery.pop(), username=alice.username)
    assert f'<h1 class="address">{mallory.username}<' in stranger.page()
    # With her own step open she names another account, and gives her own code.
    stranger.log_in(mallory.username)
    stranger.log_in(alice.username, "a wrong password")
    stranger.page("code")
    stranger.post("code", code=mallory.recovery.pop())
    assert alice.username not in stranger.page()


@pytest.mark.control("MFA-08")
@pytest.mark.parametrize("last", ["alice", "mallory"])
def test_a_field_given_twice_means_one_account(target, invite, stranger, last):
    """Whichever of the two the page takes, it takes the same one for the password and for the code."""
    people = {"alice": Member(target, invite()), "mallory": Member(target, invite())}
    pair = sorted(people, key=lambda name: name == last)
    stranger.page("login")
    for path, fields in (
        ("login", [("username", people[name].username) for name in pair] + [("password", PASSWORD)]),
        ("code", [("username", people[name].username) for name in pair]),
    ):
        codes = [("code", people["mallory"].recovery[0]), ("code[]", "1"), ("1", "x")] * (path == "code")
        body = urlencode([("form_token", stranger.token), *fields, *codes]).encode()
        stranger.ask(path, "POST", body, Content_Type="application/x-www-form-urlencoded")
        stranger.page("code")
    assert people["alice"].username not in stranger.page()


@pytest.mark.control("MFA-09")
def test_a_session_ends_with_the_factor_that_opened_it(member, prosody):
    """A thief's window stays open while the operator resets the factor and the owner enrols again elsewhere."""
    thief = Visitor(member.target)
    thief.cookie = member.cookie
    owner = User(prosody, member.username, SITE, PASSWORD)
    owner.mfa("reset", "the test")
    owner.secret = owner.mfa("begin_enrolment")["secret"]
    owner.mfa("confirm_enrolment", owner.code())
    assert thief.page() == "-> login"


@pytest.mark.control("MFA-09")
def test_the_cookie_changes_with_every_step(member, stranger):
    fixed = Visitor(stranger.target)
    fixed.page("login")
    stranger.cookie, stranger.token = fixed.cookie, fixed.token  # as if Mallory had planted hers
    cookies = [stranger.cookie]
    stranger.post("login", username=member.username, password=PASSWORD)
    cookies.append(stranger.cookie)
    stranger.page("code")
    stranger.post("code", code=member.recovery.pop())
    cookies.append(stranger.cookie)
    stranger.page("confirm")
    stranger.post("confirm", code=member.recovery.pop())
    cookies.append(stranger.cookie)
    assert len(set(cookies)) == 4
    assert member.username in stranger.page()
    for cookie in cookies[:-1]:
        fixed.cookie = cookie
        assert fixed.page() == "-> login"


@pytest.mark.control("MFA-09")
def test_the_cookie_stays_in_the_browser_and_on_the_site(member, stranger, evidence):
    cookie = stranger.ask("login").headers["set-cookie"]
    name, _, attributes = cookie.partition("=")
    assert name.startswith("__Host-")
    assert set(attributes.split("; ")[1:]) == {"Path=/", "Secure", "HttpOnly", "SameSite=Strict"}
    evidence(f"{name}: {', '.join(attributes.split('; ')[1:])}")


@pytest.mark.control("MFA-09")
@pytest.mark.parametrize("attack", ["no token", "another's token", "another site", "no form", "a plain text"])
def test_a_form_from_elsewhere_changes_nothing(member, stranger, attack):
    stranger.page("login")
    member.page("devices/add")
    fields, headers = {"name": "Mallory"}, {}
    if attack == "no token":
        fields["form_token"] = ""
    elif attack == "another's token":
        fields["form_token"] = stranger.token
    elif attack == "another site":
        headers["Sec-Fetch-Site"] = "cross-site"
    if attack == "no form":
        response = member.ask("devices/add", "POST", b"x")
    elif attack == "a plain text":
        body = urlencode({"form_token": member.token, **fields}).encode()
        response = member.ask("devices/add", "POST", body, Content_Type="text/plain")
    else:
        response = member.post("devices/add", headers, **fields)
    assert response.status == 403
    assert member.devices() == []


@pytest.mark.control("MFA-09")
def test_after_the_logout_the_cookie_opens_nothing(member, stranger):
    stranger.cookie = member.cookie
    assert member.username in stranger.page()
    member.page()
    member.post("logout")
    assert stranger.page() == "-> login"
    assert member.page() == "-> login"


@pytest.mark.control("MFA-09")
def test_what_matters_takes_a_fresh_code(target, host, invite):
    """Where a code is fresh for no time at all, each of these asks for another."""
    member = Member(target, invite(QUIET_SITE))
    shell = "prosodyctl shell %s"
    host.check_output(shell, f"config:set('{QUIET_SITE}', 'mfa_sudo_time', 0)")
    try:
        host.check_output(shell, f"module:reload('mfa_page', '{QUIET_SITE}')")
        member.log_in(member.username)
        member.page("code")
        member.post("code", code=member.recovery.pop())
        assert member.username in member.page()
        for path in ("devices/add", "devices/revoke", "recovery", "password", "enrol"):
            assert member.page(path) == "-> confirm", path
            member.page("confirm")
            assert member.post(path, name="Mallory").headers["location"] == "/account/confirm", path
        assert member.devices() == []
    finally:
        host.check_output(shell, "config:reload()")
        host.check_output(shell, f"module:reload('mfa_page', '{QUIET_SITE}')")


@pytest.mark.control("MFA-10")
def test_no_answer_is_kept_shared_or_run(member, stranger, evidence):
    answers = [
        member.ask(""),
        member.ask("style.css"),
        member.ask("icon.svg"),
        member.ask("no/such/page"),
        member.ask("login", Origin="https://attacker.example"),
        stranger.ask(""),
        stranger.post("login", form_token="x"),
        stranger.post("login", username="nobody", password="x"),
    ]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert not {"script-src", "connect-src", "frame-src", "object-src"} & set(policy)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    evidence(f"{len(answers)} answers: no-store, {answers[0].headers['content-security-policy']}")


@pytest.mark.control("MFA-10")
def test_a_secret_is_shown_once(member):
    page = member.page("recovery")
    assert "New recovery codes" in page
    assert member.post("recovery").headers["location"] == "/account/recovery-codes"
    codes = re.findall(r"<li><code>([\w-]+)</code></li>", member.page("recovery-codes"))
    assert all(code in member.page("recovery-codes.txt") for code in codes)
    member.page()
    assert member.page("recovery-codes") == member.page("recovery-codes.txt") == "-> "
    member.page("devices/add")
    member.post("devices/add", name="Phone")
    assert 'id="device-password"' in member.page("device-password")
    member.page()
    assert member.page("device-password") == "-> "


@pytest.mark.control("MFA-10")
def test_another_host_and_large_bodies_are_refused(member, stranger):
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        stranger.ask("login", Host="attacker.example")
    answer = stranger.ask("", X_Forwarded_Host="attacker.example", Forwarded="host=attacker.example")
    assert answer.headers["location"] == "/account/login"
    page = stranger.ask("login", X_Forwarded_Host="attacker.example").body
    assert b"attacker" not in page
    assert stranger.post("login", username="x" * 20000, password="x").status == 413
    assert stranger.post("login", username="x" * 12000, password="x" * 2000).status == 403
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert stranger.ask("login", method).status == 405


@pytest.mark.control("MFA-08")
def test_a_reset_link_is_good_once(member, host, stranger):
    said = host.check_output("prosodyctl shell invite create_reset %s@%s", member.username, SITE)
    path = re.search(r"/account/(invitation/\S+)", said)[1]
    stranger.page(path)
    stranger.post(path, password="otter brick violin", repetition="otter brick violin")
    assert stranger.ask(path).status == 404
    stranger.post(path, password="mallory was here", repetition="mallory was here")
    assert stranger.log_in(member.username, "otter brick violin").headers["location"] == "/account/code"


@pytest.mark.control("MFA-10")
@pytest.mark.parametrize(
    "path",
    [
        "//account/login",
        "/%61ccount/login",
        "/account/%6cogin",
        "/http-bind/../account/login",
        "/http-bind/%2e%2e/account/login",
        "/account/x%2f..%2flogin",
        "/account/login;x=1",
    ],
)
def test_a_path_that_two_programs_read_differently_is_no_path(target, path):
    assert web.request(*target.at(443), SITE, path, ca_file=target.ca_file).status == 404


@pytest.mark.control("AUTH-04")
def test_guesses_on_the_page_and_in_the_chat_are_counted_together(target, member, stranger):
    limit = target.variables["prosody_login_account_attempts"]
    statuses = [stranger.log_in(member.username, f"guess {n}").status for n in range(limit)]
    assert set(statuses) == {403}
    assert stranger.log_in(member.username).status == 429
    with pytest.raises(xmpp.AuthenticationFailed) as refusal:
        xmpp.Client.login(*target.at(xmpp.C2S), f"{member.username}@{SITE}", "x")
    assert refusal.value.condition == "temporary-auth-failure"


@pytest.mark.control("MFA-17")
def test_wrong_codes_lock_the_factor_and_only_that(member, stranger):
    stranger.log_in(member.username)
    for number in range(5):
        stranger.page("code")
        assert "wrong" in stranger.post("code", code=f"{number}{number}000{number}").body.decode()
    stranger.page("code")
    assert "Too many wrong codes" in stranger.post("code", code=member.app.code()).body.decode()
    assert member.username in member.page()


@pytest.mark.control("AUTH-05")
def test_a_stranger_cannot_tell_which_accounts_exist(target, host, stranger, evidence):
    made = host.check_output(f"for n in $(seq 6); do prosodyctl shell invite create_account {SITE}; done")
    known = [next(names) for _ in range(6)]
    for username, invitation in zip(known, re.findall(r"/account/(invitation/\S+)", made), strict=True):
        newcomer = Visitor(target)
        newcomer.page(invitation)
        newcomer.post(invitation, username=username, password=PASSWORD, repetition=PASSWORD)
    stranger.page("login")
    headers = {"Cookie": stranger.cookie, "Content-Type": "application/x-www-form-urlencoded"}
    context = ssl.create_default_context(cafile=str(target.ca_file))
    connection = http.client.HTTPConnection(SITE)
    connection.sock = context.wrap_socket(socket.create_connection(target.at(443)), server_hostname=SITE)

    def guess(username: str) -> tuple[float, tuple[int, bytes]]:
        """How many seconds the answer takes, and what it is but for the name."""
        form = {"form_token": stranger.token, "username": username, "password": "a wrong password"}
        began = time.perf_counter()
        connection.request("POST", "/account/login", urlencode(form), headers)
        answer = connection.getresponse()
        body = answer.read()
        return time.perf_counter() - began, (answer.status, body.replace(username.encode(), b""))

    ratios, answers = [], set()
    for _, username in itertools.product(range(3), known):  # few: nginx bounds the rate
        pair = (username, next(names))
        guessed = {name: guess(name) for name in random.sample(pair, k=2)}
        ratios.append(guessed[pair[0]][0] / guessed[pair[1]][0])
        answers |= {answer for _, answer in guessed.values()}
    connection.close()
    assert [status for status, _ in answers] == [403]
    ratio = statistics.median(ratios)
    assert 0.75 < ratio < 1.33
    evidence(f"known and unknown: the same answer, times as {ratio:.2f} to 1")
