"""The table a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from verification import catalogue

from .results import FAILED, NOT_APPLICABLE, NOT_SHOWN, PLANNED, PROVEN, WAIVED, Run, Verdict

MARKS = {PROVEN: "✓", FAILED: "✗", WAIVED: "~", NOT_SHOWN: "?", NOT_APPLICABLE: "-", PLANNED: "○"}
ASCII_MARKS = {PROVEN: "+", FAILED: "x", WAIVED: "~", NOT_SHOWN: "?", NOT_APPLICABLE: "-", PLANNED: "o"}
WORDS = {status: status.replace("_", " ") for status in MARKS}
STYLES = {
    PROVEN: "green",
    FAILED: "bold red",
    WAIVED: "yellow",
    NOT_SHOWN: "bright_black",
    NOT_APPLICABLE: "bright_black",
    PLANNED: "blue",
}
TITLES = {PLANNED: "bright_black"}
MANY_LINES = 12


def table(verdicts: Sequence[Verdict], unicode: bool = True) -> RenderableType:
    """All verdicts by area; failures with everything that was seen, the others with one line of evidence."""
    several_hosts = len({verdict.host for verdict in verdicts}) > 1
    parts: list[RenderableType] = []
    names = catalogue.areas()
    order = list(names)
    by_area = sorted(verdicts, key=lambda verdict: order.index(_area(verdict)))
    for area, members in groupby(by_area, _area):
        rows = Table.grid(padding=(0, 1), expand=True)
        rows.add_column(width=1)
        rows.add_column(no_wrap=True, min_width=8)
        if several_hosts:
            rows.add_column(no_wrap=True, max_width=20, overflow="ellipsis")
        rows.add_column(ratio=1)
        for verdict in _planned_once(members):
            cells: list[RenderableType] = [
                Text(MARKS[verdict.status] if unicode else ASCII_MARKS[verdict.status], STYLES[verdict.status]),
                Text(verdict.id, "bold" if verdict.status == FAILED else ""),
            ]
            if several_hosts:
                cells.append(Text(verdict.host if verdict.status != PLANNED else "", "bright_black"))
            rows.add_row(*cells, Group(Text(verdict.title, TITLES.get(verdict.status, "")), *_evidence(verdict)))
        parts += [Text(f"\n{names[area]}", "bold"), Padding(rows, (0, 0, 0, 2))]
    return Group(*parts)


def summary_line(run: Run) -> Text:
    """Such as "31 proven, 1 failed, 9 planned, 4 not shown in 23 s (300 times a bare connection to each port)"."""
    line = Text("\n")
    counts = [(status, count) for status, count in run.summary.items() if count or status == FAILED]
    for position, (status, count) in enumerate(counts):
        line.append(", " if position else "")
        line.append(f"{count} {WORDS[status]}", STYLES[status] if count else "")
    ratio = f" ({run.times_bare} times a bare connection to each port)" if run.times_bare else ""
    return line.append(f" in {run.seconds:.0f} s{ratio}")


def console() -> Console:
    """Colours only on a terminal and without NO_COLOR; 100 columns where there is no terminal."""
    probe = Console(highlight=False, soft_wrap=False)
    return probe if probe.is_terminal else Console(highlight=False, width=100)


def _area(verdict: Verdict) -> str:
    return verdict.id.rpartition("-")[0]


def _planned_once(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """What is planned is so for every host, so the first stands for all."""
    kept: dict[tuple[str, str], Verdict] = {}
    for verdict in verdicts:
        kept.setdefault((verdict.id, "" if verdict.status == PLANNED else verdict.host), verdict)
    return list(kept.values())


def _evidence(verdict: Verdict) -> list[Text]:
    if verdict.status == FAILED:
        lines = verdict.evidence[:MANY_LINES]
        more = len(verdict.evidence) - len(lines)
        return [Text(line, "red") for line in lines] + ([Text(f"... and {more} more", "red")] if more else [])
    if verdict.status == PLANNED or not verdict.evidence:
        return []
    more = len(verdict.evidence) - 1
    text = verdict.evidence[0] + (f" (+{more})" if more else "")
    return [Text(text, "bright_black", no_wrap=True, overflow="ellipsis")]
