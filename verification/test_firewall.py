"""The firewall, attacked from here and, on a host that may be thrown away, from a network of its own."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator

import pytest

from verification.probes import ports, xmpp
from verification.probes.stranger import Stranger

SSH = 22
WELL_KNOWN = range(1, 1025)
ALL = range(1, 65536)
UNDECLARED = 47999  # no service of the kit or of Debian listens there
UDP = (53, 123, 161, 500, 1900, 3478, 5353, UNDECLARED)

UNDECLARED_UNIT = "portcullis-undeclared"
IPV4_AND_IPV6 = [
    pytest.param(4, marks=pytest.mark.control("FW-01"), id="IPv4"),
    pytest.param(6, marks=pytest.mark.control("FW-02"), id="IPv6"),
]


@pytest.fixture
def declared(target) -> set[int]:
    """The TCP ports that may answer: SSH, those of the kit's services, and the operator's own."""
    variables = target.variables
    found = {int(variables["firewall_ssh_port"]), 80, 443, 5222, 5223} | ({5269, 5270} if target.federates else set())
    return found | opened_by_operator(target, "tcp")


def opened_by_operator(target, protocol: str) -> set[int]:
    """The ports that the operator opened for services of their own."""
    found: set[int] = set()
    for entry in target.variables["firewall_open_ports"]:
        if entry.get("protocol", "tcp") == protocol:
            first, _, last = str(entry["port"]).partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def address(request, host, target, declared) -> str:
    """An address on which every port of the host, and of no other, is reached from here."""
    if target.ports:
        pytest.skip("not shown: only published ports of the host are reached from here")
    if request.param == 4:
        return target.address
    for interface in json.loads(host.check_output("ip -json -6 address show scope global")):
        for assigned in filter(None, interface.get("addr_info", [])):  # ip leaves {} for what the scope leaves out
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as connection:
                connection.settimeout(2)
                if not connection.connect_ex((assigned["local"], xmpp.C2S)):
                    return assigned["local"]
    pytest.skip("not shown: the host is not reached over IPv6 from here")


@pytest.fixture(scope="module")
def stranger(host, target) -> Iterator[Stranger]:
    """Somebody on a network of their own, while the host has a service that nobody declared."""
    if not target.throw_away:
        pytest.skip("not shown: adds a network to the host, and this one is not to be thrown away")
    serve = f"python3 -m http.server --bind :: --directory /usr/share/doc {UNDECLARED}"
    stop = f"systemctl stop {UNDECLARED_UNIT}"
    with host.sudo():
        host.run(stop)
        host.check_output(f"systemd-run --quiet --collect --unit={UNDECLARED_UNIT} {serve}")
        host.check_output(f"timeout 10 sh -c 'until ss -Hltn sport = {UNDECLARED} | grep -q .; do sleep 0.1; done'")
    with Stranger(host, "stranger", 0) as stranger:
        yield stranger
    with host.sudo():
        host.run(stop)


def answers_to(stranger: Stranger, version: int, tried: range, wait: float) -> dict[int, str]:
    """What the host answers to the stranger (see ports.answering)."""
    found = stranger.call(ports, "answering", stranger.host_address[version], tried, wait)
    return {int(port): answer for port, answer in found.items()}


def undeclared(answers: dict[int, str], declared: set[int]) -> str:
    """The ports that answer and should not, for the message."""
    return ", ".join(f"{port} {answer}" for port, answer in sorted(answers.items()) if port not in declared)


def addresses_of(sources: list[str], version: int) -> list:
    """The networks of one IP version among an operator's sources."""
    return [network for network in map(ipaddress.ip_network, sources) if network.version == version]


@pytest.mark.control("FW-01")
@pytest.mark.control("FW-02")
def test_only_declared_ports_answer(host, target, address, declared, evidence):
    with host.sudo():
        listening = {int(line.split()[3].rpartition(":")[2]) for line in host.check_output("ss -Hltn").splitlines()}
    tried = set(ALL) if target.throw_away else {*WELL_KNOWN, *listening, UNDECLARED}
    answers = ports.answering(address, tried, wait=0.3 if target.throw_away else 2)
    opened = sorted(port for port, answer in answers.items() if answer == "open")
    evidence(f"{address}: of {len(tried)} ports {', '.join(map(str, opened))} are open")
    assert opened, "nothing answers: this is not the host"
    assert not undeclared(answers, declared)


@pytest.mark.parametrize("version", IPV4_AND_IPV6)
def test_a_service_that_nobody_declared_is_out_of_reach(stranger, declared, evidence, version):
    answers = answers_to(stranger, version, ALL, wait=0.2)
    evidence(f"a stranger over IPv{version}: of 65535 ports {', '.join(map(str, answers))} answer")
    assert answers, "nothing answers: the stranger is not connected"
    assert UNDECLARED not in answers
    assert not undeclared(answers, declared)


@pytest.mark.parametrize("version", IPV4_AND_IPV6)
def test_udp_is_not_answered(stranger, target, evidence, version):
    code = f"""
import socket
for port in {UDP}:
    with socket.socket(socket.AF_INET{"6" if version == 6 else ""}, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.3)
        probe.connect(({stranger.host_address[version]!r}, port))
        try:
            probe.send(b"anybody there?")
            probe.recv(1)
        except TimeoutError:
            continue
        except ConnectionRefusedError:
            pass
        print(port)
"""
    answering = {int(port) for port in stranger.run(code).split()} - opened_by_operator(target, "udp")
    evidence(f"a stranger over IPv{version}: UDP ports {', '.join(map(str, UDP))} are silent")
    assert not answering


@pytest.mark.control("FW-03")
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_packets_for_others_are_not_forwarded(host, stranger, evidence, version):
    switch = f"net.ipv4.conf.{stranger.cable}.forwarding" if version == 4 else "net.ipv6.conf.all.forwarding"
    count = "nft --json list counter inet portcullis unforwarded"
    code = f"""
import socket
with socket.socket(socket.AF_INET{"6" if version == 6 else ""}, socket.SOCK_STREAM) as probe:
    probe.settimeout(0.5)
    print(probe.connect_ex(({stranger.elsewhere[version]!r}, 80)))
"""

    def dropped() -> int:
        return next(o["counter"]["packets"] for o in json.loads(host.check_output(count))["nftables"] if "counter" in o)

    with host.sudo():
        before, setting = dropped(), host.check_output(f"sysctl -n {switch}")
        host.check_output(f"sysctl -qw {switch}=1")
        try:
            stranger.run(code)
            after = dropped()
        finally:
            host.check_output(f"sysctl -qw {switch}={setting}")
    evidence(f"a stranger over IPv{version}: {after - before} packets for {stranger.elsewhere[version]} dropped")
    assert after > before


@pytest.mark.control("FW-04")
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_echo_is_answered_in_measure(stranger, evidence, version):
    sent = 200
    family, protocol, request = ("AF_INET", 1, 8) if version == 4 else ("AF_INET6", 58, 128)
    code = f"""
import socket
with open("/proc/sys/net/ipv4/ping_group_range", "w") as setting:
    setting.write("0 0")
with socket.socket(socket.{family}, socket.SOCK_DGRAM, {protocol}) as probe:
    probe.settimeout(0.5)
    for number in range({sent}):
        probe.sendto(bytes([{request}, 0, 0, 0, 0, 0, 0, number]), ({stranger.host_address[version]!r}, 0))
    count = 0
    try:
        while probe.recv(100):
            count += 1
    except TimeoutError:
        print(count)
"""
    answered = int(stranger.run(code))
    evidence(f"a stranger over IPv{version}: {answered} of {sent} echo requests are answered")
    assert 0 < answered < sent


@pytest.mark.control("FW-04")
def test_errors_and_neighbours_get_through(host, evidence):
    with host.sudo():
        rules = host.check_output("nft --stateless list chain inet portcullis control_messages")
    messages = ("packet-too-big", "destination-unreachable", "time-exceeded", "nd-neighbor-solicit", "nd-router-advert")
    assert [message for message in messages if message not in rules] == []
    evidence("ICMP errors, packet-too-big and neighbour discovery are accepted")


@pytest.mark.control("FW-05")
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_ssh_is_for_its_sources(stranger, target, evidence, version):
    port = int(target.variables["firewall_ssh_port"])
    sources = addresses_of(target.variables["firewall_ssh_sources"], version)
    allowed = any(ipaddress.ip_address(stranger.address[version]) in network for network in sources)
    answers = answers_to(stranger, version, range(port, port + 1), wait=1)
    evidence(f"{stranger.address[version]}: {answers.get(port, 'silence')}; sources {', '.join(map(str, sources))}")
    assert (port in answers) == allowed


@pytest.mark.control("FW-06")
def test_rules_are_loaded_before_the_network(host, evidence):
    properties = host.check_output("systemctl show nftables --property=ActiveState,UnitFileState,Before")
    assert "ActiveState=active" in properties
    assert "UnitFileState=enabled" in properties
    assert "network-pre.target" in properties
    evidence("nftables.service is active, and enabled before network-pre.target")


@pytest.mark.control("FW-06")
def test_rules_in_force_are_those_on_disk(host, evidence):
    """Load the files into a network of their own and compare; what is added while running (bans) does not count."""
    listing = "nft --stateless --terse list table inet portcullis"
    with host.sudo():
        in_force = host.check_output(listing)
        loaded = host.run("unshare --net sh -c %s", f"nft --file /etc/nftables.conf && {listing}")
    if loaded.rc:
        pytest.skip(f"not shown: {loaded.stderr.strip()}")
    assert in_force == loaded.stdout.strip()
    evidence(f"{len(in_force.splitlines())} lines, the same in the kernel as in /etc/nftables.conf and /etc/nftables.d")


@pytest.mark.control("FW-06")
def test_nobody_but_root_changes_the_rules(host):
    for path in ("/etc/nftables.conf", "/etc/nftables.d", "/usr/local/lib/portcullis/firewall-load"):
        file = host.file(path)
        assert (file.user, file.group) == ("root", "root"), path
        assert not file.mode & 0o022, path
