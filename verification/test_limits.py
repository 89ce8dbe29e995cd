"""What one account can hold of the server: sessions and memory."""

from __future__ import annotations

import time

import pytest

from verification.probes import xmpp
from verification.probes.xmpp import StanzaError, StreamEnded

BIND_TIMEOUT = 30  # seconds


@pytest.mark.control("FLOOD-04")
def test_sessions_of_an_account_are_bounded(target, login, evidence):
    limit = target.variables["prosody_sessions_per_account"]
    with pytest.raises(StanzaError) as refused:
        for _ in range(limit + 1):
            login()
    evidence(f"one session more than {limit} of one account -> {refused.value}")
    assert refused.value.condition == "resource-constraint"
    assert login(1, resource="other").jid.endswith("/other"), "other accounts have room"


@pytest.mark.control("FLOOD-04")
def test_a_login_without_a_session_does_not_last(login, evidence):
    stream = login(bind=False).stream
    started = time.monotonic()
    with pytest.raises(StreamEnded) as ended:
        stream.expect("nothing", timeout=BIND_TIMEOUT + 15)
    evidence(f"logged in, bound no resource -> {ended.value} after {time.monotonic() - started:.0f} s")
    assert ended.value.condition == "connection-timeout"


@pytest.mark.control("FLOOD-05")
@pytest.mark.parametrize("port", [xmpp.C2S, xmpp.C2S_DIRECT])
def test_elements_of_a_stanza_are_bounded(target, login, evidence, port):
    limit = target.variables["prosody_stanza_elements"]
    alice = login(port=port)
    with pytest.raises(StanzaError):  # within the bound it is read, and answered: nobody knows this request
        alice.iq("get", f"<x xmlns='urn:example:portcullis'>{'<a/>' * (limit - 100)}</x>", to=alice.bare)
    with pytest.raises(StreamEnded) as ended:
        alice.send(f"<message to='{alice.bare}'><x xmlns='urn:example:portcullis'>{'<a/>' * (limit + 100)}")
        alice.stream.expect("nothing")
    evidence(f"{port}: {limit + 100} elements in an unfinished message -> {ended.value}")
