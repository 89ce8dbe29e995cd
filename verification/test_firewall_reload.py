"""The firewall's rules while they are loaded anew, which every deployment does that changes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from verification.probes.stranger import Stranger

pytestmark = pytest.mark.alone  # a rule that changes meanwhile interrupts whoever lists the rules

CLOSED = 47999  # UDP: no service of the kit or of Debian listens there
RELOADS = "portcullis-reloads"
SECONDS = 2


@pytest.fixture(scope="module")
def stranger(host, target) -> Iterator[Stranger]:
    """Somebody who sends without a pause, on a network of their own."""
    if not target.throw_away:
        pytest.skip("not shown: loads the rules again and again, and this host is not to be thrown away")
    stranger = Stranger(host, "impatient", 3)
    stranger.move_in()
    yield stranger
    stranger.move_out()


@pytest.fixture
def reloads(host) -> Iterator[None]:
    """Loads the rules again and again."""
    again = "while :; do nft --file /etc/nftables.conf; done"
    with host.sudo():
        host.run(f"systemctl stop {RELOADS}")
        host.check_output(f"systemd-run --quiet --collect --unit={RELOADS} sh -c %s", again)
        yield
        host.run(f"systemctl stop {RELOADS}")


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
