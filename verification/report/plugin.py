"""pytest plugin: progress while the tests run, a table per control afterwards, verify.json.

Use: pytest verification -p verification.report.plugin --ansible-inventory=INV --hosts=ansible://xmpp --report-dir DIR

Exit status: 0 nothing failed, 1 a control failed, 2 unusable input (inventory, host, --only), a broken test or no test.
"""

from __future__ import annotations

import io
import re
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import testinfra
from _pytest.terminal import TerminalReporter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from verification import catalogue

from . import terminal
from .results import FAILED, Outcome, Results, Verdict, summary, write_json

# testinfra's AssertionError of a command that failed.
UNEXPECTED_EXIT = re.compile(r"Unexpected exit code (?P<status>\d+) for .*_stderr=b(['\"])(?P<said>.*?)\2\)", re.DOTALL)
EXCEPTION_NAME = re.compile(r"^(AssertionError: |Failed: |([a-z_]+\.)+(?=[A-Z]))")
LONGEST_REASON = 240


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --report-dir."""
    group = parser.getgroup("verification")
    group.addoption("--report-dir", metavar="DIR", type=Path, help="write verify.json there")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Report in our own words, once: not in xdist's workers, not when tests are only listed."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if config.getoption("verbose") <= 0:
        _silence(config)
    config.pluginmanager.register(Reporter(config), "verification-reporter")


def _silence(config: pytest.Config) -> None:
    """Keep pytest's own reporter for those who ask it for its writer, but let it write to nobody."""
    standard = config.pluginmanager.getplugin("terminalreporter")
    config.pluginmanager.unregister(standard)
    config.pluginmanager.register(TerminalReporter(config, io.StringIO()), "terminalreporter")


class Reporter:
    """Collects the reports of all workers and tells the result."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.console = terminal.console()
        self.started = time.monotonic()
        self.broken: list[str] = []
        self.results = Results([], [])
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("verifying", total=None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Before any test: is there a host, and does each answer?"""
        hosts = self._hosts()
        with ThreadPoolExecutor(len(hosts)) as pool:
            unreachable = [line for line in pool.map(_unreachable, hosts) if line]
        if unreachable:
            pytest.exit("\n".join(unreachable), returncode=2)
        only = {item.strip() for item in self.config.getoption("--only").split(",") if item.strip()}
        controls = [control for control in catalogue.load() if not only or control.id in only]
        self.results = Results(controls, [_name(host) for host in hosts])
        self.progress.start()

    def _hosts(self) -> list[testinfra.host.Host]:
        option = self.config.option
        if not option.hosts:
            pytest.exit("--hosts is missing; such as --hosts=ansible://xmpp", returncode=2)
        try:
            hosts = testinfra.get_hosts(
                option.hosts.split(","), ansible_inventory=option.ansible_inventory, ssh_config=option.ssh_config
            )
        except Exception as error:
            pytest.exit(f"the inventory cannot be used: {_last_line(error)}", returncode=2)
        if not hosts:
            pytest.exit(f"{option.ansible_inventory}: no host matches {option.hosts}", returncode=2)
        return hosts

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Without xdist: how much there is to do."""
        self.progress.update(self.task, total=len(items))

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """With xdist: how much there is to do, by a worker's count."""
        self.progress.update(self.task, total=len(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A test file that cannot be read is no proof of anything."""
        if report.failed:
            self.broken.append(f"{report.nodeid}: {report.longreprtext.strip().splitlines()[-1]}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's outcome."""
        if report.when == "teardown":
            self.progress.advance(self.task)
        if report.passed and report.when != "call":
            return
        properties = [(name, str(value)) for name, value in report.user_properties]
        outcome = Outcome(
            report.outcome,
            [value for name, value in properties if name == "evidence"],
            "" if report.passed else _reason(report),
        )
        controls = [value for name, value in properties if name == "control"]
        self.results.add(controls, dict(properties).get("host", ""), outcome)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say why it ended before it began."""
        self.progress.stop()
        if isinstance(excinfo.value, pytest.exit.Exception):
            self.console.print(f"[red]{excinfo.value.msg}[/red]" if self.console.is_terminal else excinfo.value.msg)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Tell the result and set the exit status."""
        self.progress.stop()
        if exitstatus == pytest.ExitCode.INTERRUPTED and not self.broken:
            return
        verdicts = list(self.results.verdicts())
        if self.broken:
            self.console.print("\n".join(self.broken), style="red")
        self.console.print(terminal.table(verdicts, unicode=not self.console.options.ascii_only))
        self.console.print(terminal.summary_line(verdicts, time.monotonic() - self.started))
        directory = self.config.getoption("--report-dir")
        if directory:
            write_json(verdicts, directory / "verify.json")
            self.console.print(f"{directory / 'verify.json'}")
        session.exitstatus = self._exit_status(verdicts, exitstatus)

    def _exit_status(self, verdicts: list[Verdict], pytest_status: int) -> int:
        if self.broken or pytest_status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return 2
        return 1 if summary(verdicts)[FAILED] else 0


def _reason(report: pytest.TestReport) -> str:
    """One line: why a test was skipped or what it found."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return shorten(crash.message if crash else report.longreprtext)


def shorten(message: str) -> str:
    """An exception's text in one line, without Python's and testinfra's trimmings."""
    command = UNEXPECTED_EXIT.search(message)
    if command:
        said = command["said"].replace("\\r", "").replace("\\n", "\n").strip().splitlines()
        return f"exit status {command['status']}: {said[-1] if said else 'no word'}"
    line = next((line.strip() for line in message.splitlines() if line.strip()), "failed")
    return textwrap.shorten(EXCEPTION_NAME.sub("", line), LONGEST_REASON, placeholder=" ...")


def _unreachable(host: testinfra.host.Host) -> str:
    try:
        host.run_expect([0], "true")
    except Exception as error:
        return f"{_name(host)}: unreachable: {shorten(str(error))}"
    return ""


def _name(host: Any) -> str:
    return str(host.backend.get_pytest_id().rpartition("://")[2])


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
