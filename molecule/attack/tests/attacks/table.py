"""The table of attacks as people read it, and its shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from verification.report.evidence import clean

from .catalogue import CATALOGUE, Attack, Outcome, Verdict

PAGE = Path(__file__).resolve().parents[4] / "docs/attacks.md"
SIGNS = {Verdict.WITHSTANDS: "✓", Verdict.IS_SLOWED: "~", Verdict.GIVES_IN: "✗", Verdict.ABSENT: "-"}
INTRODUCTION = """\
# Attacks, before and after

{attacks} hostile inputs, tried in the same hour against a stock Prosody (Debian's package and configuration, with a
virtual host, web clients, group chat and upload added as Prosody's documentation says) and against Portcullis. ✓ the
server withstands; ~ it does, but 19 of 20 requests of somebody who has no part in it take more than twice as long as in
the moments before; ✗ the attack does what it wants; - there is nothing to attack. Stock withstands {stock}, and slowly
another {stock_slowed}; Portcullis {ours}, and slowly another {ours_slowed}.

The scenario `attack` makes this page, numbers included, and its tests fail where Portcullis does not withstand:
`./portcullis test attack && cp reports/attack/attacks.md docs/`
"""
Outcomes = Mapping[str, Mapping[str, Outcome]]


def page(outcomes: Outcomes) -> str:
    """The page, with what became of each attack: server -> name of the attack -> outcome."""
    count: dict[str, int] = {}
    for server, found in outcomes.items():
        verdicts = [outcome.verdict for outcome in found.values()]
        count[server] = verdicts.count(Verdict.WITHSTANDS)
        count[f"{server}_slowed"] = verdicts.count(Verdict.IS_SLOWED)
    lines = [INTRODUCTION.format(attacks=len(CATALOGUE), **count)]
    for area in dict.fromkeys(attack.area for attack in CATALOGUE):
        lines += [f"## {area}\n", "| attack | | stock Prosody | Portcullis |", "|---|---|---|---|"]
        lines += [row(attack, outcomes) for attack in CATALOGUE if attack.area == area] + [""]
    return "\n".join(lines).rstrip() + "\n"


def row(attack: Attack, outcomes: Outcomes) -> str:
    """The line about an attack."""
    cells = [cell(outcomes[server][attack.name]) for server in ("stock", "ours")]
    return f"| {attack.title} | {names(attack)} | {' | '.join(cells)} |"


def names(attack: Attack) -> str:
    """What an attack and the controls against it are called."""
    return " ".join([f"`{attack.name}`", *attack.controls])


def cell(outcome: Outcome) -> str:
    """An outcome."""
    words = "" if outcome.words == outcome.verdict.value else f" {clean(outcome.words)}"
    return f"{SIGNS[outcome.verdict]}{words}".replace("|", "\\|")


def shape(text: str) -> list[tuple[str, ...]]:
    """The rows of a page without a number: title, names, and the signs of both verdicts."""
    cells = (re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| ") and "`" in line)
    return [(title.strip(), names.strip(), stock[1], ours[1]) for _, title, names, stock, ours, _ in cells]


def stable(text: str) -> list[tuple[str, ...]]:
    """What of a page is the same in each run and on each machine: its rows, without how long people wait in a flood."""
    sure = {names(attack) for attack in CATALOGUE if attack.stock}
    slow = {SIGNS[Verdict.IS_SLOWED]: SIGNS[Verdict.WITHSTANDS]}
    return [
        (title, name, stock if name in sure else "", slow.get(ours, ours)) for title, name, stock, ours in shape(text)
    ]
