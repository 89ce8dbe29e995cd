"""The exceptions that are written down beside the inventory."""

from __future__ import annotations

import pytest

from verification import catalogue, targets, waivers


@pytest.mark.control("CONF-11")
@pytest.mark.kit
def test_exceptions_are_in_order(target, evidence, pytestconfig):
    inventory = pytestconfig.getoption("ansible_inventory")
    path = waivers.beside(inventory)
    known = waivers.load(path)
    here = [waiver for waiver in known if waiver.host in (target.name, waivers.EVERY_HOST)]
    for waiver in here:
        if not waiver.expired():
            evidence(f"{waiver.control}: {waiver.words}")
    if not here:
        evidence(f"no exception in {waivers.NAME}" if path else f"no exceptions: there is no {waivers.NAME}")
    controls = [control.id for control in catalogue.load() if not control.planned]
    wrong = waivers.faults(known, target.name, targets.names(inventory), controls)
    assert not wrong, "; ".join(wrong)
