"""HTTP and HTTPS from outside, and the same nginx configuration in a private network where the backend must be seen."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.client
import json
import re
import secrets
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from verification.probes import http as web
from verification.probes import tls, web_apart
from verification.probes.tls import Channel, Offer, Refused
from verification.targets import Target

HTTP, HTTPS = 80, 443
XRD = "{http://docs.oasis-open.org/ns/xri/xrd-1.0}"
RELATION = "urn:xmpp:alt-connections:"
ALL_WEAK = "ALL:!AESGCM:!CHACHA20:!AESCCM:!ARIAGCM:@SECLEVEL=0"
EXPOSURE = 2.2
NOTHING_PASSED_ON = "nothing is passed on to Prosody: no WebSocket, no BOSH, no files"
pytestmark = pytest.mark.speaks(HTTPS)


def https_names(target) -> list[str]:
    """Every name that is served over HTTPS, each once."""
    names = [name for served in target.hosts for name in (served.domain, served.web, served.upload) if name]
    return list(dict.fromkeys(names))


def ask(target: Target, name: str, path: str, **options) -> web.Response:
    """Ask over HTTPS, with the certificate verified."""
    return web.request(*target.at(HTTPS), name, path, ca_file=target.ca_file, **options)


def connect(target, name: str) -> Channel:
    """An encrypted connection that speaks HTTP/1.1."""
    channel = Channel.connect(*target.at(HTTPS))
    channel.start_tls(Offer(name, alpn=("http/1.1",)))
    return channel


def status(channel: Channel, request: str) -> int:
    """Send a request as it is and return the status of the answer."""
    channel.send(request.encode())
    answer = b""
    while b"\r\n" not in answer:
        data = channel.receive()
        if not data:
            pytest.fail("closed without an answer")
        answer += data
    return int(answer.split()[1])


# Plain HTTP


@pytest.mark.control("WEB-01")
@pytest.mark.kit
def test_plain_http_redirects_and_nothing_else(target: Target, evidence):
    for name in https_names(target):
        for path in ("/", "/xmpp-websocket", "/.well-known/host-meta?a=b"):
            response = web.request(*target.at(HTTP), name, path)
            assert (response.status, response.headers.get("location")) == (308, f"https://{name}{path}")
            assert "strict-transport-security" not in response.headers, "RFC 6797 section 7.2"
        evidence(f"http://{name}/ -> 308 https://{name}/")


@pytest.mark.control("WEB-01")
@pytest.mark.kit
@pytest.mark.parametrize("name", ["other.example", "127.0.0.1"])
def test_plain_http_for_an_unknown_name_gets_no_answer(target: Target, evidence, name):
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        web.request(*target.at(HTTP), name, "/")
    evidence(f"http://{name}/ -> closed")


@pytest.mark.control("WEB-01")
@pytest.mark.kit
def test_the_challenge_directory_gives_away_nothing(target):
    for path in ("", "../acme", "x/../../../../../../etc/passwd", "%2e%2e/%2e%2e/%2e%2e/etc/passwd"):
        with Channel.connect(*target.at(HTTP)) as channel:
            request = f"GET /.well-known/acme-challenge/{path} HTTP/1.0\r\nHost: {target.domain}\r\n\r\n"
            assert status(channel, request) in (308, 400, 403, 404)


# TLS


@pytest.mark.control("WEB-02")
@pytest.mark.parametrize(
    "offer",
    [
        {"minimum": "TLSv1", "maximum": "TLSv1", "ciphers": tls.EVERYTHING},
        {"minimum": "TLSv1.1", "maximum": "TLSv1.1", "ciphers": tls.EVERYTHING},
        {"maximum": "TLSv1.2", "ciphers": ALL_WEAK},
        {"maximum": "TLSv1.2", "ciphers": "kRSA:kDHE:aNULL:@SECLEVEL=0"},
    ],
    ids=["TLS 1.0", "TLS 1.1", "no authenticated encryption", "no elliptic-curve forward secrecy"],
)
def test_old_versions_and_weak_suites_are_refused(target, evidence, request, offer):
    for name in https_names(target):
        with Channel.connect(*target.at(HTTPS)) as channel, pytest.raises(Refused) as refused:
            channel.start_tls(Offer(name, **offer))
            pytest.fail(f"{name} accepted {channel.version} {channel.cipher}")
    evidence(f"{request.node.callspec.id} -> {refused.value}")


@pytest.mark.control("WEB-02")
@pytest.mark.parametrize(("version", "ciphers"), [("SSLv3", "ALL"), ("TLSv1.2", "RC4:3DES:EXPORT:LOW")])
def test_what_openssl_forgot_is_refused(target, evidence, version, ciphers):
    with Channel.connect(*target.at(HTTPS)) as channel, pytest.raises(Refused) as refused:
        pytest.fail(f"accepted {tls.legacy_handshake(channel, version, ciphers)}")
    evidence(f"{version} {ciphers} -> {refused.value}")


@pytest.mark.control("WEB-02")
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_good_versions_are_spoken(target, evidence, version):
    for name in https_names(target):
        with Channel.connect(*target.at(HTTPS)) as channel:
            channel.start_tls(Offer(name, minimum=version, maximum=version))
            assert channel.version == version
            evidence(f"{name} {version} -> {channel.cipher} {channel.group}")
            if version == "TLSv1.3":
                assert channel.group == "X25519MLKEM768"


@pytest.mark.control("WEB-03")
def test_browsers_are_told_to_insist_on_https(target, evidence):
    for name in https_names(target):
        for path in ("/", "/.well-known/host-meta"):
            header = ask(target, name, path).headers.get("strict-transport-security", "")
            seconds = re.search(r"max-age=\"?(\d+)", header)
            assert seconds, f"https://{name}{path}: {header!r}"
            assert int(seconds[1]) >= 365 * 86400
        evidence(f"{name} -> {header}")


@pytest.mark.control("WEB-04")
@pytest.mark.kit
@pytest.mark.parametrize("name", ["other.example", "x.invalid"])
def test_an_unknown_name_is_refused_in_the_handshake(target, evidence, name):
    with Channel.connect(*target.at(HTTPS)) as channel, pytest.raises(Refused) as refused:
        channel.start_tls(Offer(name))
    evidence(f"{name} -> {refused.value}")


@pytest.mark.control("WEB-04")
@pytest.mark.kit
def test_one_name_s_connection_does_not_open_an_unknown_site(target):
    with connect(target, target.hosts[0].web) as channel:
        channel.send(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")
        with contextlib.suppress(Refused):
            assert channel.receive() == b""


# Limits


def seconds_open(target, name: str, encrypted: bool, pieces: list[bytes], limit: float) -> float:
    """Send the pieces, one a second, the last one again and again; how long the server bears it, at most `limit`."""
    channel = connect(target, name) if encrypted else Channel.connect(*target.at(HTTPS))
    start = time.monotonic()
    with channel:
        while (elapsed := time.monotonic() - start) < limit:
            try:
                channel.send(pieces.pop(0) if len(pieces) > 1 else pieces[0])
                channel.receive(timeout=1)
            except TimeoutError:
                continue
            except (OSError, Refused):
                return elapsed
            return elapsed
    return limit


@pytest.mark.control("WEB-05")
@pytest.mark.kit
def test_half_sent_requests_are_cut_off(target, at_once, evidence):
    for case, seconds in at_once(patience).items():
        evidence(f"{case} -> closed after {seconds:.0f} s")
        assert seconds < longest_wait(target), f"{case} is still open"


def longest_wait(target: Target) -> float:
    """Seconds after which half a request must have been cut off."""
    return int(target.variables["web_client_timeout"]) + 5.0


def patience(target: Target) -> dict[str, float]:
    """How many seconds the server bears half a request of each kind."""
    name = target.hosts[0].web
    head = f"POST /http-bind HTTP/1.1\r\nHost: {name}\r\n".encode()
    cases: Mapping[str, tuple[bool, list[bytes]]] = {
        "nothing instead of a handshake": (False, [b""]),
        "half a handshake": (False, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""]),
        "half a header": (True, [head, b""]),
        "a dripping header": (True, [head, b"X"]),
        "half a body": (True, [head + b"Content-Length: 1000\r\n\r\n<body", b""]),
    }
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        waits = {
            case: pool.submit(seconds_open, target, name, *how, longest_wait(target)) for case, how in cases.items()
        }
    return {case: wait.result() for case, wait in waits.items()}


@pytest.mark.control("WEB-06")
@pytest.mark.kit
def test_an_oversized_header_is_refused(target, evidence):
    for name in https_names(target):
        with connect(target, name) as channel:
            refused = status(channel, f"GET / HTTP/1.1\r\nHost: {name}\r\nX: {'x' * 65536}\r\n\r\n")
        evidence(f"{name}, header of 64 KiB -> {refused}")
        assert refused in (400, 431)


@pytest.mark.control("WEB-06")
@pytest.mark.kit
def test_an_oversized_body_is_refused_unread(target, evidence):
    sizes = {("POST", served.web, "/http-bind"): 1024**2 for served in target.hosts}
    limit = int(target.variables["web_upload_size_limit"])
    sizes |= {("PUT", served.upload, "/upload/x/y"): limit + 1 for served in target.hosts if served.upload}
    for (method, name, path), size in sizes.items():
        with connect(target, name) as channel:
            refused = status(channel, f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nContent-Length: {size}\r\n\r\n")
        evidence(f"{method} https://{name}{path} of {size} bytes -> {refused}")
        assert refused == 413


# Behaviour


def passed_on(target, served) -> dict[str, tuple[str, str]]:
    """What of a virtual host reaches Prosody: name -> method and path."""
    found = {served.upload: ("GET", "/x")} if served.upload else {}
    if target.variables["web_bosh_enabled"]:
        found[served.web] = "POST", "/http-bind"
    if target.variables["web_websocket_enabled"]:
        found[served.web] = "GET", "/xmpp-websocket"
    return found


def backend_sees(host, request: tuple[str, str, str], headers: list[tuple[str, str]], hidden: list[str]) -> dict:
    """Ask nginx's configuration in a private network; what the backend got, or how it was refused (see web_apart).

    `request` is the name, the method and the path.
    """
    probe = json.dumps({**dict(zip(("name", "method", "path"), request)), "headers": headers, "hidden": hidden})
    script = Path(web_apart.__file__).read_text()
    with host.sudo():
        return json.loads(host.check_output("unshare --mount --net python3 -c %s %s", script, probe))


@pytest.mark.control("WEB-08")
def test_a_client_cannot_lie_about_its_address(host, target, evidence):
    lies = ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "Via-Proxy"]
    for served in target.hosts:
        for name, request in passed_on(target, served).items():
            got = backend_sees(host, (name, *request), [(field, "203.0.113.66") for field in lies], [])
            headers = [(field.lower(), value) for field, value in got["headers"]]
            assert ("host", name) in headers
            assert [value for field, value in headers if field == "x-forwarded-for"] == ["127.0.0.1"]
            assert [value for field, value in headers if field == "x-forwarded-proto"] == ["https"]
            believed = {field for field, value in headers if "203.0.113.66" in value}
            assert believed <= {"via-proxy"}, believed
            evidence(f"{name} told that it is 203.0.113.66 -> Prosody is told 127.0.0.1, the truth")
    if not any(passed_on(target, served) for served in target.hosts):
        pytest.skip(NOTHING_PASSED_ON)


@pytest.mark.control("WEB-15")
def test_a_host_without_a_certificate_does_not_stop_the_others(host, target, evidence):
    hidden, *others = target.hosts
    refused = backend_sees(host, (hidden.web, "GET", "/"), [], [hidden.domain])
    assert "refused" in refused
    evidence(f"{hidden.domain} without its certificate: nginx starts, {hidden.web} -> {refused['refused']}")
    for name, request in (item for other in others for item in passed_on(target, other).items()):
        got = backend_sees(host, (name, *request), [], [hidden.domain])
        assert "headers" in got
        evidence(f"{name} -> served")


@pytest.mark.control("WEB-09")
@pytest.mark.kit
def test_browsers_are_kept_from_sniffing_framing_and_running(target, evidence):
    for name in https_names(target):
        for path in ("/", "/.well-known/host-meta", "/upload/missing.html"):
            headers = ask(target, name, path).headers
            assert headers.get("x-content-type-options") == "nosniff", f"https://{name}{path}"
            assert headers.get("x-frame-options") == "DENY", f"https://{name}{path}"
            policy = headers.get("content-security-policy", "")
            assert "default-src 'none'" in policy, f"https://{name}{path}: {policy!r}"
            assert "frame-ancestors 'none'" in policy, f"https://{name}{path}: {policy!r}"
        evidence(f"{name} -> nosniff; DENY; {policy}")


def endpoints(target, served) -> dict[str, str]:
    """The addresses of both host-meta documents, which must agree: kind -> address."""
    xml = ask(target, served.domain, "/.well-known/host-meta", headers={"Origin": "https://client.example"})
    assert xml.headers["content-type"] == "application/xrd+xml"
    assert xml.headers["access-control-allow-origin"] == "*"
    from_xml = {link.get("rel"): link.get("href") for link in ET.fromstring(xml.body).iter(f"{XRD}Link")}
    document = ask(target, served.domain, "/.well-known/host-meta.json", headers={"Origin": "https://client.example"})
    assert document.headers["content-type"] == "application/json"
    assert document.headers["access-control-allow-origin"] == "*"
    from_json = {link["rel"]: link["href"] for link in json.loads(document.body)["links"]}
    assert from_xml == from_json
    return {str(kind).removeprefix(RELATION): str(address) for kind, address in from_json.items()}


@pytest.mark.control("WEB-10")
@pytest.mark.control("CHAT-11")
@pytest.mark.kit
def test_host_meta_tells_web_clients_where_to_connect(target, evidence):
    for served in target.hosts:
        wanted = {}
        if target.variables["web_websocket_enabled"]:
            wanted["websocket"] = f"wss://{served.web}/xmpp-websocket"
        if target.variables["web_bosh_enabled"]:
            wanted["xbosh"] = f"https://{served.web}/http-bind"
        assert endpoints(target, served) == wanted
        evidence(f"{served.domain} -> {', '.join(wanted.values())}")


@pytest.mark.control("WEB-10")
@pytest.mark.control("CHAT-11")
@pytest.mark.kit
def test_a_websocket_opens_where_host_meta_says(target, evidence):
    for served in target.hosts:
        address = endpoints(target, served).get("websocket")
        if not address:
            pytest.skip("WebSocket is off")
        place = urlsplit(address)
        with connect(target, place.netloc) as channel:
            key = base64.b64encode(secrets.token_bytes(16)).decode()
            channel.send(
                f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"
                "Origin: https://client.example\r\n\r\n".encode()
            )
            answer = channel.receive().decode().lower()
        assert answer.startswith("http/1.1 101 "), answer.splitlines()[0]
        assert "\r\nsec-websocket-protocol: xmpp\r\n" in answer
        evidence(f"{address} -> 101")


@pytest.mark.control("WEB-10")
@pytest.mark.control("CHAT-11")
@pytest.mark.kit
def test_a_bosh_session_opens_where_host_meta_says(target, evidence):
    for served in target.hosts:
        address = endpoints(target, served).get("xbosh")
        if not address:
            pytest.skip("BOSH is off")
        place = urlsplit(address)
        body = (
            f"<body xmlns='http://jabber.org/protocol/httpbind' to='{served.domain}' rid='1' wait='5' hold='1' "
            "xml:lang='en' ver='1.6' xmlns:xmpp='urn:xmpp:xbosh' xmpp:version='1.0'/>"
        )
        response = ask(target, place.netloc, place.path, method="POST", body=body.encode())
        assert response.status == 200
        assert ET.fromstring(response.body).get("sid"), response.body
        evidence(f"{address} -> a session")


@pytest.mark.control("WEB-11")
@pytest.mark.kit
@pytest.mark.parametrize("method", ["DELETE", "TRACE", "PATCH", "CONNECT", "MADEUP"])
def test_methods_that_nothing_needs_are_refused(target, evidence, method):
    for name in https_names(target):
        for path in ("/.well-known/host-meta", "/xmpp-websocket", "/http-bind", "/upload/x"):
            with connect(target, name) as channel:
                refused = status(channel, f"{method} {path} HTTP/1.1\r\nHost: {name}\r\n\r\n")
            assert refused in (400, 404, 405), f"{method} https://{name}{path} -> {refused}"
    evidence(f"{method} -> 405, 404 where nothing is")


@pytest.mark.control("WEB-12")
@pytest.mark.kit
def test_the_version_is_not_given_away(target, evidence):
    for name in https_names(target):
        for path in ("/", "/missing"):
            response = ask(target, name, path)
            shown = response.headers.get("server", "")
            assert not re.search(r"\d", shown), shown
            assert not re.search(rb"nginx/\d", response.body)
            assert "x-powered-by" not in response.headers
        evidence(f"{name} -> Server: {shown}")


@pytest.mark.control("WEB-13")
def test_requests_leave_no_record(host, target: Target, evidence):
    if target.variables["web_access_log_enabled"]:
        pytest.skip("the access log was asked for")
    marker = secrets.token_hex(8)
    for name in https_names(target):
        ask(target, name, f"/{marker}")
    web.request(*target.at(HTTP), target.domain, f"/{marker}")
    with host.sudo():
        assert marker not in host.check_output("journalctl --quiet --no-pager --since=-1min _COMM=nginx _COMM=prosody")
        assert host.run("grep -rs %s /var/log/nginx /var/log/prosody", marker).stdout == ""
    evidence("neither nginx nor Prosody wrote down the path that was asked for")


@pytest.mark.control("WEB-14")
def test_nginx_is_confined(host, evidence):
    line = host.check_output("systemd-analyze security --no-pager nginx.service").splitlines()[-1]
    score = float(re.search(r"(\d+\.\d+)", line)[1])  # type: ignore[index]
    evidence(f"systemd-analyze security nginx -> {score}")
    assert score <= EXPOSURE


@pytest.mark.control("WEB-14")
def test_nginx_works_without_privileges(host, evidence):
    processes = [line.split(None, 1) for line in host.check_output("ps -C nginx -o user=,args=").splitlines()]
    workers = {user for user, arguments in processes if "worker process" in arguments}
    evidence(f"workers run as {', '.join(workers)}")
    assert workers == {"www-data"}


# Last, as the address it comes from is refused for two seconds.
@pytest.mark.control("WEB-07")
@pytest.mark.kit
def test_a_burst_of_requests_is_bounded(target, evidence):
    name, (method, path) = next(iter(passed_on(target, target.hosts[0]).items()), ("", ("", "")))
    if not name:
        pytest.skip(NOTHING_PASSED_ON)
    rate = int(target.variables["web_requests_per_second"])
    count = 2 * rate + 4 * rate
    with connect(target, name) as channel:
        start = time.monotonic()
        channel.send(f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nContent-Length: 0\r\n\r\n".encode() * count)
        answer = b""
        while answer.count(b"HTTP/1.1 ") < count and (data := channel.receive()):
            answer += data
        seconds = time.monotonic() - start
    refused = answer.count(b"HTTP/1.1 429 ")
    evidence(f"{count} requests in {seconds:.1f} s -> {refused} refused (429)")
    try:
        assert refused >= count - 2 * rate - rate * (seconds + 1)
        assert refused > 0
    finally:
        time.sleep(2.5)
