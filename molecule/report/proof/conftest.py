"""The report of this stage, made as an operator makes it: by the command line of `./portcullis verify`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from verification import targets

KIT = Path(__file__).resolve().parents[3]
INVENTORY = KIT / "molecule/report/inventory/hosts.yml"
OTHERS = ("stock", "debops", "ejabberd")
LAB = KIT / ".cache/lab/report"
REPORTS = KIT / "reports/report"

# What keeps a proof back on these servers: the kernel is the machine's, there is no name server, the judges that take
# minutes are not asked, and two of them log nothing of a login.
NOT_SHOWN_HERE = {"HOST-01", "HOST-08", "HOST-09", "SBX-04", "CERT-14", "CERT-21", "TLS-11", "PRIV-01"}
ELSEWHERE = "its tests have a stage of their own"


@dataclass(frozen=True)
class Report:
    """What verify.json says, and how the command ended.

    Attributes:
        verdicts: (host, control) -> status.
        evidence: (host, control) -> its lines.
        exit_status: of the command.
    """

    verdicts: dict[tuple[str, str], str]
    evidence: dict[tuple[str, str], list[str]]
    exit_status: int

    def having(self, status: str, host: str) -> set[str]:
        """The controls of a host with that status."""
        return {control for (name, control), found in self.verdicts.items() if (name, found) == (host, status)}

    def words(self, host: str, controls: set[str]) -> str:
        """The evidence of those controls, for the message of a test that fails."""
        return "".join(f"\n{control}: {self.evidence[host, control]}" for control in sorted(controls))


def verify(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `portcullis verify` with these arguments into reports/report/NAME."""
    command = [sys.executable, "-B", "cli", "verify", *map(str, arguments), "--report", str(REPORTS / name)]
    return subprocess.run(command, cwd=KIT, capture_output=True, text=True, timeout=900, check=False)


def report(name: str, *arguments: str | Path) -> Report:
    """Run `portcullis verify` to its end, and read its report."""
    directory = REPORTS / name
    ended = verify(name, *arguments)
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    entries = json.loads((directory / "verify.json").read_text(encoding="utf-8"))["controls"]
    return Report(
        {(entry["host"], entry["id"]): entry["status"] for entry in entries},
        {(entry["host"], entry["id"]): entry["evidence"] for entry in entries},
        ended.returncode,
    )


@pytest.fixture(scope="session", autouse=True)
def of_others() -> Iterator[dict[str, Future[Report]]]:
    """The reports of a stranger with two accounts at each of the servers of others, made beside the first tests."""
    found = [targets.load(str(INVENTORY), name) for name in OTHERS]

    def judge(target: targets.Target) -> Report:
        how = ["--connect", target.address, "--ca-file", target.ca_file, "--accounts", LAB / "accounts-of-others.yml"]
        return report(target.name, "--from-outside", target.domain, *how)

    with ThreadPoolExecutor() as pool:
        yield {target.name: pool.submit(judge, target) for target in found}
