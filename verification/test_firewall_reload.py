"""The firewall's rules while they are loaded anew, which every deployment does that changes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from verification.probes import crowd, xmpp
from verification.probes.stranger import Stranger

pytestmark = pytest.mark.alone  # a load interrupts whoever lists the rules, and counters begin anew

CLOSED = 47999  # UDP: no service of the kit or of Debian listens there
RELOADS = "portcullis-reloads"
SECONDS = 2
WAIT = 0.9  # second for a connection to open, before the kernel's first retry
BANS = "/usr/local/sbin/portcullis-bans"


@pytest.fixture(scope="module")
def stranger(host, target) -> Iterator[Stranger]:
    """Somebody who sends without a pause, on a network of their own."""
    if not target.throw_away:
        pytest.skip("not shown: loads the rules again and again, and this host is not to be thrown away")
    if not host.service("nftables").is_running:
        pytest.skip("not shown: nftables.service does not load this host's rules, another file may spoil them")
    with Stranger(host, "impatient", 3) as stranger:
        yield stranger


@pytest.fixture
def reloads(host) -> Iterator[None]:
    """Loads the rules again and again, until it is over or they do not load."""
    again = "while nft --file /etc/nftables.conf; do :; done"
    with host.sudo():
        host.run(f"systemctl stop {RELOADS}")
        host.check_output(f"systemd-run --quiet --collect --unit={RELOADS} sh -c %s", again)
        yield
        loaded = host.service(RELOADS).is_running
        host.run(f"systemctl stop {RELOADS}")
    assert loaded, "the rules do not load: nothing was shown"


@pytest.mark.control("FW-07")
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.usefixtures("reloads")
def test_a_reload_opens_no_gap(stranger, evidence, version):
    """Where a closed port is reached, the kernel says so by ICMP, which ends as a refusal here."""
    code = f"""
import socket, time
sent = refused = 0
with socket.socket(socket.AF_INET{"6" if version == 6 else ""}, socket.SOCK_DGRAM) as probe:
    probe.connect(({stranger.host_address[version]!r}, {CLOSED}))
    end = time.monotonic() + {SECONDS}
    while time.monotonic() < end:
        try:
            probe.send(b"open yet?")
            sent += 1
        except ConnectionRefusedError:
            refused += 1
print(sent, refused)
"""
    sent, refused = map(int, stranger.run(code).split())
    evidence(f"a stranger over IPv{version}: {refused} of {sent} packets come through while the rules are reloaded")
    assert sent
    assert not refused


@pytest.mark.control("FLOOD-23")
def test_a_ban_outlives_a_reload(host, stranger, evidence):
    address = stranger.address[4]

    def is_let_in() -> bool:
        return stranger.call(crowd, "connects", stranger.host_address[4], xmpp.C2S, WAIT)

    with host.sudo():
        try:
            host.check_output(f"{BANS} add {address}")
            banned = not is_let_in()
            host.check_output("systemctl reload nftables")
            assert banned
            assert not is_let_in(), "a reload of the rules has lost the ban"
        finally:
            host.run(f"{BANS} lift {address}")
    evidence("the ban outlives a reload of the rules")
