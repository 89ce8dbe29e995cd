"""From test outcomes to a verdict per control and host."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verification.catalogue import Control, proofs
from verification.waivers import Waiver

PROVEN, FAILED, WAIVED, PLANNED, NOT_SHOWN, NOT_APPLICABLE = STATUSES = (
    "proven",
    "failed",
    "waived",
    "planned",
    "not_shown",
    "not_applicable",
)

HELD_BACK = "not shown"


@dataclass
class Outcome:
    """One test's result: `passed`, `failed` or `skipped`, its evidence, why it did not pass, and what it tried."""

    outcome: str
    evidence: list[str] = field(default_factory=list)
    reason: str = ""
    tried: str = ""

    @property
    def applies(self) -> bool:
        """Whether there was something to test."""
        return self.outcome != "skipped" or self.reason.startswith(HELD_BACK)


@dataclass(frozen=True)
class Verdict:
    """One control on one host.

    Attributes:
        control: the promise.
        host: the host's name in the inventory.
        status: one of STATUSES.
        evidence: one line for each thing tried, verbatim.
        outcomes: the tests behind it.
        waiver: the exception, where one holds.
    """

    control: Control
    host: str
    status: str
    evidence: list[str]
    outcomes: Sequence[Outcome] = ()
    waiver: Waiver | None = None

    @property
    def id(self) -> str:
        """The control's id."""
        return self.control.id

    @property
    def title(self) -> str:
        """The promise, in plain English."""
        return self.control.title

    def document(self) -> dict[str, Any]:
        """As verify.json has it."""
        entry: dict[str, Any] = {"id": self.id, "title": self.title, "host": self.host, "status": self.status}
        entry |= {"threat": self.control.threat, "standard": self.control.standard, "evidence": self.evidence}
        if self.waiver:
            entry["waiver"] = self.waiver.document()
        return entry


@dataclass(frozen=True)
class Run:
    """Everything that a report tells.

    Attributes:
        verdicts: every control on every host.
        hosts: name in the inventory -> what it is, in words, such as "example.org at 192.0.2.1".
        finished: when it ended.
        seconds: how long it took.
        bare_seconds: how long a bare TCP and TLS connection to each port took, on average over the hosts.
        outside: whether nobody logged in to the hosts.
        problems: what kept it from being complete; such a run proves nothing.
    """

    verdicts: Sequence[Verdict]
    hosts: Mapping[str, str]
    finished: datetime.datetime
    seconds: float
    bare_seconds: float = 0.0
    outside: bool = False
    problems: Sequence[str] = ()

    @property
    def times_bare(self) -> int:
        """How many times as long it took as a bare connection to each port; 0 where no port answered."""
        return round(self.seconds / self.bare_seconds) if self.bare_seconds else 0

    @property
    def summary(self) -> dict[str, int]:
        """How many verdicts have each status."""
        return summary(self.verdicts)


class Results:
    """Collects outcomes and judges them.

    A control is proven when its tests passed. One that was skipped with "not shown: ..." could not be tried here and
    leaves it not shown; one skipped for another reason had nothing to try, such as federation on a server without any.
    A waiver turns a failure into an exception, and nothing else.
    """

    def __init__(self, controls: Sequence[Control], hosts: Sequence[str], waivers: Sequence[Waiver] = ()) -> None:
        self.controls = controls
        self.hosts = hosts
        self.waivers = waivers
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
                outcomes = self._outcomes.get((control.id, host), [])
                status, evidence = self._judge(control, outcomes)
                waiver = next((waiver for waiver in self.waivers if waiver.holds(control.id, host)), None)
                if status == FAILED and waiver:
                    yield Verdict(control, host, WAIVED, [waiver.words, *evidence], outcomes, waiver)
                else:
                    yield Verdict(control, host, status, evidence, outcomes)

    @staticmethod
    def _judge(control: Control, outcomes: list[Outcome]) -> tuple[str, list[str]]:
        if control.planned:
            return PLANNED, [control.planned_in]
        failed = [outcome for outcome in outcomes if outcome.outcome == "failed"]
        if failed:
            return FAILED, [line for outcome in failed for line in [*outcome.evidence, outcome.reason] if line]
        evidence = [line for outcome in outcomes for line in outcome.evidence]
        if any(outcome.outcome == "skipped" and outcome.applies for outcome in outcomes):
            return NOT_SHOWN, [*_reasons(outcomes), *evidence]
        if outcomes and not any(outcome.applies for outcome in outcomes):
            return NOT_APPLICABLE, _reasons(outcomes)
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


def write_json(run: Run, path: Path) -> None:
    """Write verify.json."""
    document = {
        "summary": run.summary,
        "finished": run.finished.isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 1),
        "times_bare_connections": run.times_bare,
        "view": "outside" if run.outside else "inside and outside",
        "hosts": dict(run.hosts),
        "problems": list(run.problems),
        "controls": [verdict.document() for verdict in run.verdicts],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _reasons(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(outcome.reason for outcome in outcomes if outcome.outcome == "skipped"))
