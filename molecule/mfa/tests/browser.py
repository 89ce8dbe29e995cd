"""A real Chromium that looks at the account page of a host under test, and notes what must never happen there.

The browser knows the one name of the host and no other, and trusts the certificate that the host's roots vouch for.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from axe_playwright_python.sync_playwright import Axe
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from playwright.sync_api import Browser, Locator, sync_playwright

from verification.probes.tls import TIMEOUT
from verification.targets import Target

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}
STEP = 30  # seconds that a one-time code is for, RFC 6238
TO_TYPE = 10  # seconds in which a code is on its way at most
SECLUDED = Path(__file__).with_name("chromium-beside")


@contextmanager
def chromium(target: Target, name: str, neighbour: Target) -> Iterator[Browser]:
    """A headless Chromium in a neighbour's network, for which `name` is the host under test, and nothing else exists.

    A browser gives up what it waits for when an address of its machine comes or goes (net::ERR_NETWORK_CHANGED), as
    they do on this one with every host of another scenario.
    """
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=SECLUDED,
            env={**os.environ, "NEIGHBOUR": neighbour.variables["lab_container"]},
            args=[
                f"--host-resolver-rules=MAP {name}:443 {target.variables['lab_address']}, MAP * ~NOTFOUND",
                f"--ignore-certificate-errors-spki-list={_key_hash(target, name)}",
            ],
        )
        yield browser
        browser.close()


def _key_hash(target: Target, name: str) -> str:
    """The hash of the key of the certificate that is served, once it is verified."""
    context = ssl.create_default_context(cafile=str(target.ca_file))
    connection = socket.create_connection(target.at(443), TIMEOUT)
    with context.wrap_socket(connection, server_hostname=name) as channel:
        certificate = x509.load_der_x509_certificate(channel.getpeercert(binary_form=True) or b"")
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


class Visitor:
    """Somebody with a browser window of their own: cookies, size, colours, with JavaScript or without.

    Attributes:
        page: the window, of playwright.
        offences: requests to other hosts, breaches of the content security policy, errors of scripts.
    """

    def __init__(self, browser: Browser, site: str, **options: Any) -> None:
        self.site = site
        self.context = browser.new_context(**{"viewport": DESKTOP, "device_scale_factor": 2, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.offences: list[str] = []
        self.page.on("request", lambda request: self._note_request(request.url))
        self.page.on("pageerror", lambda error: self.offences.append(str(error)))
        self.page.on("console", lambda message: self._note_message(message.text))

    def _note_request(self, url: str) -> None:
        if urlsplit(url).hostname != self.site:
            self.offences.append(f"request to {url}")

    def _note_message(self, text: str) -> None:
        if "Content Security Policy" in text or "Refused to" in text:
            self.offences.append(text)

    def open(self, path: str = "") -> None:
        """Go to a part of the account page."""
        self.page.goto(f"https://{self.site}/account/{path}")

    def press(self, name: str) -> None:
        """Press the button or follow the link of that name, and wait for the next page."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name=name).or_(self.page.get_by_role("link", name=name)).first.click()

    def fill(self, **fields: str) -> None:
        """Fill in the fields with these ids."""
        for field, value in fields.items():
            self.page.locator(f"#{field}").fill(value)

    def log_in(self, username: str, password: str) -> None:
        """Give user name and password."""
        self.open("login")
        self.fill(username=username, password=password)
        self.press("Continue")

    @property
    def heading(self) -> str:
        """What the page says it is."""
        return self.page.locator("h1").inner_text()

    @property
    def problem(self) -> str:
        """What the page complains of."""
        return self.page.get_by_role("alert").inner_text()

    @property
    def recovery_codes(self) -> list[str]:
        """The recovery codes that the page shows, this once."""
        codes = self.page.locator(".codes code").all_inner_texts()
        assert len(set(codes)) == 8, f"{len(codes)} recovery codes on: {self.page.locator('main').inner_text()}"
        return codes

    @property
    def cookie(self) -> dict[str, Any]:
        """The one cookie of the page."""
        (cookie,) = self.context.cookies()
        return dict(cookie)

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps people out: contrast, labels, names, roles."""
        found = Axe().run(self.page).response["violations"]
        return [f"{entry['id']}: {node['html']}" for entry in found for node in entry["nodes"]]


def read_qr(element: Locator, picture: Path) -> str:
    """What a scanner reads in a screenshot of the element."""
    element.screenshot(path=picture)
    command = ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", str(picture)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.rstrip("\n")


class Authenticator:
    """The app on somebody's phone, set up by an otpauth: address. oathtool makes its codes.

    The server takes each code once, and those of the step before and after as well: each call gives the next of them,
    and none that would be too old by the time it is typed.
    """

    def __init__(self, uri: str) -> None:
        self.secret = parse_qs(urlsplit(uri).query)["secret"][0]
        self.last = 0

    def code(self) -> str:
        """A code that was not given before. Waits for a new step when all of now were."""
        self.last = max(self.last + 1, int(time.time() + TO_TYPE) // STEP - 1)
        while self.last > int(time.time()) // STEP + 1:
            time.sleep(0.5)
        command = ["oathtool", "--totp", "--base32", f"--now=@{self.last * STEP}", "-"]
        return subprocess.run(command, input=self.secret, capture_output=True, text=True, check=True).stdout.strip()
