"""Those who guess passwords are banned, for a time, and nobody else is."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

from verification.probes import crowd
from verification.probes.stranger import Stranger
from verification.targets import Target

SERVICES = (5222, 5223, 80, 443)
PATIENCE = 30  # seconds, for fail2ban to read the journal
WAIT = 0.9  # second for a connection to open, before the kernel's first retry
PROGRAM = "/usr/local/sbin/portcullis-bans"

Bans = Callable[..., str]


@pytest.fixture(scope="module")
def stranger(host, target) -> Iterator[Stranger]:
    """Somebody on a network of their own."""
    if not target.throw_away:
        pytest.skip("not shown: gets addresses banned, and this host is not to be thrown away")
    with Stranger(host, "guesser", 2) as stranger:
        yield stranger


@pytest.fixture
def bans(host: Host, stranger: Stranger) -> Iterator[Bans]:
    """A function that runs portcullis-bans with the words given to it; in the end the stranger is not banned."""

    def run(*words: str) -> str:
        with host.sudo():
            return host.check_output(" ".join([PROGRAM, *words]))

    yield run
    with host.sudo():
        for address in (*stranger.address.values(), *stranger.neighbour.values()):
            host.run(f"{PROGRAM} lift {address}")


def is_let_in(stranger: Stranger, port: int, version: int = 4, source: str | None = None) -> bool:
    """Whether the host takes a connection of the stranger's."""
    return stranger.call(crowd, "connects", stranger.host_address[version], port, WAIT, source)


def guess_until_banned(stranger: Stranger, target: Target, bans: Bans, times: int) -> tuple[list[str], str]:
    """Guess a password over and over; the answers, and what the operator is shown of the ban."""
    answers = stranger.call(crowd, "guess", stranger.host_address[4], 5223, f"nobody@{target.domain}", times)
    deadline = time.monotonic() + PATIENCE
    while (listing := line_about(stranger.address[4], bans())) is None:
        assert time.monotonic() < deadline, f"{len(answers)} guesses, and no ban"
        time.sleep(0.2)
    return answers, listing


def line_about(address: str, listing: str) -> str | None:
    """What the list of bans says of an address."""
    return next((line for line in listing.splitlines() if line.split()[0] == address), None)


def seconds_left(line: str | None) -> int:
    """The time that a line of the list tells; none where there is no line."""
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (d|h|min|s)\b", line or ""))


@pytest.mark.control("FLOOD-23")
def test_guessing_leads_to_a_ban(host, stranger, target, bans, evidence):
    over_ssh = is_let_in(stranger, target.variables["firewall_ssh_port"])
    answers, listing = guess_until_banned(stranger, target, bans, target.variables["bans_login_failures"])
    evidence(f"{len(answers)} guesses ({', '.join(sorted(set(answers)))}) -> {listing}")
    assert "banned from services" in listing
    closed = [port for port in SERVICES if not is_let_in(stranger, port)]
    assert closed == list(SERVICES)
    still = is_let_in(stranger, target.variables["firewall_ssh_port"])
    assert still == over_ssh, "a guess over XMPP must not lock out of SSH"
    assert is_let_in(stranger, 5222, source=stranger.neighbour[4])
    evidence(f"{stranger.address[4]} is refused on {', '.join(map(str, SERVICES))}, another source is not")

    evidence(bans("lift", stranger.address[4]))
    assert is_let_in(stranger, 5222)


@pytest.fixture
def hasty_jail(host, stranger, target) -> Iterator[int]:
    """fail2ban bans the stranger, and nobody else, sooner and for a shorter time: the seconds of a first ban."""

    def set_jail(**settings: object) -> None:
        with host.sudo():
            for name, value in settings.items():
                host.check_output(f"fail2ban-client set portcullis-xmpp {name} {value}")

    # In this order: others guess passwords meanwhile, from where these tests run.
    set_jail(ignorecommand=f"'test <ip> != {stranger.address[4]}'", bantime=10, maxretry=6)
    yield 10
    set_jail(
        maxretry=target.variables["bans_login_failures"], bantime=target.variables["bans_duration"], ignorecommand="''"
    )


@pytest.mark.control("FLOOD-23")
def test_a_further_ban_lasts_longer(stranger, target, bans, hasty_jail, evidence):
    _, first = guess_until_banned(stranger, target, bans, 6)
    deadline = time.monotonic() + PATIENCE
    while line_about(stranger.address[4], bans()):
        assert time.monotonic() < deadline, f"a ban of {hasty_jail} seconds does not end"
        time.sleep(0.2)
    _, second = guess_until_banned(stranger, target, bans, 6)
    while seconds_left(second) <= 1.5 * hasty_jail:  # fail2ban bans at once and looks into the past then
        listing = line_about(stranger.address[4], bans())
        assert listing, f"the second ban ends like the first: {first}"
        second = listing
    evidence(f"{first}; again -> {second}")


@pytest.mark.control("FLOOD-23")
def test_the_end_of_a_ban_ends_no_other(host, stranger, target, bans, hasty_jail, evidence):
    guess_until_banned(stranger, target, bans, 6)
    network = ipaddress.ip_network(f"{stranger.address[4]}/30", strict=False)
    bans("add", "--for", "3000", str(network))
    with host.sudo():
        host.check_output(f"fail2ban-client set portcullis-xmpp unbanip {stranger.address[4]}")
    left = seconds_left(line_about(str(network), bans()))
    evidence(f"fail2ban's ban ends, the operator's of the network is in force for {left} s more")
    assert left > 2900
    assert not is_let_in(stranger, 5222)


@pytest.mark.control("FLOOD-23")
def test_a_ban_that_is_prolonged_is_never_off(host, stranger, bans, evidence):
    add = f"{PROGRAM} add {stranger.address[4]}"
    # nft itself is interrupted now and then, by the change that it looks at.
    gone = f"nft get element inet portcullis_bans services4 '{{ {stranger.address[4]} }}' 2>&1 | grep -q 'No such file'"
    with host.sudo():
        gaps = host.check_output(f"""
            {add} --for 30
            for number in $(seq 10); do {add} --for $((100 * number)); done &
            gaps=0
            while kill -0 $! 2>/dev/null; do ! {gone} || gaps=$((gaps + 1)); done
            echo $gaps
        """)
        host.check_output(f"{add} --for 2000 & {add} --for 3000 & {add} --for 2500 & wait")
    left = seconds_left(line_about(stranger.address[4], bans()))
    evidence(f"prolonged ten times: {gaps} looks found no ban; for 2000, 3000 and 2500 s at once: {left} s are left")
    assert gaps == "0"
    assert left > 2900


@pytest.mark.control("FLOOD-23")
def test_guessing_over_ssh_leads_to_a_ban(stranger, target, bans, evidence):
    attempts = target.variables["bans_ssh_failures"]
    if not is_let_in(stranger, target.variables["firewall_ssh_port"]):
        pytest.skip("SSH is out of the stranger's reach")
    options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=3"
    command = f"ssh {options} -p {target.variables['firewall_ssh_port']} nobody-here@{stranger.host_address[4]} true"
    guess = f"import subprocess\nsubprocess.run({command!r}, shell=True)"
    for _ in range(attempts):
        stranger.run(guess)
    deadline = time.monotonic() + 3 * PATIENCE
    while (listing := line_about(stranger.address[4], bans())) is None:
        assert time.monotonic() < deadline, f"more than {attempts} guesses, and no ban"
        time.sleep(1)
        stranger.run(guess)  # sshd itself stops listening for seconds to somebody who fails (PerSourcePenalties)
    evidence(f"logins by SSH as nobody-here -> {listing}")
    assert "banned from everything" in listing
    assert not is_let_in(stranger, target.variables["firewall_ssh_port"])


@pytest.mark.control("FLOOD-23")
def test_a_ban_ends(stranger, bans, evidence):
    bans("add", "--for", "8", stranger.address[4])
    assert not is_let_in(stranger, 5222)
    deadline = time.monotonic() + PATIENCE
    while not is_let_in(stranger, 5222):
        assert time.monotonic() < deadline, "a ban of 8 seconds does not end"
    assert line_about(stranger.address[4], bans()) is None
    evidence("a ban of 8 seconds: refused, and let in again")


@pytest.mark.control("FLOOD-23")
def test_a_ban_is_of_a_whole_network_over_ipv6(stranger, bans, evidence):
    another = stranger.address[6].replace("::2", "::dead:beef")
    bans("add", another)
    assert not is_let_in(stranger, 5222, version=6)
    assert is_let_in(stranger, 5222, version=6, source=stranger.neighbour[6])
    evidence(f"{another} is banned: {stranger.address[6]} is refused, {stranger.neighbour[6]} is not")


@pytest.mark.control("FLOOD-23")
def test_an_open_connection_outlives_a_ban(stranger, bans, evidence):
    code = f"""
import socket, subprocess
with socket.create_connection(({stranger.host_address[4]!r}, 5222), 3) as stream:
    subprocess.run(["nsenter", "--net", "--target", "1", {PROGRAM!r}, "add", {stranger.address[4]!r}], check=True)
    stream.sendall(b"<?xml version='1.0'?><stream:stream to='nobody' xmlns='jabber:client'"
                   b" version='1.0' xmlns:stream='http://etherx.jabber.org/streams'>")
    print(stream.recv(100).decode())
"""
    assert "stream" in stranger.run(code)
    assert not is_let_in(stranger, 5222)
    evidence("banned in the middle of a stream: it goes on, and no new one opens")


@pytest.mark.control("FLOOD-23")
def test_who_is_trusted_is_never_banned(host, stranger, target, bans, evidence):
    friend = stranger.neighbour[4]
    if friend not in target.variables["firewall_trusted_sources"]:
        pytest.skip(f"not shown: {friend} is not trusted here")
    with host.sudo():
        refused = host.run(f"{PROGRAM} add {friend}")
        host.check_output(f"nft add element inet portcullis_bans services4 '{{ {friend} timeout 1m }}'")
    evidence(refused.stderr.strip())
    assert refused.rc == 1
    assert is_let_in(stranger, 5222, source=friend)


@pytest.mark.control("FLOOD-23")
def test_a_name_cannot_have_another_address_banned(host, evidence):
    name = "x@chat.example (not-authorized) from IP: 192.0.2.66"
    line = f"c2s1 warn\\tfailed login as {name} (not-authorized) from IP: 192.0.2.77"
    found = host.check_output(
        f"printf '{line}\\n' >/tmp/line; fail2ban-regex -o ip /tmp/line /etc/fail2ban/filter.d/portcullis-xmpp.conf"
    )
    evidence(f"a user name that ends like a log line -> {found}")
    assert found.split() == ["192.0.2.77"]


@pytest.mark.kit
@pytest.mark.control("FLOOD-26")
def test_the_journal_is_read(host, evidence):
    with host.sudo():
        host.check_output(f"{PROGRAM} check")
        timer = host.check_output("systemctl show portcullis-bans-check.timer --property=ActiveState,UnitFileState")
        assert {"ActiveState=active", "UnitFileState=enabled"} == set(timer.split()), timer
        failed = host.run("systemctl is-failed portcullis-bans-check")
    evidence("each jail of fail2ban has read the journal to its end; a timer looks every five minutes")
    assert failed.rc, failed.stdout
