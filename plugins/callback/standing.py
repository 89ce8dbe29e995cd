"""Keeps plugins/standing.py up to date: what debian_facts has found counts until a task changes the host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins import standing

DOCUMENTATION = """
name: standing
type: notification
short_description: lets install_files leave out round trips that would find nothing
description:
  - Notes which transactions stand on a host, as M(debian_facts) returns it, and forgets it with the first task that
    changes something there, or fails.
requirements:
  - enabled in the configuration
"""


class CallbackModule(CallbackBase):
    """The callback; Ansible calls the v2_* methods."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "standing"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Nothing is known of any host."""
        standing.forget()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note what stands; forget it once something has changed, everywhere if it was changed by delegation."""
        if result._result.get("changed"):
            standing.forget(None if result._task.delegate_to else result._host.get_name())
        elif result._task.action == "debian_facts":
            standing.note(result._host.get_name(), result._result.get("standing", {}))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """What failed may have changed something before."""
        standing.forget(None if result._task.delegate_to else result._host.get_name())

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host that was out of reach may be another one when it is back."""
        standing.forget(result._host.get_name())
