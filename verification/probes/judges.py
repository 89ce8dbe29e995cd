"""Judges that are not ours, asked in their own words: sslyze from Python, testssl.sh as Debian packages it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sslyze
from nassl.ssl_client import ClientCertificateRequested
from sslyze.__version__ import __version__ as SSLYZE_VERSION
from sslyze.connection_helpers.tls_connection import NoCiphersAvailableBugInSSlyze
from sslyze.errors import ServerRejectedTlsHandshake, ServerTlsConfigurationNotSupported, TlsHandshakeTimedOut
from sslyze.mozilla_tls_profile import tls_config_checker as mozilla
from sslyze.plugins.openssl_cipher_suites import _test_cipher_suite as sslyze_suites
from sslyze.plugins.openssl_cipher_suites._tls12_workaround import WorkaroundForTls12ForCipherSuites
from sslyze.plugins.openssl_cipher_suites.cipher_suites import CipherSuite, CipherSuitesRepository
from sslyze.scanner.models import CipherSuitesScanAttempt
from sslyze.server_connectivity import ServerConnectivityInfo

from verification.targets import Target

from . import xmpp

HTTPS = 443
PORTS = (xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT, HTTPS)
PROFILE = mozilla.TlsConfigurationEnum.MOZILLA_INTERMEDIATE
STARTTLS = {xmpp.C2S: "xmpp", xmpp.S2S: "xmpp-server"}
OPPORTUNISTIC = {
    xmpp.C2S: sslyze.ProtocolWithOpportunisticTlsEnum.XMPP,
    xmpp.S2S: sslyze.ProtocolWithOpportunisticTlsEnum.XMPP_SERVER,
}
VERSIONS = {
    sslyze.ScanCommand.SSL_2_0_CIPHER_SUITES: sslyze.TlsVersionEnum.SSL_2_0,
    sslyze.ScanCommand.SSL_3_0_CIPHER_SUITES: sslyze.TlsVersionEnum.SSL_3_0,
    sslyze.ScanCommand.TLS_1_0_CIPHER_SUITES: sslyze.TlsVersionEnum.TLS_1_0,
    sslyze.ScanCommand.TLS_1_1_CIPHER_SUITES: sslyze.TlsVersionEnum.TLS_1_1,
    sslyze.ScanCommand.TLS_1_2_CIPHER_SUITES: sslyze.TlsVersionEnum.TLS_1_2,
    sslyze.ScanCommand.TLS_1_3_CIPHER_SUITES: sslyze.TlsVersionEnum.TLS_1_3,
}
TESTSSL_TIME = 900  # seconds for one port
SOME = 3  # names of a list that is told
FINDINGS = {"LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"}
# What testssl.sh says and is set aside, in the open, with the reason.
SET_ASIDE = {
    "cipher_order": "the client may choose, as Mozilla advises: TLS-04 shows that each suite is good",
    "cert_revocation": "XMPP clients and servers ask for no revocation; a certificate is replaced",
    "DNS_CAArecord": "it is about the domain's DNS, not about a port",
}


class Speechless(Exception):
    """A judge came to no verdict; the text is what it said."""


@dataclass(frozen=True)
class Opinion:
    """What a judge says of a port: a line in its own words, and what it wants mended."""

    line: str
    findings: list[str]


def against_mozilla(target: Target, ports: list[int]) -> Iterator[tuple[int, Opinion]]:
    """sslyze's opinion of each port by Mozilla's intermediate profile. Raises Speechless.

    Its own way to find the suites is a connection for each of over 500, which a server that bounds the connections of
    a source makes wait for minutes: they are found with sslyze's clients, but together (see suites). What is left is
    60 for a port, so the ports that share their bounds come one after the other, or others would have to wait.
    """
    direct = [port for port in ports if port in xmpp.DIRECT_TLS]
    for some in filter(None, (direct, [port for port in ports if port not in direct])):
        yield from _against_mozilla(target, some)


def _against_mozilla(target: Target, ports: list[int]) -> Iterator[tuple[int, Opinion]]:
    roots = sslyze.CertificateInfoExtraArgument(custom_ca_file=target.ca_file)
    requests = {}
    for standard in ports:
        address, port = target.at(standard)
        starttls = OPPORTUNISTIC.get(standard)
        requests[standard] = sslyze.ServerScanRequest(
            sslyze.ServerNetworkLocation(target.domain, port, ip_address=address),
            sslyze.ServerNetworkConfiguration(
                tls_server_name_indication=target.domain,
                tls_opportunistic_encryption=starttls,
                xmpp_to_hostname=target.domain if starttls else None,
            ),
            scan_commands=mozilla.SCAN_COMMANDS_NEEDED_BY_MOZILLA_CHECKER - set(VERSIONS),
            scan_commands_extra_arguments=sslyze.ScanCommandsExtraArguments(certificate_info=roots),
        )
    scanner = sslyze.Scanner()
    scanner.queue_scans(list(requests.values()))
    standards = {request.uuid: standard for standard, request in requests.items()}
    for result in scanner.get_results():
        yield standards[result.uuid], _by_mozilla(_with_suites(result))


def _with_suites(result: sslyze.ServerScanResult) -> sslyze.ServerScanResult:
    """The result of a scan, and the suites that the server takes in each version."""
    if result.connectivity_result is None or result.scan_result is None:
        return result
    server = ServerConnectivityInfo(result.server_location, result.network_configuration, result.connectivity_result)
    with ThreadPoolExecutor(len(VERSIONS)) as pool:
        found = dict(zip(VERSIONS, pool.map(lambda version: suites(server, version), VERSIONS.values()), strict=True))
    completed = sslyze.ScanCommandAttemptStatusEnum.COMPLETED
    attempts: dict[str, Any] = {
        command.value: CipherSuitesScanAttempt(
            status=completed, error_reason=None, error_trace=None, result=suites_found
        )
        for command, suites_found in found.items()
    }
    return dataclasses.replace(result, scan_result=dataclasses.replace(result.scan_result, **attempts))


def suites(server: ServerConnectivityInfo, version: sslyze.TlsVersionEnum) -> sslyze.CipherSuitesScanResult:
    """The suites that a server takes: all are offered, what it chooses is left out the next time, until it refuses.

    A connection for each that is taken and one more; the answer is the same as when each is offered alone.
    """
    accepted: list[Any] = []
    rejected: list[Any] = []
    known = CipherSuitesRepository.get_all_cipher_suites(version)
    for legacy in (True, False):
        remaining = [suite for suite in known if _needs_old_openssl(version, suite) == legacy]
        while remaining:
            try:
                name, key = _choice(server, version, remaining, legacy)
            except (ServerRejectedTlsHandshake, TlsHandshakeTimedOut) as refused:
                words = refused.error_message
                rejected += [sslyze.CipherSuiteRejectedByServer(suite, words) for suite in remaining]
                break
            except ServerTlsConfigurationNotSupported:  # its key is too weak for OpenSSL, which does not tell the suite
                for suite in remaining:
                    with contextlib.suppress(NoCiphersAvailableBugInSSlyze):
                        answer = sslyze_suites.connect_with_cipher_suite(server, version, suite)
                        taken_alone = isinstance(answer, sslyze.CipherSuiteAcceptedByServer)
                        (accepted if taken_alone else rejected).append(answer)
                break
            except NoCiphersAvailableBugInSSlyze:  # what is left is of another version, as sslyze says itself
                break
            taken = next(suite for suite in remaining if suite.openssl_name == name)
            remaining.remove(taken)
            accepted.append(sslyze.CipherSuiteAcceptedByServer(taken, key))
    return sslyze.CipherSuitesScanResult(version, accepted, rejected)


def _needs_old_openssl(version: sslyze.TlsVersionEnum, suite: CipherSuite) -> bool:
    if version == sslyze.TlsVersionEnum.TLS_1_2:
        return bool(WorkaroundForTls12ForCipherSuites.requires_legacy_openssl(suite.openssl_name))
    return version != sslyze.TlsVersionEnum.TLS_1_3


def _choice(
    server: ServerConnectivityInfo, version: sslyze.TlsVersionEnum, offered: list[CipherSuite], legacy: bool
) -> tuple[str, sslyze.EphemeralKeyInfo | None]:
    """The suite that a server chooses, by OpenSSL's name, and its key. Raises what sslyze's connect does."""
    connection = server.get_preconfigured_tls_connection(override_tls_version=version, should_use_legacy_openssl=legacy)
    client = connection.ssl_client
    sslyze_suites._set_cipher_suite_string(version, ":".join(suite.openssl_name for suite in offered), client)
    try:
        with contextlib.suppress(ClientCertificateRequested):  # it has chosen by then
            connection.connect()
        return client.get_current_cipher_name(), client.get_ephemeral_key()
    finally:
        connection.close()


def _by_mozilla(result: sslyze.ServerScanResult) -> Opinion:
    name = f"sslyze {SSLYZE_VERSION}, Mozilla's {PROFILE.value} profile"
    try:
        mozilla.check_server_against_tls_configuration(result, mozilla.MozillaTlsConfiguration.get(PROFILE))
    except mozilla.ServerNotCompliantWithTlsConfiguration as wrong:
        return Opinion(f"{name} -> not as it wants", [_listed(issue) for issue in wrong.issues.values()])
    except mozilla.ServerScanResultIncomplete as incomplete:
        trace = result.connectivity_error_trace
        raise Speechless(f"{name}: {trace.exc_type.__name__ if trace else incomplete}") from incomplete
    return Opinion(f"{name} -> compliant", [])


def _listed(issue: str) -> str:
    """An issue of sslyze's with its sets of names, which have no order, as lists that are not too long."""

    def several(found: re.Match[str]) -> str:
        names = sorted(name.strip(" '") for name in found[1].split(","))
        return ", ".join([*names[:SOME], *([f"{len(names) - SOME} more"] if len(names) > SOME else [])])

    return re.sub(r"\{('[^{}]*')\}", several, issue)


def testssl() -> str | None:
    """The program, by the name that Debian or its authors give it; None where it is not installed."""
    return shutil.which("testssl") or shutil.which("testssl.sh")


def by_testssl(target: Target, standard: int) -> Opinion:
    """What testssl.sh says of a port. It takes minutes. Raises Speechless."""
    program = testssl()
    assert program, "testssl.sh is not installed"
    address, port = target.at(standard)
    starttls = ["--starttls", STARTTLS[standard], "--xmpphost", target.domain] if standard in STARTTLS else []
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:
        told = Path(directory) / "testssl.json"
        words = [program, "--warnings", "batch", "--quiet", "--color", "0", "--ip", address, "--jsonfile", str(told)]
        words += [*starttls, "--add-ca", str(target.ca_file), f"{target.domain}:{port}"]
        run = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TESTSSL_TIME, check=False
        )
        try:
            entries = json.loads(told.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Speechless(f"testssl.sh: {run.stdout.strip()[-300:] or error}") from error
    return read_testssl(entries)


def read_testssl(entries: Sequence[Mapping[str, str]]) -> Opinion:
    """An opinion by the entries of testssl.sh's JSON."""
    said = {entry["id"]: entry["finding"] for entry in entries}
    grade = f", grade {said['overall_grade']}" if "overall_grade" in said else ""
    found = [entry for entry in entries if entry["severity"] in FINDINGS and not entry["id"].startswith("overall_")]
    findings = [entry for entry in found if entry["id"] not in SET_ASIDE]
    aside = "; ".join(f"set aside {entry['id']}: {SET_ASIDE[entry['id']]}" for entry in found if entry not in findings)
    line = f"testssl.sh: {len(entries)} checks{grade} -> {len(findings) or 'no'} findings; {aside}".rstrip("; ")
    return Opinion(line, [f"{entry['severity']} {entry['id']}: {entry['finding']}" for entry in findings])
