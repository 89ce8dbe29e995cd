"""A quiet report of a play: what changed, what failed and how long it took."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: portcullis
type: stdout
short_description: a quiet report of a play
description:
  - One line for each task that changed something, one for each role that changed nothing, everything about a failure.
    With -v one line for each task, with -vv their results as well.
  - Nothing of it is coloured where the output is not a terminal, or where NO_COLOR is set.
extends_documentation_fragment:
  - default_callback
options:
  outcome:
    description: >-
      File that receives, as JSON, how the play ended: C(changed), the number of changed tasks over all hosts,
      C(refused), whether it stopped in the role preflight or found no host, before anything was changed,
      C(hosts), those it played on,
      C(changes), each changed task with its C(host), C(name), C(actions) and, with --diff, its C(diff),
      C(failures), each failed task with its C(host), C(name) and C(words), and C(tasks), each task with its C(role),
      C(name) and C(seconds). Secrets are in none of them.
    type: path
    env:
      - name: PORTCULLIS_OUTCOME
"""

ROLE_WIDTH = 13
FIELDS = ("ok", "changed", "unreachable", "failed")
SPOKEN = ("msg", "stderr", "stdout", "module_stderr", "module_stdout", "exception")


@dataclass
class Running:
    """The task that runs now and what its hosts told so far."""

    name: str
    role: str
    path: str
    began: float
    changed: list[str] = field(default_factory=list)
    failed: bool = False


class CallbackModule(CallbackBase):
    """The callback; Ansible calls the v2_* methods."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "portcullis"

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._role_began = self._began
        self._role = ""
        self._role_spoke = False
        self._is_role = False
        self._task: Running | None = None
        self._several_hosts = False
        self._refused = False
        self._changes: list[dict[str, Any]] = []
        self._failures: list[dict[str, str]] = []
        self._tasks: list[dict[str, Any]] = []

    # What Ansible tells

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin a play; how many hosts it has decides whether lines name them."""
        self._end_task()
        self._end_role()
        manager = play.get_variable_manager()
        self._several_hosts = manager is not None and len(manager._inventory.get_hosts(play.hosts)) > 1

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """An inventory without the hosts of the play is a wrong one."""
        self._refused = True
        self._write("  The inventory has no host for this play.", constants.COLOR_ERROR)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """End the task before, begin this one."""
        self._end_task()
        name, path = task.name or task.action, task.get_path() or ""
        role = task._role.get_name() if task._role else Path(path.rpartition(":")[0]).stem
        if role != self._role:
            self._end_role()
            self._role, self._role_began, self._role_spoke = role, time.monotonic(), False
            self._is_role = task._role is not None
        self._task = Running(name, role, path, time.monotonic())
        self._transient(f"  {self._role:<{ROLE_WIDTH}} {name} ...")

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """A handler is a task."""
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note a change; show what a debug task says, and with -vv every result."""
        if result._result.get("changed") and self._task:
            self._task.changed.append(result._host.get_name())
            self._changes.append(
                {
                    "host": result._host.get_name(),
                    "name": self._task.name,
                    "actions": result._result.get("actions", []),
                    "diff": list(_differences(result._result)),
                }
            )
        if result._task.action in ("debug", "ansible.builtin.debug") and "msg" in result._result:
            self._transient("")
            self._write(f"\n{result._result['msg']}\n")
        if self._display.verbosity > 1:
            self._write(textwrap.indent(self._dump_results(result._result), "    "))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Tell everything about a failure at once."""
        if ignore_errors or not self._task:
            return
        self._task.failed = True
        self._refused = self._refused or self._task.role == "preflight"
        self._tell_failure("FAILED", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Tell why a host is out of reach."""
        if self._task:
            self._task.failed = True
            self._tell_failure("UNREACHABLE", result)

    def v2_on_file_diff(self, result: Any) -> None:
        """With --diff show what changes."""
        text = self._get_diff(list(_differences(result._result)))
        if text:
            self._write(text.rstrip("\n"))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End with a line for each host, and leave the outcome for who asked for it."""
        self._end_task()
        self._end_role()
        summaries = {host: stats.summarize(host) for host in sorted(stats.processed)}
        width = max(map(len, summaries), default=0)
        seconds = time.monotonic() - self._began
        if summaries:
            self._write("")
        for host, summary in summaries.items():
            summary["failed"] = summary["failures"]
            counts = "  ".join(f"{name}={summary[name]}" for name in FIELDS)
            bad = summary["failed"] or summary["unreachable"]
            colour = constants.COLOR_ERROR if bad else constants.COLOR_CHANGED if summary["changed"] else None
            self._write(f"  {host:<{width}}  {counts}  in {seconds:.1f} s", colour or constants.COLOR_OK)
        if context.CLIARGS.get("check"):
            self._write("  This was check mode: nothing was changed.")
        outcome = self.get_option("outcome")
        if outcome:
            changed = sum(summary["changed"] for summary in summaries.values())
            told = {"changed": changed, "refused": self._refused, "hosts": list(summaries)}
            told |= {"changes": self._changes, "failures": self._failures, "tasks": self._tasks}
            Path(outcome).write_text(json.dumps(told, default=str), encoding="utf-8")

    # What we make of it

    def _end_task(self) -> None:
        task, self._task = self._task, None
        self._transient("")
        if not task:
            return
        seconds = time.monotonic() - task.began
        self._tasks.append({"role": task.role, "name": task.name, "seconds": round(seconds, 3)})
        if task.failed:
            return
        if task.changed:
            where = f" [{', '.join(task.changed)}]" if self._several_hosts else ""
            self._line(task.name + where, seconds, constants.COLOR_CHANGED)
        elif self._display.verbosity:
            self._line(task.name, seconds, constants.COLOR_OK)

    def _end_role(self) -> None:
        if self._role and self._is_role and not self._role_spoke:
            self._line("nothing to change", time.monotonic() - self._role_began, constants.COLOR_OK)
        self._role = ""

    def _line(self, text: str, seconds: float, colour: str) -> None:
        label = "" if self._role_spoke else self._role
        self._role_spoke = True
        width = _columns() - ROLE_WIDTH - 14
        text = textwrap.shorten(text, width, placeholder=" ...")
        self._write(f"  {label:<{ROLE_WIDTH}} {text:<{width}} {seconds:6.1f} s", colour)

    def _tell_failure(self, word: str, result: Any) -> None:
        self._transient("")
        label = "" if self._role_spoke else self._role
        self._role_spoke = True
        task = self._task
        assert task is not None
        host = result._host.get_name()
        self._write(f"  {label:<{ROLE_WIDTH}} {task.name}: {word} on {host}", constants.COLOR_ERROR)
        items = [item for item in result._result.get("results", []) if item.get("failed")] or [result._result]
        told = [line for item in reversed(items) for line in _words(item)]
        self._failures.append({"host": host, "name": task.name, "words": "\n".join(told)})
        told += [f"at {os.path.relpath(task.path)}"] if task.path else []
        self._write(textwrap.indent("\n".join(told), "      "), constants.COLOR_ERROR)

    def _transient(self, text: str) -> None:
        """Show what runs now on a terminal's last line; an empty text clears it."""
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[K{text[: _columns() - 1]}")
            sys.stdout.flush()

    def _write(self, text: str, colour: str | None = None) -> None:
        self._display.display(text, color=colour)


def _columns() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def _differences(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every difference that a result or one of its items shows; a secret one shows none."""
    for item in [result, *result.get("results", [])]:
        diff = item.get("diff") or []
        yield from [diff] if isinstance(diff, dict) else diff


def _words(result: dict[str, Any]) -> list[str]:
    """What a failed result says, each thing once; nothing of a secret one."""
    if "censored" in result:
        return [str(result["censored"])]
    said: list[str] = []
    for key in SPOKEN:
        text = str(result.get(key) or "").strip()
        if text and key == "exception" and said:
            continue
        if text and not any(text in other for other in said):
            said.append(text if key == "msg" else f"{key}:\n{text}")
    return said or [json.dumps(result, indent=2, default=str)]
