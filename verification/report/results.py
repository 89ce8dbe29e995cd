"""From test outcomes to a verdict per control and host."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from verification.catalogue import Control, proofs

PROVEN, FAILED, WAIVED, PLANNED, NOT_SHOWN = STATUSES = ("proven", "failed", "waived", "planned", "not_shown")

HELD_BACK = "not shown"


@dataclass
class Outcome:
    """One test's result: `passed`, `failed` or `skipped`, its evidence, and why it did not pass."""

    outcome: str
    evidence: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """One control on one host. `evidence` has one line for each thing tried, verbatim."""

    id: str
    title: str
    host: str
    status: str
    evidence: list[str]


class Results:
    """Collects outcomes and judges them.

    A control is proven when its tests passed. One that was skipped with "not shown: ..." could not be tried here and
    leaves it not shown; one skipped for another reason had nothing to try, such as federation on a server without any.
    """

    def __init__(self, controls: Sequence[Control], hosts: Sequence[str]) -> None:
        self.controls = controls
        self.hosts = hosts
        self._outcomes: dict[tuple[str, str], list[Outcome]] = {}

    def add(self, controls: Iterable[str], host: str, outcome: Outcome) -> None:
        """Take one test's outcome for each control it proves; a test without a host counts for every host."""
        for control in controls:
            for name in [host] if host else self.hosts:
                self._outcomes.setdefault((control, name), []).append(outcome)

    def verdicts(self) -> Iterator[Verdict]:
        """Every control on every host, in the catalogue's order."""
        for control in self.controls:
            for host in self.hosts:
                status, evidence = self._judge(control, self._outcomes.get((control.id, host), []))
                yield Verdict(control.id, control.title, host, status, evidence)

    @staticmethod
    def _judge(control: Control, outcomes: list[Outcome]) -> tuple[str, list[str]]:
        if control.planned:
            return PLANNED, [control.planned_in]
        failed = [outcome for outcome in outcomes if outcome.outcome == "failed"]
        if failed:
            return FAILED, [line for outcome in failed for line in [*outcome.evidence, outcome.reason] if line]
        evidence = [line for outcome in outcomes for line in outcome.evidence]
        reasons = list(dict.fromkeys(outcome.reason for outcome in outcomes if outcome.outcome == "skipped"))
        passed = any(outcome.outcome == "passed" for outcome in outcomes)
        if reasons and (not passed or any(reason.startswith(HELD_BACK) for reason in reasons)):
            return NOT_SHOWN, [*reasons, *evidence]
        return (PROVEN, evidence) if outcomes else (NOT_SHOWN, [_why_nothing_ran(control)])


def _why_nothing_ran(control: Control) -> str:
    stages = {path.parts[1] for path in proofs().get(control.id, {}) if path.parts[0] == "molecule"}
    return (
        f"its tests have a stage of their own: scenario {', '.join(sorted(stages))}" if stages else "no test of it ran"
    )


def summary(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts have each status."""
    statuses = [verdict.status for verdict in verdicts]
    return {status: statuses.count(status) for status in STATUSES}


def write_json(verdicts: Sequence[Verdict], path: Path) -> None:
    """Write verify.json."""
    document = {"summary": summary(verdicts), "controls": [asdict(verdict) for verdict in verdicts]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
