"""sslyze's suites, found together: the same as each offered alone."""

from __future__ import annotations

import contextlib
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sslyze
from sslyze.connection_helpers.tls_connection import NoCiphersAvailableBugInSSlyze
from sslyze.plugins.openssl_cipher_suites._test_cipher_suite import connect_with_cipher_suite
from sslyze.plugins.openssl_cipher_suites.cipher_suites import CipherSuite, CipherSuitesRepository
from sslyze.server_connectivity import ServerConnectivityInfo, check_connectivity_to_server

from verification.probes import forgery, judges

SOME = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA"


class Server(socketserver.ThreadingTCPServer):
    """A TLS server on loopback that takes some suites, and counts its connections."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handshake)
        pair = forgery.self_signed(directory, "server.example")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.certificate, pair.key)
        self.context.set_ciphers(SOME)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.connections = 0


class Handshake(socketserver.BaseRequestHandler):
    """One handshake, and the end of the connection when the client has gone."""

    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        with contextlib.suppress(OSError), self.server.context.wrap_socket(self.request, server_side=True) as encrypted:
            encrypted.recv(1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """The server."""
    with Server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture
def known(server: Server) -> ServerConnectivityInfo:
    """The server as sslyze knows it."""
    port = server.server_address[1]
    location = sslyze.ServerNetworkLocation("server.example", port, ip_address="127.0.0.1")
    configuration = sslyze.ServerNetworkConfiguration("server.example")
    probed = check_connectivity_to_server(location, configuration)
    return ServerConnectivityInfo(location, configuration, probed)


def is_taken(known: ServerConnectivityInfo, version: sslyze.TlsVersionEnum, suite: CipherSuite) -> bool:
    """sslyze's own answer."""
    try:
        return isinstance(connect_with_cipher_suite(known, version, suite), sslyze.CipherSuiteAcceptedByServer)
    except NoCiphersAvailableBugInSSlyze:  # the suite is of another version
        return False


@pytest.mark.parametrize(
    "version", [sslyze.TlsVersionEnum.TLS_1_0, sslyze.TlsVersionEnum.TLS_1_2, sslyze.TlsVersionEnum.TLS_1_3]
)
def test_suites_found_together_are_those_found_alone(server: Server, known, version: sslyze.TlsVersionEnum) -> None:
    before = server.connections
    found = judges.suites(known, version)
    connections = server.connections - before
    suites = CipherSuitesRepository.get_all_cipher_suites(version)
    alone = {suite.name for suite in suites if is_taken(known, version, suite)}
    assert {taken.cipher_suite.name for taken in found.accepted_cipher_suites} == alone
    assert bool(alone) == (version != sslyze.TlsVersionEnum.TLS_1_0)
    assert connections <= len(alone) + 2


def test_ports_that_share_their_bounds_are_not_scanned_at_the_same_time(monkeypatch):
    together: list[list[int]] = []
    nobody: Any = None

    def scan(_: Any, ports: list[int]) -> Iterator[tuple[int, judges.Opinion]]:
        together.append(ports)
        return iter(())

    monkeypatch.setattr(judges, "_against_mozilla", scan)
    for ports in (list(judges.PORTS), [443], []):
        assert not list(judges.against_mozilla(nobody, ports))
    assert together == [[5223, 5270], [5222, 5269, 443], [443]]
