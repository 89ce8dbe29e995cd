"""The account page in a real Chromium, as people use it: phone and desktop, light and dark, keyboard, no JavaScript."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, Authenticator, Visitor, chromium, read_qr
from playwright.sync_api import Browser

from verification.probes import xmpp

SITE = "mfa.example"
SCHEMES = ("light", "dark")
PASSWORD = "heron lamp quartz tide"
NEW_PASSWORD = "otter brick violin snow"
KIT = Path(__file__).resolve().parents[3]
PICTURES = KIT / "reports" / "mfa"

names = (f"page{secrets.token_hex(4)}" for _ in itertools.count())


@dataclass
class Member:
    """Somebody with an enrolled account, and the window in which they are logged in."""

    visitor: Visitor
    username: str
    app: Authenticator
    recovery: list[str]

    @property
    def jid(self) -> str:
        """The account's address."""
        return f"{self.username}@{SITE}"

    def log_in(self, visitor: Visitor, password: str = PASSWORD) -> None:
        """Log in in a window, with one of the recovery codes, which need not wait for their time."""
        visitor.log_in(self.username, password)
        visitor.fill(code=self.recovery.pop())
        visitor.press("Log in")

    def add_device(self, name: str) -> str:
        """Add a device in the member's window, and return its password."""
        self.visitor.open("devices/add")
        self.visitor.fill(name=name)
        self.visitor.press("Make its password")
        return self.visitor.page.locator("#device-password").inner_text()


@pytest.fixture(scope="module")
def browser(target, clients) -> Iterator[Browser]:
    """One Chromium for all the tests."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium(target, SITE, clients) as browser:
        yield browser


@pytest.fixture
def visitor(browser) -> Iterator[Callable[..., Visitor]]:
    """A function that opens a window. No page in it may break the policy or ask anybody else for anything."""
    visitors: list[Visitor] = []

    def opened(**options: object) -> Visitor:
        visitors.append(Visitor(browser, SITE, **options))
        return visitors[-1]

    yield opened
    for visitor in visitors:
        visitor.context.close()
    assert [offence for visitor in visitors for offence in visitor.offences] == []


@pytest.fixture(scope="module")
def invite(_testinfra_host) -> Callable[[], str]:
    """A function that returns the link of an invitation, as an operator makes it; all at once, which is quicker."""
    made = _testinfra_host.check_output(f"for n in $(seq 10); do prosodyctl shell invite create_account {SITE}; done")
    return iter(re.findall(r"https://\S+", made)).__next__


@pytest.fixture
def member(visitor, invite) -> Member:
    """Somebody who has just accepted an invitation and enrolled."""
    return enrol(visitor(java_script_enabled=False), invite(), next(names))


@pytest.fixture
def login(target) -> Iterator[Callable[[str, str], xmpp.Client]]:
    """A function that logs in with a password over SCRAM. Raises AuthenticationFailed."""
    clients: list[xmpp.Client] = []

    def logged_in(jid: str, password: str) -> xmpp.Client:
        clients.append(xmpp.Client.login(*target.at(xmpp.C2S), jid, password))
        return clients[-1]

    yield logged_in
    for client in clients:
        client.stream.close()


def accept(visitor: Visitor, invitation: str, username: str) -> None:
    """Accept an invitation."""
    visitor.page.goto(invitation)
    visitor.fill(username=username, password=PASSWORD, repetition=PASSWORD)
    visitor.press("Create the account")


def enrol(visitor: Visitor, invitation: str, username: str) -> Member:
    """Accept an invitation, scan the QR code and confirm it."""
    accept(visitor, invitation, username)
    assert visitor.heading == "Set up your second factor"
    app = Authenticator(read_qr(visitor.page.locator(".qr"), PICTURES / f"{username}-qr.png"))
    visitor.fill(code=app.code())
    visitor.press("Switch it on")
    return Member(visitor, username, app, visitor.recovery_codes)


def take_pictures(visitor: Visitor, name: str) -> None:
    """Keep the page as a phone and a desktop show it, light and dark. It must fit the width of each."""
    for size, viewport in (("phone", PHONE), ("desktop", DESKTOP)):
        visitor.page.set_viewport_size(viewport)
        for scheme in SCHEMES:
            visitor.page.emulate_media(color_scheme=scheme)
            visitor.page.screenshot(path=PICTURES / f"{name}-{size}-{scheme}.png", full_page=True)
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], name


@pytest.mark.control("MFA-02")
@pytest.mark.control("MFA-04")
def test_from_the_invitation_to_a_device_and_its_end(visitor, invite, login, evidence):
    username = next(names)
    jid = f"{username}@{SITE}"
    visit = visitor(java_script_enabled=False)
    page = visit.page
    page.goto(invite())
    take_pictures(visit, "invitation")
    visit.fill(username=username, password=PASSWORD, repetition=PASSWORD)
    visit.press("Create the account")

    take_pictures(visit, "second-factor")
    app = Authenticator(read_qr(page.locator(".qr"), PICTURES / "second-factor-qr.png"))
    page.get_by_text("Type the key instead").click()
    assert page.locator("#secret").inner_text().replace(" ", "") == app.secret
    visit.fill(code="000000")
    visit.press("Switch it on")
    assert "wrong" in visit.problem
    assert read_qr(page.locator(".qr"), PICTURES / "second-factor-qr.png").count(app.secret) == 1, "another secret"
    visit.fill(code=app.code())
    visit.press("Switch it on")
    take_pictures(visit, "recovery-codes")
    codes = visit.recovery_codes
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    saved = download.value.path().read_text()
    assert all(code in saved for code in codes)
    assert jid in saved
    visit.press("I have saved them: add a device")
    member = Member(visit, username, app, codes)

    passwords = {}
    for name in ("Phone", "Laptop"):
        passwords[name] = member.add_device(name)
        if name == "Phone":
            take_pictures(visit, "device-password")
        assert read_qr(page.locator(".qr"), PICTURES / "device-qr.png") == passwords[name]
    phone, laptop = login(jid, passwords["Phone"]), login(jid, passwords["Laptop"])
    visit.press("Done")
    take_pictures(visit, "account")
    assert page.get_by_text("Online now").count() == 2

    page.get_by_role("link", name="Phone").click()
    take_pictures(visit, "device")
    visit.press("Revoke this device")
    assert "“Phone” is revoked" in page.get_by_role("status").inner_text()
    with pytest.raises((xmpp.StreamEnded, ConnectionError)):
        phone.wait("none")
    with pytest.raises(xmpp.AuthenticationFailed):
        login(jid, passwords["Phone"])
    laptop.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=SITE)
    login(jid, passwords["Laptop"])
    with pytest.raises(xmpp.AuthenticationFailed):
        login(jid, PASSWORD)
    evidence(f"{jid}: invited, enrolled, two devices added in Chromium; one revoked -> its session closed, one stays")


@pytest.mark.control("MFA-11")
def test_everything_is_done_from_the_keyboard(visitor, invite):
    username = next(names)
    visit = visitor()
    page = visit.page
    page.goto(invite())

    def type_into(field: str, text: str) -> None:
        """Go on with the Tab key until the field has the focus, then type."""
        for _ in range(12):
            if page.evaluate("document.activeElement.id") == field:
                break
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.matches(':focus-visible')")
        page.keyboard.type(text)

    def submit() -> None:
        with page.expect_navigation():
            page.keyboard.press("Enter")

    type_into("username", username)
    type_into("password", PASSWORD)
    type_into("repetition", PASSWORD)
    submit()
    app = Authenticator(page.get_by_role("link", name="Open the app from here").get_attribute("href"))
    type_into("code", app.code())
    submit()
    for _ in range(12):
        if page.evaluate("document.activeElement.textContent").startswith("I have saved them"):
            break
        page.keyboard.press("Tab")
    submit()
    type_into("name", "Phone")
    submit()
    assert visit.heading == "Log in on “Phone”"


@pytest.mark.control("MFA-11")
def test_nobody_is_kept_out_by_contrast_or_missing_names(visitor, invite, evidence):
    visit = visitor(viewport=PHONE)
    seen = []

    def look() -> None:
        for scheme in SCHEMES:
            visit.page.emulate_media(color_scheme=scheme)
            assert visit.barriers() == [], (visit.page.url, scheme)
        seen.append(visit.heading)

    visit.log_in("nobody", "wrong password")
    look()
    visit.page.goto(invite())
    look()
    visit.fill(username="x", password="password1234", repetition="password1234")
    visit.press("Create the account")
    look()
    accept(visit, visit.page.url, next(names))
    look()
    app = Authenticator(visit.page.get_by_role("link", name="Open the app from here").get_attribute("href"))
    visit.open()
    look()
    visit.open("enrol")
    visit.fill(code=app.code())
    visit.press("Switch it on")
    look()
    visit.press("I have saved them: add a device")
    look()
    visit.fill(name="Phone")
    visit.press("Make its password")
    look()
    for path in ("", "recovery", "devices/revoke", "password"):
        visit.open(path)
        look()
    visit.open()
    visit.press("Phone")
    look()
    evidence(f"axe-core, light and dark: nothing on {len(seen)} pages")


@pytest.mark.control("MFA-10")
def test_a_device_is_renamed_and_its_name_is_text(member, visitor):
    visit = member.visitor
    name = "<img src=x onerror=\"document.title='run'\">'\"&{domain}"
    member.add_device(name)
    looking = visitor()  # with JavaScript
    member.log_in(looking)
    assert looking.page.locator(".list .name").first.inner_text() == name
    looking.press(name)
    assert looking.page.locator("#name").input_value() == name
    assert looking.page.locator("main img").count() == 0
    assert looking.page.title() != "run"
    looking.fill(name="Tablet")
    looking.press("Rename")
    visit.open()
    assert visit.page.locator(".list .name").first.inner_text() == "Tablet"


@pytest.mark.control("MFA-09")
def test_the_password_is_changed_and_other_windows_are_logged_out(member, visitor):
    visit, other = member.visitor, visitor(java_script_enabled=False)
    member.log_in(other)
    visit.open("password")
    visit.fill(password=NEW_PASSWORD, repetition=NEW_PASSWORD)
    visit.press("Change the password")
    assert "changed" in visit.page.get_by_role("status").inner_text()
    other.open()
    assert other.heading == "Log in to your account"
    other.log_in(member.username, PASSWORD)
    assert other.heading == "Log in to your account"
    member.log_in(other, NEW_PASSWORD)
    assert other.heading == member.jid


@pytest.mark.control("MFA-07")
def test_a_weak_password_is_not_taken(visitor, invite, evidence):
    visit = visitor()
    username = next(names)
    visit.page.goto(invite())
    reasons = {"mqzn7 lamp": "too short", "password12345": "common", f"{username} in the night": "user name"}
    for password, reason in reasons.items():
        visit.page.locator("form.card").evaluate("form => form.noValidate = true")
        visit.fill(username=username, password=password, repetition=password)
        visit.press("Create the account")
        assert reason in visit.problem
    evidence(f"refused: {', '.join(reasons.values())}")


@pytest.mark.control("MFA-10")
def test_after_the_logout_the_back_button_shows_nothing(member):
    visit = member.visitor
    member.add_device("Phone")
    visit.press("Done")
    visit.press("Log out")
    for _ in range(3):
        visit.page.go_back()
        assert visit.heading == "Log in to your account"


@pytest.mark.control("MFA-08")
def test_an_invitation_is_good_for_one_account(visitor, invite):
    invitation = invite()
    accept(visitor(), invitation, next(names))
    late = visitor()
    late.page.goto(invitation)
    assert late.heading == "This invitation is not valid"


@pytest.mark.control("MFA-08")
def test_a_reset_link_changes_the_password_and_leaves_the_second_factor(member, visitor, host):
    said = host.check_output("prosodyctl shell invite create_reset %s", member.jid)
    visit = visitor()
    visit.page.goto(re.search(r"https://\S+", said)[0])
    assert visit.page.locator("#username").input_value() == member.username
    visit.fill(password=NEW_PASSWORD, repetition=NEW_PASSWORD)
    visit.press("Change the password")
    member.log_in(visit, NEW_PASSWORD)
    assert visit.heading == member.jid


@pytest.mark.control("MFA-02")
def test_a_lost_phone_is_replaced_with_a_recovery_code(member, visitor):
    visit = visitor()
    member.log_in(visit)
    visit.press("Authenticator app")
    app = Authenticator(visit.page.get_by_role("link", name="Open the app from here").get_attribute("href"))
    assert app.secret != member.app.secret
    visit.fill(code=app.code())
    visit.press("Switch over")
    codes = visit.recovery_codes
    assert not set(codes) & set(member.recovery)
    visit.press("Log out")
    member.recovery[:] = codes
    member.log_in(visit)
    assert visit.heading == member.jid
