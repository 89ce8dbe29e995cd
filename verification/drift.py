"""How hosts differ from what the playbook would make of them: site.yml in check mode, which changes nothing."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .catalogue import KIT

PLAYBOOK = "playbooks/site.yml"
LONGEST_DIFF = 40  # lines


class NotPlayed(Exception):
    """The playbook did not come to its end; the text is what it said."""


@dataclass
class Drift:
    """What the playbook would change on a host, a line each, and why it could not tell."""

    changes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    failure: str = ""


def measure(inventory: str, pattern: str) -> dict[str, Drift]:
    """Play site.yml in check mode on the hosts of a pattern. Raises NotPlayed."""
    with tempfile.TemporaryDirectory(prefix="portcullis-") as directory:
        told = Path(directory) / "outcome.json"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        changes = {"ANSIBLE_STDOUT_CALLBACK": "portcullis", "PORTCULLIS_OUTCOME": str(told), "PATH": path}
        environment = {**os.environ, **changes, "ANSIBLE_CONFIG": str(KIT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment.pop("ANSIBLE_BECOME", None)  # the plays say themselves where root is needed
        play = subprocess.run(
            ["ansible-playbook", "-i", inventory, PLAYBOOK, "--check", "--diff", "--limit", pattern],
            cwd=KIT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if not told.exists():
            raise NotPlayed(play.stdout.strip())
        return read(json.loads(told.read_text(encoding="utf-8")))


def read(outcome: Mapping[str, Any]) -> dict[str, Drift]:
    """The drift of each host by what the callback of the kit left behind (plugins/callback/portcullis.py)."""
    drifts = {host: Drift() for host in outcome["hosts"]}
    for change in outcome["changes"]:
        drift = drifts[change["host"]]
        paths = list(dict.fromkeys(filter(None, map(_path, change["diff"]))))
        drift.changes += paths or [change["name"]]
        drift.lines.append(": ".join([change["name"], ", ".join(change["actions"]) or "would change"]))
        for difference in change["diff"]:
            drift.lines += _lines(difference)
    for failure in outcome["failures"]:
        drifts[failure["host"]].failure = f"{failure['name']}: {failure['words']}"
    return drifts


def _path(difference: Mapping[str, Any]) -> str:
    return str(difference.get("after_header") or difference.get("before_header") or "").partition(" ")[0]


def _lines(difference: Mapping[str, Any]) -> Iterator[str]:
    """A difference as `diff` tells it, without its middle where it is long."""
    if "prepared" in difference:
        lines = str(difference["prepared"]).splitlines()
    else:
        before, after = (_text(difference.get(side)) for side in ("before", "after"))
        names = str(difference.get("before_header", "before")), str(difference.get("after_header", "after"))
        lines = list(difflib.unified_diff(before, after, *names, lineterm="", n=1))
    yield from lines[:LONGEST_DIFF]
    if len(lines) > LONGEST_DIFF:
        yield f"... and {len(lines) - LONGEST_DIFF} lines more"


def _text(value: Any) -> list[str]:
    return (value if isinstance(value, str) else json.dumps(value, indent=2, sort_keys=True)).splitlines()
