"""Writes threat-model.md from the catalogue in verification/: `python -m docs.threat_model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from verification import catalogue
from verification.catalogue import Control, Threat

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).with_name("threat-model.md")
INTRODUCTION = """\
# Threat model

What Portcullis stands against, with what, and how that is proven. Made by `python -m docs.threat_model` from
`verification/threats.yml`, `verification/controls.yml` and the tests; change those.

Of {total} controls {built} are built: each is proven by tests that try what it forbids, on the server itself, with
`./portcullis verify`. {planned} are planned, and nothing stands behind them yet.

## What is protected, from whom

A server for messages of a group of people: their conversations, their passwords, their contacts and habits, and that
they can reach each other at all. Attackers are, from the weakest to the strongest:

1. **A stranger** who reaches the ports: guesses passwords, floods, registers, pretends to be another server.
2. **Somebody on the path**: reads, changes and records what passes, and talks both ends down.
3. **A member gone bad**: an account of the server, or a stolen device, turned against the others.
4. **Somebody in the server**: a flaw in a service that faces the network, used to take the host.
5. **Somebody with the disk**: a backup, a log, a decommissioned machine.

Not protected against: whoever administers the host or its hypervisor sees all that is not end-to-end encrypted, and
who talks with whom in any case; a device that is taken over reads what its owner reads; a network that is flooded
beyond its line is down; legal force.
"""


def page() -> str:
    """Return the page."""
    controls = catalogue.load()
    planned = sum(control.planned for control in controls)
    introduction = INTRODUCTION.format(total=len(controls), built=len(controls) - planned, planned=planned)
    proven_by = catalogue.proofs()
    sections = [_section(threat, controls, proven_by) for threat in catalogue.threats()]
    return "\n".join([introduction, *sections])


def _section(threat: Threat, controls: Sequence[Control], proven_by: Mapping[str, Mapping[Path, list[str]]]) -> str:
    lines = [f"## {threat.title}", "", threat.what, "", f"**Against it:** {threat.stands}", ""]
    lines += ["| | promise | standard | proven by |", "|---|---|---|---|"]
    for control in controls:
        if control.threat == threat.id:
            proof = f"*planned: {control.planned_in}*" if control.planned else _proof(proven_by.get(control.id, {}))
            lines.append(f"| {control.id} | {control.title} | {control.standard} | {proof} |")
    return "\n".join([*lines, ""])


def _proof(tests: Mapping[Path, list[str]]) -> str:
    return "<br>".join(
        f"[{path.name}](../{path}): {', '.join(name.removeprefix('test_').replace('_', ' ') for name in names)}"
        for path, names in tests.items()
    )


if __name__ == "__main__":
    PAGE.write_text(page())
