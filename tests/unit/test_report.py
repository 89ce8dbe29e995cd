"""What the report makes of test outcomes: verdicts, table, files and exit status."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from verification.catalogue import KIT, Control
from verification.report import terminal
from verification.report.plugin import Reporter, shorten
from verification.report.results import Outcome, Results, Run, Verdict, summary

BUILT = Control("TLS-01", "plaintext", "A promise", "RFC 0", "built")
PLANNED = Control("MFA-01", "second-factor", "Another promise", "RFC 0", "planned", "the second factor")
WAITING = Control("TLS-02", "plaintext", "A promise that waits", "RFC 0", "built")
VERDICTS = [
    Verdict(BUILT, "one", "proven", ["5222 -> refused", "5223 -> refused"]),
    Verdict(BUILT, "two", "failed", ["5222 -> accepted", "5222 accepted TLSv1"]),
    Verdict(WAITING, "one", "not_shown", ["not shown: a reason"]),
    Verdict(PLANNED, "one", "planned", ["the second factor"]),
    Verdict(PLANNED, "two", "planned", ["the second factor"]),
]


def judged(*outcomes: Outcome, control: Control = BUILT) -> Verdict:
    results = Results([control], ["host"])
    for outcome in outcomes:
        results.add([control.id], "host", outcome)
    return next(iter(results.verdicts()))


def test_a_control_is_proven_when_all_its_tests_passed():
    verdict = judged(Outcome("passed", ["a"]), Outcome("passed", ["b"]))
    assert (verdict.status, verdict.evidence) == ("proven", ["a", "b"])


def test_one_failure_is_enough_and_its_evidence_alone_is_told():
    verdict = judged(Outcome("passed", ["a"]), Outcome("failed", ["b"], "c"))
    assert (verdict.status, verdict.evidence) == ("failed", ["b", "c"])


def test_a_test_that_cannot_be_tried_here_holds_the_proof_back():
    verdict = judged(Outcome("passed", ["a"]), Outcome("skipped", [], "not shown: no accounts"))
    assert (verdict.status, verdict.evidence) == ("not_shown", ["not shown: no accounts", "a"])


def test_a_test_with_nothing_to_try_does_not():
    verdict = judged(Outcome("passed", ["a"]), Outcome("skipped", [], "federation is off"))
    assert (verdict.status, verdict.evidence) == ("proven", ["a"])


def test_nothing_to_try_at_all_is_no_proof():
    assert judged(Outcome("skipped", [], "federation is off")).status == "not_applicable"


def test_no_test_is_no_proof():
    assert judged().status == "not_shown"


def test_what_is_planned_is_never_more_than_planned():
    verdict = judged(Outcome("passed", ["a"]), control=PLANNED)
    assert (verdict.status, verdict.evidence) == ("planned", ["the second factor"])


def test_a_test_without_a_host_counts_for_every_host():
    results = Results([BUILT], ["one", "two"])
    results.add(["TLS-01"], "", Outcome("passed"))
    assert [(verdict.host, verdict.status) for verdict in results.verdicts()] == [("one", "proven"), ("two", "proven")]


def printed(width: int, unicode: bool = True, verdicts: list[Verdict] = VERDICTS) -> list[str]:
    output = StringIO()
    console = Console(file=output, width=width, highlight=False)
    console.print(terminal.table(verdicts, unicode))
    finished = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
    console.print(terminal.summary_line(Run(verdicts, {}, finished, 2.4, bare_seconds=0.024)))
    return output.getvalue().splitlines()


def test_the_table_tells_each_control_and_host():
    text = "\n".join(printed(100))
    assert "Encryption in transit" in text
    assert "5222 -> refused (+1)" in text
    assert "5222 accepted TLSv1" in text
    assert text.count("MFA-01") == 1, "what is planned is told once, not per host"
    assert text.endswith("1 proven, 1 failed, 2 planned, 1 not shown in 2 s (100 times a bare connection to each port)")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_keeps_to_its_width(width):
    wordy = Control("TLS-01", "plaintext", "word " * 60, "RFC 0", "built")
    long = Verdict(wordy, "a-host-with-a-long-name.example.org", "failed", ["x" * 500])
    assert max(map(len, printed(width, verdicts=[*VERDICTS, long]))) <= width


def test_the_table_does_without_unicode_and_colour():
    text = "\n".join(printed(80, unicode=False))
    assert text.isascii()
    assert "\x1b" not in text


def test_many_lines_of_a_failure_are_bounded():
    failed = Verdict(BUILT, "one", "failed", [f"line {number}" for number in range(100)])
    assert "... and 88 more" in "\n".join(printed(80, verdicts=[failed]))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("AssertionError: 5222 accepted it\nassert False", "5222 accepted it"),
        ("Failed: 5222 accepted it", "5222 accepted it"),
        ("verification.targets.NotOffered: nothing answers at 5223", "nothing answers at 5223"),
        ("verification.probes.xmpp.StanzaError: service-unavailable", "the server answers service-unavailable"),
        ("verification.probes.client.LoginFailed: alice: no", "LoginFailed: alice: no"),
        (
            "Unexpected exit code 1 for CommandResult(backend=<x>, exit_status=1, command=b'cat', _stdout=b'', "
            "_stderr=b'first\\nno such file\\n')",
            "exit status 1: no such file",
        ),
        ("", "failed"),
    ],
)
def test_a_reason_is_one_short_line(message, told):
    assert shorten(message) == told
    assert len(shorten(message * 100)) <= 240


def verify(directory: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run tests with the plugin, against this very machine unless `options` name other hosts."""
    (directory / "conftest.py").write_text("from verification.conftest import *\n")
    (directory / "test_it.py").write_text(f"import pytest\n{tests}")
    command = [sys.executable, "-m", "pytest", str(directory), "-p", "verification.report.plugin", "-c", "/dev/null"]
    hosts = [] if any("--hosts" in option for option in options) else ["--hosts=local://"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *hosts, *options], cwd=KIT, capture_output=True, text=True, check=False
    )


GOOD = """
@pytest.mark.control("TLS-01")
def test_good(host, evidence):
    evidence("5222 -> refused")
"""
BAD = """
@pytest.mark.control("TLS-02")
def test_bad(host):
    assert False, "5269 accepted it"
"""


def test_a_good_run_ends_with_0_and_writes_verify_json(tmp_path):
    run = verify(tmp_path, GOOD, "--only=TLS-01", f"--report-dir={tmp_path / 'report'}")
    assert run.returncode == 0, run.stdout + run.stderr
    document = json.loads((tmp_path / "report" / "verify.json").read_text())
    assert [(entry["id"], entry["status"], entry["evidence"]) for entry in document["controls"]] == [
        ("TLS-01", "proven", ["5222 -> refused"])
    ]
    assert "1 proven, 0 failed" in run.stdout
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"verify.html", "verify.json", "verify.junit.xml"}


def test_a_failure_ends_with_1_and_without_a_traceback(tmp_path):
    run = verify(tmp_path, GOOD + BAD)
    assert run.returncode == 1
    assert "5269 accepted it" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr


def test_a_run_without_a_test_ends_with_2(tmp_path):
    assert verify(tmp_path, "").returncode == 2


@pytest.mark.parametrize("status", [3, 4, 5], ids=["internal error", "wrong usage", "no tests"])
def test_a_run_that_broke_off_ends_with_2(status):
    reporter = Reporter.__new__(Reporter)
    finished = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
    assert reporter._exit_status(Run([], {}, finished, seconds=1), status) == 2


def test_only_runs_what_is_asked_for(tmp_path):
    assert verify(tmp_path, GOOD + BAD, "--only=TLS-01").returncode == 0


@pytest.mark.parametrize(
    ("tests", "options", "said"),
    [
        (GOOD, ["--only=FOO-01"], "no such control: FOO-01"),
        (GOOD, ["--accounts=/nowhere"], "--accounts"),
        (GOOD, ["--hosts=ansible://xmpp", "--ansible-inventory=/nowhere"], "inventory"),
        ("def broken(:\n", [], "SyntaxError"),
    ],
    ids=["unknown control", "no accounts", "no inventory", "broken test"],
)
def test_unusable_input_ends_with_2_and_a_line(tmp_path, tests, options, said):
    run = verify(tmp_path, tests, *options)
    assert run.returncode == 2, run.stdout + run.stderr
    assert said in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("inventory", "said"),
    [
        ("all: {hosts: {lonely: {}}}", "no host matches"),
        ("xmpp: {hosts: {gone: {ansible_host: 127.0.0.1, ansible_port: 1}}}", "gone: unreachable"),
    ],
)
def test_a_host_out_of_reach_is_one_line(tmp_path, inventory, said):
    (tmp_path / "hosts.yml").write_text(inventory)
    report = tmp_path / "report"
    options = [f"--ansible-inventory={tmp_path / 'hosts.yml'}", f"--report-dir={report}"]
    run = verify(tmp_path, GOOD, "--hosts=ansible://xmpp", *options)
    assert run.returncode == 2
    assert said in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    if said == "gone: unreachable":
        assert json.loads((report / "verify.json").read_text())["summary"]["proven"] == 0
        assert said in (report / "verify.html").read_text()


def test_of_several_hosts_one_that_is_not_there_is_named(tmp_path):
    (tmp_path / "hosts.yml").write_text("xmpp: {hosts: {one: {ansible_connection: local}}}")
    inventory = f"--ansible-inventory={tmp_path / 'hosts.yml'}"
    run = verify(tmp_path, GOOD, "--hosts=ansible://one,ansible://tow", inventory)
    assert run.returncode == 2
    assert "no host matches ansible://tow" in run.stdout + run.stderr


def test_the_summary_counts_every_status():
    assert sum(summary(VERDICTS).values()) == len(VERDICTS)
