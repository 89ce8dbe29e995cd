"""Every attack of the catalogue on ours and on a stock server; see attacks/."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks import CATALOGUE, Attack, Verdict, table
from attacks.members import MEMORY

from verification.targets import Target


def about(attack: Attack) -> pytest.param:
    """The parameter of a test about an attack, which proves something of the controls against it."""
    return pytest.param(attack, id=attack.name, marks=[pytest.mark.control(control) for control in attack.controls])


@pytest.mark.control("FLOOD-25")
@pytest.mark.parametrize("attack", [about(attack) for attack in CATALOGUE])
def test_ours_withstands(attack: Attack, campaign, target: Target, evidence):
    outcome = campaign.outcomes[target.name][attack.name].result()
    evidence(f"{attack.title} -> {outcome.words}")
    assert outcome.verdict is not Verdict.GIVES_IN, outcome.words


@pytest.mark.control("FLOOD-25")
@pytest.mark.parametrize("attack", [attack for attack in CATALOGUE if attack.stock], ids=lambda attack: attack.name)
def test_stock_is_as_it_was(attack: Attack, campaign):
    """What the comparison says of stock is true."""
    outcome = campaign.outcomes["stock"][attack.name].result()
    assert outcome.verdict is attack.stock, outcome.words


@pytest.mark.control("FLOOD-25")
def test_a_well_behaved_client_is_served_throughout(campaign, target: Target, evidence):
    evidence(f"{campaign.pings[target.name]} requests of a client are answered while {len(CATALOGUE)} attacks run")
    assert target.name not in campaign.lost, f"its session ends: {campaign.lost[target.name]}"
    assert campaign.pings[target.name] > len(CATALOGUE)


@pytest.mark.control("FLOOD-22")
def test_memory_returns(campaign, target: Target, evidence):
    before, after = campaign.memory[target.name]
    evidence(f"{before:.0f} MiB before {len(CATALOGUE)} attacks, {after:.0f} MiB after them")
    assert after - before < MEMORY, f"{after - before:.0f} MiB do not return"


@pytest.mark.control("FLOOD-25")
def test_the_page_tells_what_is_true(campaign, pytestconfig):
    page = table.page(
        {name: {attack: tried.result() for attack, tried in found.items()} for name, found in campaign.outcomes.items()}
    )
    made = Path(pytestconfig.getoption("report_dir")) / "attacks.md"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(page, encoding="utf-8")
    known = table.PAGE.read_text(encoding="utf-8")
    assert table.stable(page) == table.stable(known), f"docs/attacks.md is out of date: see {made}"
