"""The page about the attacks tells of those in the catalogue of the scenario `attack`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from verification import catalogue

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "molecule/attack/tests"))
from attacks import CATALOGUE, Verdict, table  # type: ignore[import-not-found]
from attacks.catalogue import Outcome  # type: ignore[import-not-found]

ATTACKS = {attack.name: attack for attack in CATALOGUE}
KNOWN = table.shape(table.PAGE.read_text(encoding="utf-8"))


def test_there_are_many_attacks_each_with_a_name_of_its_own():
    assert len(ATTACKS) == len(CATALOGUE) >= 40


def test_the_page_tells_of_each():
    assert [row[:2] for row in KNOWN] == [(attack.title, table.names(attack)) for attack in CATALOGUE]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_page_tells_no_attack_that_succeeds(attack):
    *_, ours = next(row for row in KNOWN if row[1].startswith(f"`{attack}`"))
    assert ours != table.SIGNS[Verdict.GIVES_IN]


@pytest.mark.parametrize("attack", [attack for attack in CATALOGUE if attack.stock], ids=lambda attack: attack.name)
def test_the_page_tells_of_stock_what_is_asserted(attack):
    _, _, stock, _ = next(row for row in KNOWN if row[1] == table.names(attack))
    assert stock == table.SIGNS[attack.stock]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_its_controls_are_in_the_catalogue_of_controls(attack):
    assert set(attack.controls) <= {control.id for control in catalogue.load()}


def test_words_cannot_break_the_table():
    hostile = Outcome(Verdict.WITHSTANDS, "a | b\nc | ✗")
    outcomes = {server: {attack.name: hostile for attack in CATALOGUE} for server in ("ours", "stock")}
    rows = table.shape(table.page(outcomes))
    assert [row[2:] for row in rows] == [("✓", "✓")] * len(CATALOGUE)
