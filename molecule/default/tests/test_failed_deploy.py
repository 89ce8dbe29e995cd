"""A deployment that fails leaves the old configuration in place and the old server serving."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.alone

TAKEN = """\
component_ports = { 5222 }
Component "gateway.example"
    component_secret = "of no use to anybody"
"""

FRAGMENTS = {
    "a syntax error": ("broken.cfg.lua", "modules_enabled = {", "unexpected symbol"),
    "an invented option": ("invented.cfg.lua", "max_connections_per_ip = 10", '"max_connections_per_ip"'),
    "a module that is not there": ("absent.cfg.lua", 'Component "x.example" "no_such_module"', "no_such_module"),
    "a port that is taken": ("taken.cfg.lua", TAKEN, "5222"),
}


def fingerprint(host) -> str:
    """What the server runs on: its files and its process."""
    return host.check_output(
        "find /etc/prosody /etc/systemd/system/prosody.service.d /etc/nftables.d -type f -exec sha256sum {} + | sort;"
        " systemctl show prosody -p MainPID -p NRestarts"
    )


@pytest.mark.control("CONF-06")
@pytest.mark.parametrize("case", FRAGMENTS)
def test_a_broken_fragment_never_reaches_the_server(case, host, deploy, login, tmp_path, evidence) -> None:
    name, text, words = FRAGMENTS[case]
    fragment = tmp_path / name
    fragment.write_text(text + "\n")
    before = fingerprint(host)
    with login(0) as client:
        outcome = deploy(prosody_fragments=[str(fragment)])
        assert outcome.returncode == 2, outcome.stdout
        assert words in outcome.stdout + outcome.stderr
        client.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=client.jid.partition("@")[2].partition("/")[0])
    assert fingerprint(host) == before
    evidence(f"{case}: refused ({words}); the open session lives on")


@pytest.mark.control("CONF-07")
def test_a_server_that_does_not_come_up_is_put_back(host, deploy, login, tmp_path, evidence) -> None:
    unit = tmp_path / "unit.conf.j2"
    unit.write_text("[Service]\nExecStartPre=/bin/sh -c 'echo the disk is on fire; exit 1'\n")
    drop_in = "/etc/systemd/system/prosody.service.d/10-portcullis.conf"
    before = host.file(drop_in).sha256sum
    outcome = deploy(prosody_unit_template=str(unit))
    assert outcome.returncode == 2, outcome.stdout
    assert "the disk is on fire" in outcome.stdout + outcome.stderr
    assert host.file(drop_in).sha256sum == before
    assert host.service("prosody").is_running
    login(0)
    evidence("a unit that does not start: refused with its own words; the old one serves")
