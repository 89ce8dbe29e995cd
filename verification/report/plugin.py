"""pytest plugin: progress while the tests run, a table per control afterwards, verify.{html,json,junit.xml}.

Use: pytest verification -p verification.report.plugin --ansible-inventory=INV --hosts=ansible://xmpp --report-dir DIR

Exit status: 0 nothing failed, 1 a control failed, 2 unusable input (inventory, host, --only), a broken test or no test.
The report is written in each case in which there is a host to report on.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import re
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from _pytest.terminal import TerminalReporter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from testinfra.utils.ansible_runner import AnsibleRunner

from verification import catalogue, outside, targets, waivers
from verification.probes import bare, tls, xmpp

from . import junit, page, terminal
from .evidence import clean
from .results import FAILED, Outcome, Results, Run, write_json

# A command that failed, as testinfra's exceptions have it.
UNEXPECTED_EXIT = re.compile(r"exit_status=(?P<status>\d+), .*_stderr=b(['\"])(?P<said>.*?)\2\)", re.DOTALL)
EXCEPTION_NAME = re.compile(r"^(AssertionError: |Failed: |([a-z_]+\.)+(?=[A-Z]))")
# What the probes raise, as somebody reads it who does not know them.
IN_WORDS = {
    "AuthenticationFailed": "the login is refused: ",
    "NotOffered": "",
    "Speechless": "",
    "StanzaError": "the server answers ",
    "StreamEnded": "the stream ended: ",
    "TimeoutError": "no answer: ",
}
LONGEST_REASON = 240
WORKERS, MOST_WORKERS = 6, 16


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --report-dir."""
    group = parser.getgroup("verification")
    group.addoption(
        "--report-dir", metavar="DIR", type=Path, help="write verify.html, verify.json and verify.junit.xml there"
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Report in our own words, once: not in xdist's workers, not when tests are only listed."""
    if hasattr(config, "workerinput"):
        config.option.hosts = config.workerinput["hosts"]
        config.option.accounts = config.workerinput["accounts"]
        _runner(config).inventory = config.workerinput["inventory"]
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if config.getoption("verbose") <= 0:
        _silence(config)
    config.pluginmanager.register(Reporter(config), "verification-reporter")


@pytest.hookimpl(tryfirst=True)  # xdist's own answer is the number of cores
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """With --numprocesses=auto: more than there are cores, for the tests mostly wait for a server."""
    with contextlib.suppress(Exception):  # what is wrong with the inventory, the session tells
        return min(MOST_WORKERS, WORKERS + len(_hosts(config)) // 2)
    return WORKERS


def _hosts(config: pytest.Config, *patterns: str) -> list[testinfra.host.Host]:
    option = config.option
    return testinfra.get_hosts(
        patterns or option.hosts.split(","), ansible_inventory=option.ansible_inventory, ssh_config=option.ssh_config
    )


def _runner(config: pytest.Config) -> AnsibleRunner:
    """What testinfra knows of the inventory; it would run ansible-inventory in each process."""
    return AnsibleRunner.get_runner(config.option.ansible_inventory)


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
        self.bare_seconds = 0.0
        self.begun = False
        self.outside = bool(config.getoption("--from-outside"))
        self.problems: list[str] = []
        self.hosts: list[testinfra.host.Host] = []
        self.results = Results([], [])
        self.secrets = _secrets(config.getoption("--accounts"))
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
    def pytest_sessionstart(self) -> None:
        """Before xdist starts its workers: are there hosts, are the exceptions in order, and does each host answer?

        Those that do not answer are left out, and the run is not complete.
        """
        hosts = self._hosts()
        waived = self._waivers()
        mute = self._unreachable(hosts)
        self.hosts = [host for host in hosts if host not in mute]
        only = {item.strip() for item in self.config.getoption("--only").split(",") if item.strip()}
        controls = [control for control in catalogue.load() if not only or control.id in only]
        self.results = Results(controls, [_name(host) for host in self.hosts or hosts], waived)
        if not self.hosts:
            self._write(self._run())
            pytest.exit("\n".join(self.problems), returncode=2)
        refused = list(self._locked_out())
        if refused:  # what takes a login is then not shown, instead of not held
            self.problems += refused
            self.config.option.accounts = None
        if mute:
            self.config.option.hosts = ",".join(f"ansible://{_name(host)}" for host in self.hosts)
        with contextlib.suppress(Exception):  # what is wrong with their variables, the tests tell
            self.bare_seconds = bare.seconds([self._target(host) for host in self.hosts])
        self.begun = True
        self.progress.start()

    def pytest_configure_node(self, node: Any) -> None:
        """With xdist: a worker is told which hosts answered, whether the accounts are taken, and what Ansible read."""
        node.workerinput["hosts"] = self.config.option.hosts
        node.workerinput["accounts"] = self.config.option.accounts
        node.workerinput["inventory"] = _runner(self.config).inventory

    def _waivers(self) -> tuple[waivers.Waiver, ...]:
        try:
            return waivers.load(waivers.beside(self.config.option.ansible_inventory))
        except waivers.Malformed as error:
            pytest.exit(str(error), returncode=2)

    def _unreachable(self, hosts: list[testinfra.host.Host]) -> list[testinfra.host.Host]:
        """The hosts that do not answer, to a login or to a stranger where nobody logs in; each becomes a problem."""
        ask = self._mute if self.outside else self._mute_inside
        with ThreadPoolExecutor(max(1, len(hosts))) as pool:
            words = dict(zip(hosts, pool.map(ask, hosts)))
        self.problems += [self._clean(line) for line in words.values() if line]
        return [host for host, line in words.items() if line]

    def _mute(self, host: testinfra.host.Host) -> str:
        return "; ".join(outside.troubles(self._target(host)))

    def _mute_inside(self, host: testinfra.host.Host) -> str:
        """Why there is nothing to judge on a host that we log in to: neither SSH nor XMPP may be missing."""
        line = _unreachable(host)
        if line or not self.config.option.ansible_inventory:
            return line
        try:
            target = self._target(host)
            address, port = target.at(xmpp.C2S)
        except Exception:  # what is wrong with its variables, the tests tell
            return ""
        trouble = outside.trouble(address, port, xmpp.C2S, target.domain)
        return f"{_name(host)}: {trouble}" if trouble else ""

    def _locked_out(self) -> Iterator[str]:
        """Each account of --accounts whose password is not taken."""
        path = self.config.getoption("--accounts")
        accounts = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else []
        for target in map(self._target, self.hosts if accounts else []):
            for jid, password in ((account["jid"], account["password"]) for account in accounts):
                if jid.rpartition("@")[2] not in target.domains:
                    continue
                try:
                    xmpp.Client.login(*target.at(xmpp.C2S), jid, password, bind=False).stream.close()
                except xmpp.AuthenticationFailed as failure:
                    if failure.condition == "not-authorized":
                        yield self._clean(f"--accounts: {jid} is refused: {failure}")
                except (OSError, ValueError, xmpp.StreamEnded, tls.Refused):
                    continue  # the tests tell

    def _target(self, host: testinfra.host.Host) -> targets.Target:
        return targets.load(self.config.option.ansible_inventory, _name(host))

    def _clean(self, text: str) -> str:
        return clean(text, self.secrets)

    def _hosts(self) -> list[testinfra.host.Host]:
        option = self.config.option
        if not option.hosts:
            pytest.exit("--hosts is missing; such as --hosts=ansible://xmpp", returncode=2)
        try:
            hosts = _hosts(self.config)
            unknown = [pattern for pattern in option.hosts.split(",") if not _hosts(self.config, pattern)]
        except Exception as error:
            pytest.exit(f"the inventory cannot be used: {_last_line(error)}", returncode=2)
        if unknown:
            pytest.exit(f"{option.ansible_inventory}: no host matches {', '.join(unknown)}", returncode=2)
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
            self.problems.append(self._clean(f"{report.nodeid}: {report.longreprtext.strip().splitlines()[-1]}"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's outcome."""
        if report.when == "teardown":
            self.progress.advance(self.task)
        if report.passed and report.when != "call":
            return
        properties = [(name, str(value)) for name, value in report.user_properties]
        outcome = Outcome(
            report.outcome,
            [self._clean(value) for name, value in properties if name == "evidence"],
            "" if report.passed else self._clean(_reason(report)),
            report.nodeid.rpartition("::")[2].partition("[")[0],
        )
        controls = [value for name, value in properties if name == "control"]
        self.results.add(controls, dict(properties).get("host", ""), outcome)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say why it ended before its end."""
        self.progress.stop()
        if isinstance(excinfo.value, pytest.exit.Exception):
            self.console.print(excinfo.value.msg, style="red", markup=False)
        else:
            self.problems.append("it was interrupted")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Tell the result and set the exit status."""
        self.progress.stop()
        if not self.begun:
            return
        failed = {verdict.host for verdict in self.results.verdicts() if verdict.status == FAILED}
        self._unreachable([host for host in self.hosts if _name(host) in failed])
        run = self._run()
        self.console.print(terminal.table(run.verdicts, unicode=not self.console.options.ascii_only))
        for problem in self.problems:
            self.console.print(problem, style="red", markup=False)
        self.console.print(terminal.summary_line(run))
        self._write(run)
        session.exitstatus = self._exit_status(run, exitstatus)

    def _exit_status(self, run: Run, pytest_status: int) -> int:
        if run.problems or pytest_status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return 2
        return 1 if run.summary[FAILED] else 0

    def _run(self) -> Run:
        """Everything that is known by now."""
        return Run(
            verdicts=list(self.results.verdicts()),
            hosts={name: self._described(name) for name in self.results.hosts},
            finished=datetime.datetime.now(datetime.timezone.utc),
            seconds=time.monotonic() - self.started,
            bare_seconds=self.bare_seconds,
            outside=self.outside,
            problems=self.problems,
        )

    def _described(self, name: str) -> str:
        """A host in words, such as "example.org at 192.0.2.1"."""
        with contextlib.suppress(Exception):  # what is wrong with its variables, the tests tell
            target = targets.load(self.config.option.ansible_inventory, name)
            return self._clean(f"{', '.join(target.domains)} at {target.address}")
        return name

    def _write(self, run: Run) -> None:
        """Write the report, if one is wanted, and say where it is."""
        directory = self.config.getoption("--report-dir")
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
            write_json(run, directory / "verify.json")
            junit.write(run, directory / "verify.junit.xml")
            page.write(run, directory / "verify.html")
            self.console.print(str(directory / "verify.html"), markup=False)


def _secrets(accounts: str | None) -> list[str]:
    """What must not be told: the passwords of the accounts to log in with."""
    if not accounts:
        return []
    return [str(account["password"]) for account in yaml.safe_load(Path(accounts).read_text(encoding="utf-8"))]


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
    line = EXCEPTION_NAME.sub("", line)
    name, _, rest = line.partition(": ")
    return textwrap.shorten(f"{IN_WORDS[name]}{rest}" if name in IN_WORDS else line, LONGEST_REASON, placeholder=" ...")


def _unreachable(host: testinfra.host.Host) -> str:
    try:
        host.run_expect([0], "true")
    except Exception as error:
        if "a password is required" in str(error):
            return f"{_name(host)}: sudo wants a password there, and a verification has none to give"
        return f"{_name(host)}: unreachable: {shorten(str(error))}"
    return ""


def _name(host: Any) -> str:
    return str(host.backend.get_pytest_id().rpartition("://")[2])


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
