"""Run the tests: lint, unit tests, every scenario on real servers, the demo.

Without names all stages run, `report` in its short form: named, it also tries each of its faults apart from the
others, which takes longer. Two run at a time, for the tests of servers mostly wait.
What a stage says goes to reports/STAGE.log; a failed stage does not stop the others.
The stage demo begins and ends without a demo: one that is running is removed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree as ET

from cli.common import FAILED, GOOD, ROOT, WrongInput, environment, progress, tool

REPORTS = ROOT / "reports"
TAIL_LINES = 60
REASON_LINES, REASON_WIDTH = 5, 500  # of the message of a test that failed
SHORT = "PORTCULLIS_SHORT"  # in the environment of the tests when all are run
SHELLS = ("#!/bin/sh", "#!/usr/bin/env bash")
RUNTIME = "molecule/shared/runtime/oci-runtime"
JOBS = 2


@dataclass(frozen=True)
class Step:
    """A command of a stage; where `expected` is given its output must contain that text."""

    command: list[str]
    expected: str = ""


@dataclass(frozen=True)
class Result:
    """How many checks of a stage passed and failed."""

    passed: int
    failed: int


class Screen:
    """What the stages that run at the same time show: a line for each that is done, one for those that are not."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: dict[str, str] = {}

    def show(self, stage: str, text: str) -> None:
        """Tell how a stage that runs is getting on."""
        with self.lock:
            self.running[stage] = text
            progress("   ".join(self.running.values()))

    def end(self, stage: str, *lines: str) -> None:
        """Tell the result of a stage."""
        with self.lock:
            self.running.pop(stage, None)
            progress("")
            print(*lines, sep="\n", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("stages", metavar="STAGE", nargs="*", help=f"any of: {', '.join(stages())}")
    parser.add_argument("--jobs", metavar="N", type=number, default=JOBS, help=f"stages at a time (default: {JOBS})")


def number(value: str) -> int:
    """An argument of the command line: a whole number from 1."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1")
    return int(value)


def needs(arguments: argparse.Namespace) -> list[str]:
    """What must be installed besides .venv."""
    chosen = choose(arguments.stages)
    containers = ["containers"] if set(chosen) - {"lint", "unit"} else []
    return ["tests", *containers, *(["browser"] if "mfa" in chosen else [])]


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    chosen = choose(arguments.stages)
    if not arguments.stages:
        os.environ[SHORT] = "1"
    REPORTS.mkdir(exist_ok=True)
    screen = Screen()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            results = list(pool.map(lambda stage: run_stage(stage, screen), chosen))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # the tools were interrupted, too, and clean up
            raise
    failed = sum(result.failed for result in results)
    print(f"{sum(result.passed for result in results)} passed, {failed} failed")
    return FAILED if failed else GOOD


def stages() -> list[str]:
    """Every stage in its order: the quick ones first, the scenarios as molecule/ has them, the demo last."""
    scenarios = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
    return ["lint", "unit", *scenarios, "demo"]


def choose(names: list[str]) -> list[str]:
    """The stages asked for, each once; without a name all. Raises WrongInput for an unknown one."""
    known = stages()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise WrongInput(f"no such stage: {', '.join(unknown)}; there are {', '.join(known)}")
    return list(dict.fromkeys(names)) or known


def steps(stage: str) -> list[Step]:
    """What a stage does."""
    python = [sys.executable, "-B"]
    if stage == "lint":
        return lint()
    if stage == "unit":
        return [Step([*python, "-m", "pytest", "tests", "--numprocesses=auto", f"--junitxml={junit(stage)}"])]
    if stage == "demo":
        demo = [*python, "cli", "demo"]
        return [Step([*demo, "--remove"]), Step(demo), Step(demo, "changed=0"), Step([*demo, "--remove"])]
    return [Step([tool("molecule"), "test", "--scenario-name", stage])]


def lint() -> list[Step]:
    """Every judge of style and of plain mistakes."""
    commands: list[list[str]] = [
        [tool("yamllint"), "--strict", "."],
        [tool("ansible-lint"), "-q"],
        [tool("ruff"), "check", ".", RUNTIME],
        [tool("ruff"), "format", "--check", ".", RUNTIME],
        [tool("mypy")],
        ["luacheck", "--quiet", "--no-color", "roles", "tests"],
        ["shellcheck", *sorted(map(str, shell_scripts()))],
    ]
    return [Step(command) for command in commands]


def shell_scripts() -> Iterator[Path]:
    """Every shell script of the kit, by its first line."""
    for directory, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") or name == ".ci"]
        for path in (Path(directory, name) for name in names):
            if path.is_file() and not path.suffix and path.read_bytes()[:40].startswith(tuple(map(str.encode, SHELLS))):
                yield path.relative_to(ROOT)


def junit(stage: str) -> Path:
    """The JUnit report of a stage's tests, if it has any."""
    return REPORTS / f"{stage}.xml"


def run_stage(stage: str, screen: Screen) -> Result:
    """Run the steps of a stage up to the first that fails (all of lint), and tell the result in one line."""
    began = time.monotonic()
    path = REPORTS / f"{stage}.log"
    junit(stage).unlink(missing_ok=True)
    good = bad = 0

    def show(text: str) -> None:
        screen.show(stage, f"{stage} {time.monotonic() - began:.0f} s  {text}")

    with path.open("w", encoding="utf-8") as log:
        for step in steps(stage):
            if run_step(step, log, show):
                good += 1
            else:
                bad += 1
                if stage != "lint":
                    break
    result = count(stage, good, bad)
    word = "failed" if result.failed else "passed"
    counts = f"{result.passed} passed" + (f", {result.failed} failed" if result.failed else "")
    lines = [f"{stage:<14} {word:<8} {counts:<28} {time.monotonic() - began:7.1f} s"]
    if result.failed:
        tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        lines += [f"    {line}" for line in [*failures(stage), *tail, f"({path.relative_to(ROOT)})"]]
    screen.end(stage, *lines)
    return result


def run_step(step: Step, log: TextIO, show: Callable[[str], None]) -> bool:
    """Run one command into the log, its last line told to `show`. Whether it succeeded."""
    print(f"$ {' '.join(step.command)}", file=log, flush=True)
    start = log.tell()
    process = subprocess.Popen(
        step.command,
        cwd=ROOT,
        env=environment(ANSIBLE_NOCOLOR="1", NO_COLOR="1", PY_COLORS="0", COLUMNS="120"),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    with open(log.name, encoding="utf-8", errors="replace") as tail:  # noqa: PTH123 - a second, independent position
        tail.seek(start)
        output = last = ""
        while process.poll() is None:
            time.sleep(0.2)
            output += tail.read()
            last = next((line for line in reversed(output[-2000:].splitlines()) if line.strip()), last)
            show(last.strip()[:50])
        output += tail.read()
    if process.returncode == 0 and step.expected not in output:
        print(f"expected {step.expected!r} in the output above", file=log, flush=True)
    return process.returncode == 0 and step.expected in output


def count(stage: str, good: int, bad: int) -> Result:
    """The checks of a stage: its tests if it left a JUnit report, else its steps. A failed step always counts."""
    if not junit(stage).exists():
        return Result(good, bad)
    suites = ET.parse(junit(stage)).getroot().iter("testsuite")
    totals = [{key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")} for suite in suites]
    failed = sum(total["failures"] + total["errors"] for total in totals)
    ran = sum(total["tests"] - total["skipped"] for total in totals)
    return Result(max(0, ran - failed), failed or bad)


def failures(stage: str) -> Iterator[str]:
    """Each test that failed, by the stage's JUnit report, and the first lines of why."""
    cases = ET.parse(junit(stage)).getroot().iter("testcase") if junit(stage).exists() else ()
    for case in cases:
        for trouble in [*case.findall("failure"), *case.findall("error")]:
            reason, *more = (trouble.get("message") or "").strip().splitlines()[:REASON_LINES] or [""]
            yield f"{case.get('classname')}.{case.get('name')}: {reason}"
            yield from (f"  {line[:REASON_WIDTH]}" for line in more)
