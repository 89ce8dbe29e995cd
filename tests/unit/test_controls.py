"""The catalogue, the tests that bear its ids, and the threat model made of both say the same."""

from __future__ import annotations

from collections import Counter

import pytest

from docs import threat_model
from verification import catalogue

CONTROLS = catalogue.load()
PROOFS = catalogue.proofs()
every_control = pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.id)


@every_control
def test_a_control_has_a_test_unless_it_is_planned(control):
    if control.planned:
        assert control.id not in PROOFS, f"{control.id} is planned and has a test: it is built"
        assert control.planned_in, f"{control.id} does not say what brings it"
    else:
        assert control.id in PROOFS, f'no test bears @pytest.mark.control("{control.id}")'


def test_a_test_has_a_control():
    assert set(PROOFS) <= {control.id for control in CONTROLS}


def test_every_verification_test_bears_a_control():
    assert [name for name, controls in catalogue.tests().items() if not controls] == []


@every_control
def test_a_control_is_well_formed(control):
    assert control.status in {"built", "planned"}
    assert control.threat in {threat.id for threat in catalogue.threats()}
    assert control.area in catalogue.areas()
    assert control.standard
    assert control.title[0].isupper()
    assert not control.title.endswith(".")
    assert "|" not in control.title + control.standard


def test_ids_are_given_once_and_in_order():
    ids = [control.id for control in CONTROLS]
    assert [control for control, count in Counter(ids).items() if count > 1] == []
    areas = list(catalogue.areas())
    assert ids == sorted(ids, key=lambda control: (areas.index(control.rpartition("-")[0]), control))


@pytest.mark.parametrize("threat", catalogue.threats(), ids=lambda threat: threat.id)
def test_something_stands_against_every_threat(threat):
    assert [control for control in CONTROLS if control.threat == threat.id]


def test_the_threat_model_is_up_to_date():
    assert threat_model.PAGE.read_text() == threat_model.page(), "run: python -m docs.threat_model"
