"""What leaves the inventory leaves the services."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.alone

PLACES = "/etc/prosody /etc/nginx"


@pytest.mark.control("CONF-08")
def test_what_leaves_the_inventory_leaves_the_services(host, target, deploy, tmp_path, evidence) -> None:
    fragment = tmp_path / "loosened.cfg.lua"
    fragment.write_text("c2s_timeout = 299\n")
    wider = [{"domain": target.domains[0]}, {"domain": "withdrawn.example"}]
    assert deploy(prosody_fragments=[str(fragment)], xmpp_hosts=wider).returncode == 0
    assert host.file("/etc/prosody/conf.d/loosened.cfg.lua").exists
    assert host.file("/etc/prosody/certs/withdrawn.example.key").exists

    assert deploy().returncode == 0
    left = host.run_expect(
        [0, 1], f"grep -rlE 'c2s_timeout = 299|withdrawn' {PLACES}; find {PLACES} -name '*withdrawn*'"
    )
    assert not left.stdout, left.stdout
    evidence("a fragment and a virtual host withdrawn: their configuration, certificate and key are gone")
