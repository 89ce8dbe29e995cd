"""What one account can hold of the server: sessions and memory."""

from __future__ import annotations

import contextlib
import time

import pytest

from verification.probes import xmpp
from verification.probes.xmpp import StanzaError, StreamEnded
from verification.targets import Target

BIND_TIMEOUT = 30  # seconds


@pytest.mark.control("FLOOD-04")
def test_sessions_of_an_account_are_bounded(target, login, evidence):
    limit = target.variables["prosody_sessions_per_account"]
    sessions: list[xmpp.Client] = []
    try:
        while len(sessions) <= limit:
            sessions.append(login())
        sessions[0].iq("get", "<ping xmlns='urn:xmpp:ping'/>")
    except (StanzaError, StreamEnded) as refused:  # the newest is, or the oldest has to make room
        evidence(f"{len(sessions)} sessions of one account, {limit} stated -> {refused}")
        assert refused.condition in ("resource-constraint", "conflict")
    else:
        pytest.fail(f"{len(sessions)} sessions of one account are open at once")
    assert login(1, resource="other").jid.endswith("/other"), "other accounts have room"


@pytest.mark.control("FLOOD-04")
@pytest.mark.usefixtures("accounts_here")
def test_a_login_without_a_session_does_not_last(at_once, given_accounts, evidence):
    def wait(target: Target) -> tuple[StreamEnded | None, float]:
        account = target.accounts_among(given_accounts)[-1]
        client = xmpp.Client.login(*target.at(xmpp.C2S), account["jid"], account["password"], bind=False)
        started = time.monotonic()
        ended = None
        with client:
            try:
                client.stream.expect("nothing", timeout=BIND_TIMEOUT + 15)
            except StreamEnded as end:
                ended = end
            except TimeoutError:
                pass
        return ended, time.monotonic() - started

    ended, seconds = at_once(wait)
    assert ended, f"a login that opens no session lasts longer than {seconds:.0f} s"
    evidence(f"logged in, bound no resource -> {ended} after {seconds:.0f} s")
    assert ended.condition == "connection-timeout"


@pytest.mark.control("FLOOD-05")
@pytest.mark.parametrize("port", [xmpp.C2S, xmpp.C2S_DIRECT])
def test_elements_of_a_stanza_are_bounded(target, login, evidence, port):
    limit = target.variables["prosody_stanza_elements"]
    alice = login(port=port)
    try:  # within the bound it is read, and answered: nobody knows this request
        with contextlib.suppress(StanzaError):
            alice.iq("get", f"<x xmlns='urn:example:portcullis'>{'<a/>' * (limit - 100)}</x>", to=alice.bare)
    except TimeoutError:
        pytest.skip(f"not shown: {port} is read too slowly to send that many")
    alice.send(f"<message to='{alice.bare}'><x xmlns='urn:example:portcullis'>{'<a/>' * (limit + 100)}")
    try:
        alice.stream.expect("nothing")
    except StreamEnded as ended:
        evidence(f"{port}: {limit + 100} elements in an unfinished message -> {ended}")
    except TimeoutError:
        pytest.fail(f"{port}: {limit + 100} elements of one message are taken")
