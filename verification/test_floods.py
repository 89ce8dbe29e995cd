"""Crowds of connections from one source, while others want in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from verification.probes import crowd
from verification.probes.stranger import Stranger

pytestmark = pytest.mark.alone  # where the set of sources is full, this machine waits as well

FIRST_RETRY = 1.0  # second after which a kernel sends its first packet again (RFC 6298)
GATES = {
    "clients": (5222, "firewall_client_limits"),
    "servers": (5269, "firewall_server_limits"),
    "web": (443, "firewall_web_limits"),
}
SERVICE = "portcullis-service"
SERVE = {
    "tcp": """
import signal, socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
signal.pause()
""",
    "udp": """
import socket, sys
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(("::", int(sys.argv[1])))
while True:
    server.sendto(*server.recvfrom(100))
""",
}
CROWDS = {"tcp": "crowd", "udp": "packets"}  # the functions of the probe
ip_versions = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def stranger(host, target) -> Iterator[Stranger]:
    """Somebody with more than one address, on a network of their own."""
    if not target.throw_away:
        pytest.skip("not shown: floods the host, and this one is not to be thrown away")
    with Stranger(host, "crowd", 1) as stranger:
        yield stranger


@pytest.fixture
def gate(request, target) -> tuple[int, dict[str, int]]:
    """A port and its limits."""
    port, variable = GATES[request.param]
    if request.param == "servers" and not target.federates:
        pytest.skip("federation is off")
    return port, target.variables[variable]


@pytest.fixture
def service(request, host, target) -> Iterator[tuple[str, int, dict[str, int]]]:
    """A service that is not of the kit, where the operator opened a port with limits: its protocol, port, limits."""
    for entry in target.variables["firewall_open_ports"]:
        if "limits" in entry and "sources" not in entry and entry.get("protocol", "tcp") == request.param:
            break
    else:
        pytest.skip(f"no {request.param.upper()} port of the operator has limits")
    port = int(str(entry["port"]).partition("-")[0])
    serve = f"systemd-run --quiet --collect --unit={SERVICE} python3 -c %s {port}"
    with host.sudo():
        host.run(f"systemctl stop {SERVICE}")
        host.check_output(serve, SERVE[request.param])
        host.check_output(
            f"timeout 10 sh -c 'until ss -Hln{request.param[0]} sport = {port} | grep -q .; do sleep 0.1; done'"
        )
    yield request.param, port, entry["limits"]
    with host.sudo():
        host.run(f"systemctl stop {SERVICE}")


def meet(stranger: Stranger, version: int, port: int, number: int, wait: float, by: str = "crowd") -> dict[str, float]:
    """What becomes of the stranger's crowd, and of somebody else who comes after it (see crowd.crowd, .packets)."""
    return stranger.call(crowd, by, stranger.host_address[version], port, number, wait, stranger.neighbour[version])


@pytest.mark.control("FLOOD-20")
@ip_versions
@pytest.mark.parametrize("gate", GATES, indirect=True)
def test_new_connections_of_a_source_are_bounded(stranger, target, gate, version, evidence):
    port, limits = gate
    if port == 443 and not any(
        address.startswith("[") == (version == 6) for address in target.variables["web_addresses"]
    ):
        pytest.skip(f"nothing listens on {port} over IPv{version}")
    number, wait = limits["burst"] + 100, 0.9 * FIRST_RETRY
    flood = meet(stranger, version, port, number, wait)
    evidence(
        f"{port}, IPv{version}: of {number} connections at once {flood['opened']} are let in; "
        f"another source {'is served' if flood['served'] else 'is kept out'}"
    )
    assert 0 < flood["opened"] <= limits["burst"] + limits["rate"] * (flood["seconds"] + FIRST_RETRY)
    assert flood["served"]


@pytest.mark.control("FLOOD-20")
@ip_versions
@pytest.mark.parametrize("service", ["tcp", "udp"], indirect=True)
def test_a_service_of_the_operator_has_its_limits(stranger, service, version, evidence):
    protocol, port, limits = service
    number, wait = limits["burst"] + 100, 0.9 * FIRST_RETRY
    flood = meet(stranger, version, port, number, wait, CROWDS[protocol])
    evidence(
        f"{port} ({protocol.upper()}), IPv{version}: of {number} at once {flood['opened']} are let in; "
        f"another source {'is served' if flood['served'] else 'is kept out'}"
    )
    assert 0 < flood["opened"] <= limits["burst"] + limits["rate"] * (flood["seconds"] + FIRST_RETRY)
    assert flood["served"]


@pytest.mark.control("FLOOD-20")
@ip_versions
def test_open_connections_of_a_source_are_bounded(host, stranger, target, version, evidence):
    limits = target.variables["firewall_client_limits"]
    number, wait = limits["connections"] + 50, 8 * FIRST_RETRY
    if limits["burst"] + limits["rate"] * wait < number:
        pytest.skip("not shown: the rate does not let as many in while Prosody waits for a login")
    with host.sudo():
        host.check_output(f"nft flush set inet portcullis clients_rate{version}")
    flood = meet(stranger, version, 5222, number, wait)
    evidence(
        f"5222, IPv{version}: of {number} connections kept open {flood['refused']} are refused; "
        f"another source {'is served' if flood['served'] else 'is kept out'}"
    )
    assert 0 < flood["opened"] <= limits["connections"]
    assert flood["refused"] > 0
    assert flood["served"]


@pytest.fixture
def full_set(host, stranger, target) -> Iterator[None]:
    """As many sources as the clients' gate can tell apart have come by, the stranger's neighbour among them."""
    table = "set inet portcullis clients_rate4"
    others = target.variables["firewall_tracked_sources"] - 1
    fill = f"""
import ipaddress
others = [str(ipaddress.ip_address("10.0.0.0") + number) for number in range({others})]
print("add element inet portcullis clients_rate4 {{", ", ".join(others), "}}")
"""
    with host.sudo():
        host.check_output(f"nft flush {table}")
    assert stranger.call(crowd, "connects", stranger.host_address[4], 5222, FIRST_RETRY, stranger.neighbour[4])
    with host.sudo():
        host.check_output("python3 -c %s | nft --file -", fill)
    yield
    with host.sudo():
        host.check_output(f"nft flush {table}")


@pytest.mark.control("FLOOD-20")
@pytest.mark.usefixtures("full_set")
def test_sources_beyond_a_full_set_share_one_allowance(host, stranger, target, evidence):
    limits = target.variables["firewall_client_limits"]
    number, wait = limits["burst"] + 100, 0.9 * FIRST_RETRY
    flood = meet(stranger, 4, 5222, number, wait)
    assert 0 < flood["opened"] <= limits["burst"] + limits["rate"] * (flood["seconds"] + FIRST_RETRY)
    assert flood["served"], "a source that has a place of its own is kept out by those that have none"
    element = "element inet portcullis clients_rate4 '{ %s }'"
    with host.sudo():
        host.check_output(f"nft delete {element % stranger.neighbour[4]} && nft add {element % '11.0.0.1'}")
    share = meet(stranger, 4, 5222, number, wait)
    evidence(
        f"{target.variables['firewall_tracked_sources']} sources are known; of a crowd beyond them {flood['opened']} "
        "are let in, a known source is served, another new one has to wait"
    )
    assert not share["served"], "a source that has no place of its own has an allowance of its own"
