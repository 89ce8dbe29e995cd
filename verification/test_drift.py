"""Whether the host is still what the playbook would make of it."""

from __future__ import annotations

import pytest

from verification import drift

DEPLOYED = "/var/lib/portcullis"  # what the kit keeps of its own changes


@pytest.fixture(scope="session")
def drifts(pytestconfig) -> dict[str, drift.Drift]:
    """What the playbook would change on each host that is verified; played once for all."""
    pattern = pytestconfig.option.hosts.replace("ansible://", "")
    return drift.measure(pytestconfig.getoption("ansible_inventory"), pattern)


@pytest.mark.control("CONF-10")
@pytest.mark.kit
def test_the_playbook_would_change_nothing(request, host, target, evidence):
    if not host.file(DEPLOYED).exists:
        pytest.skip("the kit has not deployed this host")
    found = request.getfixturevalue("drifts")[target.name]
    for line in found.lines:
        evidence(line)
    assert not found.failure, found.failure
    assert not found.changes, (
        f"{len(found.changes)} differ from what the playbook would install: {', '.join(found.changes)}"
    )
    evidence(f"{drift.PLAYBOOK} in check mode: nothing would change")
