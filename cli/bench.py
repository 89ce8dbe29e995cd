"""Measure what the kit costs and what it gains, beside what it is measured against.

server   logins, messages, archive, rooms, uploads and memory, beside Debian's own Prosody and ejabberd
deploy   the first and the second run, beside bare apt and the smallest role of others
fleet    how the time of a deployment grows with the number of hosts
attack   what a client that behaves notices of a flood, beside a stock server
mfa      a login with the second factor, beside one without
verify   how long a verification takes, of one host and of five

The parts named are measured, or all of them; everything is ratios of one run, on servers that are booted for it and
removed. reports/bench.html is for people, reports/bench.json for programs; parts that were not measured stay in them
as they were. Exit status 1: a target was missed.
"""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

from cli.benchmarks import PARTS
from cli.common import FAILED, GOOD, ROOT, progress
from cli.lab import Failed

REPORT = ROOT / "reports" / "bench.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("parts", metavar="PART", nargs="*", type=name, help=f"what to measure: {', '.join(PARTS)}, all")


def name(value: str) -> str:
    """An argument of the command line that names a part, or all of them."""
    if value not in (*PARTS, "all"):
        raise argparse.ArgumentTypeError(f"there is no part {value!r}; there are {', '.join(PARTS)}, all")
    return value


def wanted(arguments: argparse.Namespace) -> list[str]:
    """The parts to measure, in the order of PARTS."""
    return [part for part in PARTS if part in arguments.parts or not {*arguments.parts} - {"all"}]


def module(part: str) -> ModuleType:
    """The module that measures a part."""
    return importlib.import_module(f"cli.benchmarks.{part}")


def needs(arguments: argparse.Namespace) -> list[str]:
    """What must be installed besides .venv."""
    return sorted({need for part in wanted(arguments) for need in module(part).NEEDS})


def run(arguments: argparse.Namespace) -> int:
    """Measure part after part, and write down each at once. Returns the exit status."""
    from cli.benchmarks import report  # noqa: PLC0415 - see __init__.py

    status = GOOD
    for part in wanted(arguments):
        print(f"\n{report.title(part)}\n", flush=True)
        try:
            figures = module(part).measure()
        except Failed as failure:
            progress("")
            print(failure)
            status = FAILED
            continue
        report.show(figures)
        report.write(part, figures, REPORT)
        if not all(figure.met for figure in figures):
            status = FAILED
    print(
        f"  {REPORT.relative_to(ROOT)} has the numbers, {REPORT.with_suffix('.html').relative_to(ROOT)} shows them.\n"
    )
    return status
