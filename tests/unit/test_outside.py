"""A server as a stranger finds it: which records are asked, what a hostile answer can do, what is no XMPP server."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import pytest

from cli import main
from cli.common import WRONG
from verification import outside, targets
from verification.outside import Found, discover, endpoint, trouble
from verification.probes import http, xmpp

HOST_META = """<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>
<Link rel='urn:xmpp:alt-connections:websocket' href='wss://example.org/ws'/></XRD>"""


@pytest.fixture
def world(monkeypatch):
    """DNS and the web of the tests: SRV name -> targets or what is raised; nothing else is asked."""
    names: dict[str, object] = {}

    def records(name):
        answer = names.get(name, LookupError(f"there is no SRV record {name}"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def request(*_, **__):
        if "host-meta" not in names:
            raise OSError("connection refused")
        return http.Response(200, {}, str(names["host-meta"]).encode())

    monkeypatch.setattr(outside, "records", records)
    monkeypatch.setattr(outside.web, "request", request)
    monkeypatch.setattr(outside.tls.Channel, "connect", lambda *_: pytest.fail("a connection that was not asked for"))
    return names


def test_services_are_found_by_srv_records(world):
    world |= {
        "_xmpp-client._tcp.example.org": [("a.example.org", 5222), ("b.example.org", 5222)],
        "_xmpps-client._tcp.example.org": [("a.example.org", 443)],
        "_xmpp-server._tcp.example.org": [],
        "_xmpps-server._tcp.example.org": dns.exception.Timeout(),
        "host-meta": HOST_META,
    }
    found = discover("example.org")
    assert found.places == {
        5222: ("a.example.org", 5222),
        5223: ("a.example.org", 443),
        443: ("example.org", 443),
        80: ("example.org", 80),
    }
    assert found.absent[5269] == "_xmpp-server._tcp.example.org says that there is no such service"
    assert found.absent[5270].startswith("_xmpps-server._tcp.example.org: ")


def test_without_records_the_domain_is_asked_for_what_needs_none(world, monkeypatch):
    def refuse(address, port, timeout):
        assert (address, port) == ("example.org", 5269)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(outside.tls.Channel, "connect", refuse)
    found = discover("example.org")
    assert found.places == {5222: ("example.org", 5222)}
    assert found.absent[5223] == "there is no SRV record _xmpps-client._tcp.example.org"
    assert found.absent[5269] == "nothing answers at example.org port 5269: Connection refused"
    assert found.absent[443] == "https://example.org/.well-known/host-meta: connection refused"


@pytest.mark.parametrize("document", ["<html>", "<XRD/>", "", "{{ 7 * 7 }}"])
def test_a_website_is_not_a_web_front(world, document):
    world |= {"_xmpp-server._tcp.example.org": [], "host-meta": document}
    assert {80, 443} <= set(discover("example.org").absent)


def test_what_strangers_say_is_no_template(tmp_path):
    found = Found("example.org", {5222: ("a.example.org", 5222)}, {443: "{{ lookup('pipe', 'id') }}"})
    found.write(tmp_path / "hosts.yml", tmp_path / "ca.pem")
    target = targets.load(str(tmp_path / "hosts.yml"), "example.org")
    assert target.absent == {443: "{{ lookup('pipe', 'id') }}"}
    assert target.at(5222) == ("a.example.org", 5222)
    assert target.domain == "example.org"
    assert target.hosts[0].names == ("example.org",)
    assert not target.federates
    with pytest.raises(targets.NotOffered):
        target.at(443)


@pytest.mark.parametrize("name", ["{{ 1 }}.example.org", "a b.example.org", "-x.example.org", "$(id).example.org", ""])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError):
        endpoint(name)


@pytest.mark.parametrize(("name", "taken"), [("A.Example.org.", "a.example.org"), ("[::1]", "::1"), ("192.0.2.1",) * 2])
def test_names_and_addresses_are_taken(name, taken):
    assert endpoint(name) == taken


@contextmanager
def answering(words: bytes | None) -> Iterator[int]:
    """A port that says these words to whoever connects, or holds the line in silence."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if words is not None:
                self.request.sendall(words)
            while self.request.recv(1000) and words is None:
                pass

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        server.timeout = 5
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield server.server_address[1]
        thread.join()


STREAM = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
HOST_UNKNOWN = (
    STREAM + b"<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
)


@pytest.mark.parametrize(
    ("words", "port", "said"),
    [
        (STREAM + b"<stream:features/>", xmpp.C2S, ""),
        (b"SSH-2.0-OpenSSH_10.0\r\n", xmpp.C2S, "does not speak XMPP"),
        (b"\x00\xff\xfe" * 20, xmpp.C2S, "does not speak XMPP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", xmpp.C2S_DIRECT, "does not speak TLS"),
        (HOST_UNKNOWN, xmpp.C2S, "host-unknown when asked for example.org"),
        (None, xmpp.C2S, "nothing within 0.3 s"),
        (None, xmpp.C2S_DIRECT, "nothing within 0.3 s"),
    ],
)
def test_what_is_no_xmpp_server_is_said_in_a_line(words, port, said):
    with answering(words) as reached:
        line = trouble("127.0.0.1", reached, port, "example.org", 0.3)
    assert said in line
    assert bool(line) == bool(said)
    assert "\n" not in line


def test_a_closed_port_is_said_in_a_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert trouble("127.0.0.1", port, xmpp.C2S, "example.org", 1) == f"127.0.0.1 port {port}: Connection refused"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--from-outside", "localhost"], "full domain name"),
        (["--from-outside", "example.org", "--connect", "a b"], "not a domain label"),
        (["--from-outside", "example.org", "--ca-file", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_use_is_refused(arguments, complaint, capsys):
    assert main.main(["verify", *arguments]) == WRONG
    assert complaint in capsys.readouterr().err
