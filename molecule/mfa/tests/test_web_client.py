"""A web client as people use one: Converse.js, in Chromium, over WebSocket."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import chromium
from playwright.sync_api import Page, Route

CACHE = Path(__file__).resolve().parents[3] / ".cache" / "converse"
PACKAGE = "converse.js@12.0.0"
INTEGRITY = "HMY7GtzLbR8PjWxB7h4QX4MYnZEqjCMEc6oWAE9kQL6LKzvBcpNvnHACWy615Bmzss3zfnHAYYjT+z6mAiYgKg=="  # SHA-512
SITE = "mfa.example"
CLIENT = "https://chat.example"

INDEX = f"""<!doctype html>
<title>waiting</title>
<link rel="stylesheet" href="dist/converse.min.css">
<script src="dist/converse.min.js"></script>
<body>
<script>
converse.plugins.add("title", {{
  initialize() {{
    this._converse.api.listen.on("connected", () => {{ document.title = "connected"; }});
  }}
}});
converse.initialize({{
  websocket_url: "wss://{SITE}/xmpp-websocket",
  discover_connection_methods: false,
  view_mode: "fullscreen",
  assets_path: "dist/",
  whitelisted_plugins: ["title"],
}});
</script>
"""


@pytest.fixture(scope="module")
def client() -> Path:
    """The directory of the client, as its makers publish it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"{PACKAGE.replace('@', '-')}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=CACHE, check=True, capture_output=True, timeout=120)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert digest == INTEGRITY, f"{archive} is not what it was when it was pinned"
    with tarfile.open(archive) as packed:
        packed.extractall(CACHE, filter="data")
    return CACHE / "package"


@pytest.fixture
def open_client(target, clients, client) -> Iterator[Callable[[str, str], Page]]:
    """A function that opens the client in a new window and logs in, as a person does."""

    def serve(route: Route) -> None:
        path = route.request.url.removeprefix(f"{CLIENT}/").partition("?")[0]
        file = client / path
        if not path:
            route.fulfill(body=INDEX, content_type="text/html")
        elif file.is_file():
            route.fulfill(body=file.read_bytes(), content_type=mimetypes.guess_type(path)[0])
        else:
            route.abort()

    with chromium(target, SITE, clients) as browser:

        def opened(jid: str, password: str) -> Page:
            context = browser.new_context(permissions=["local-network-access"])  # the host is on a private network
            page = context.new_page()
            page.route(f"{CLIENT}/**", serve)
            page.goto(f"{CLIENT}/")
            page.locator("input[name=jid]").fill(jid)
            page.locator("input[name=password]").fill(password)
            page.locator("input[name=password]").press("Enter")
            return page

        yield opened


@pytest.mark.control("WEB-10")
@pytest.mark.control("MFA-01")
def test_a_web_client_logs_in_with_the_password_of_its_device_alone(open_client, member, evidence):
    account = member()
    password = account.enrol_with_device("Browser")
    page = open_client(account.jid, password)
    page.wait_for_function("document.title === 'connected'")
    refused = open_client(account.jid, account.password)
    refused.get_by_text("password is incorrect").wait_for()
    assert refused.title() == "waiting"
    evidence("Converse.js over WebSocket: its device's password logs in, the account's own does not")
