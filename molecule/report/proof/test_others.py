"""Servers that others made, judged from outside: what is wrong with each, and what is right.

More than twenty of the findings in others.yml were checked by hand, in the servers' own configuration and sources and
with openssl, those with a remark among them; the others stand as they were found.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml
from conftest import INVENTORY, Report

from verification import targets

FINDINGS = yaml.safe_load(Path(__file__).with_name("others.yml").read_text(encoding="utf-8"))
ROWS = [
    pytest.param(name, status, control, words, id=f"{name} {control}")
    for name, statuses in FINDINGS.items()
    for status, controls in statuses.items()
    for control, words in controls.items()
]


@pytest.fixture(scope="module")
def reports(of_others: dict[str, Future[Report]]) -> dict[str, Report]:
    """The report of each server."""
    return {name: report.result() for name, report in of_others.items()}


@pytest.mark.parametrize(("name", "status", "control", "words"), ROWS)
def test_the_finding_is_true(reports: dict[str, Report], name: str, status: str, control: str, words: str) -> None:
    found = reports[name]
    domain = targets.load(str(INVENTORY), name).domain
    assert found.verdicts[domain, control] == status, found.words(domain, {control})
    assert words in "\n".join(found.evidence[domain, control])


def test_what_takes_a_login_to_the_host_is_not_judged(reports: dict[str, Report]) -> None:
    for found in reports.values():
        judged = {control for (_, control), status in found.verdicts.items() if status in ("proven", "failed")}
        assert not {control for control in judged if control.startswith(("FW-", "HOST-", "UPD-", "SBX-", "CONF-"))}
