"""Exceptions: which file, what is refused, and how long they hold."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from verification import waivers
from verification.waivers import Malformed, Waiver

TODAY = datetime.date(2027, 3, 31)
GOOD = "{control: WEB-03, host: a, reason: not ready, owner: Ada, expires: 2027-03-31}"


def written(directory: Path, text: str) -> Path:
    """A file of waivers."""
    path = directory / waivers.NAME
    path.write_text(text)
    return path


def waiver(**changes) -> Waiver:
    """A waiver that holds until TODAY."""
    values = {"control": "WEB-03", "host": "a", "reason": "not ready", "owner": "Ada", "expires": TODAY}
    return Waiver(**{**values, **changes})


def test_a_waiver_is_read_as_it_is_written(tmp_path):
    assert waivers.load(written(tmp_path, f"- {GOOD}")) == (waiver(),)
    assert waivers.load(written(tmp_path, "")) == waivers.load(None) == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("control: WEB-03", "a list of waivers is wanted, this is a dict"),
        ("- WEB-03", "waiver 1: control, host, reason, owner, expires are wanted, this is a str"),
        (f"- {GOOD}\n- {{control: WEB-03}}", "waiver 2: host is missing, reason is missing, owner is missing, expires"),
        (f"- {GOOD[:-1]}, until: never}}", "until is not known"),
        (f"- {GOOD.replace('2027-03-31', 'soon')}", "expires is wanted as a date such as 2027-03-31, not 'soon'"),
        (f"- {GOOD.replace('2027-03-31', '2027-03-31 12:00:00')}", "expires is wanted as a date"),
        (f"- {GOOD.replace('not ready', '')}", "reason is missing"),
        (f"- {GOOD.replace('not ready', repr('  '))}", "reason must say something"),
        ("- {", "expected"),
        ("- \x00", "not allowed"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_place(tmp_path, text, complaint):
    path = written(tmp_path, text)
    with pytest.raises(Malformed) as refused:
        waivers.load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_waiver_holds_for_its_control_and_host_until_its_last_day():
    assert waiver().holds("WEB-03", "a", TODAY)
    assert waiver(host="all").holds("WEB-03", "b", TODAY)
    assert not waiver().holds("WEB-03", "b", TODAY)
    assert not waiver().holds("WEB-04", "a", TODAY)
    assert not waiver().holds("WEB-03", "a", TODAY + datetime.timedelta(1))


def test_faults_are_told_where_they_belong():
    past, future = datetime.date(2020, 1, 1), datetime.date(9999, 1, 1)
    known = [
        waiver(expires=future),
        waiver(expires=past),
        waiver(control="WEB-99", host="b", expires=future),
        waiver(host="nowhere", expires=future),
    ]
    assert waivers.faults(known, "a", ["a", "b"], ["WEB-03"]) == [
        "WEB-03 on a: ended on 2020-01-01; Ada answers for it",
        "WEB-03 on nowhere: there is no such host",
    ]
    assert waivers.faults(known, "b", ["a", "b"], ["WEB-03"]) == [
        "WEB-99 on b: there is no such control",
        "WEB-03 on nowhere: there is no such host",
    ]


def test_the_file_lies_beside_the_inventory(tmp_path):
    inventory = tmp_path / "hosts.yml"
    inventory.touch()
    assert waivers.beside(str(inventory)) is None
    path = written(tmp_path, "")
    assert waivers.beside(str(inventory)) == waivers.beside(str(tmp_path)) == path
    assert waivers.beside("a,b") is None
    assert waivers.beside(None) is None
