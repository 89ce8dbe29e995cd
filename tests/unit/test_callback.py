"""The terse output of a play, by real plays on the control node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Nothing new
      ansible.builtin.command: "true"
      changed_when: false
    - name: Something new
      ansible.builtin.command: "true"
      changed_when: true
    - name: A secret
      ansible.builtin.command: echo hunter2
      changed_when: false
      failed_when: fail_secret | default(false) | bool
      no_log: true
    - name: For the operator
      ansible.builtin.debug:
        msg: "first line\\nsecond line"
    - name: A failure
      ansible.builtin.command: sh -c 'echo it broke here >&2; exit 3'
      when: fail | default(false) | bool
"""


@pytest.fixture
def play(tmp_path):
    """A function that plays PLAY and returns the result and the outcome file."""

    def run(*arguments: str, hosts: str = "all") -> tuple[subprocess.CompletedProcess[str], dict]:
        (tmp_path / "some.yml").write_text(PLAY.replace("hosts: all", f"hosts: {hosts}"))
        result = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                "-i",
                "localhost,",
                "-c",
                "local",
                *arguments,
                "some.yml",
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "portcullis",
                "ANSIBLE_NOCOLOR": "1",
                "PORTCULLIS_OUTCOME": str(tmp_path / "outcome.json"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return result, json.loads((tmp_path / "outcome.json").read_text())

    return run


def test_only_changes_are_told(play):
    result, outcome = play()
    assert result.returncode == 0
    assert "Something new" in result.stdout
    assert "Nothing new" not in result.stdout
    assert "ok=4  changed=1  unreachable=0  failed=0" in result.stdout
    tasks = outcome.pop("tasks")
    assert [(task["role"], task["name"]) for task in tasks][:2] == [("some", "Nothing new"), ("some", "Something new")]
    assert all(task["seconds"] > 0 for task in tasks)
    assert outcome == {
        "changed": 1,
        "refused": False,
        "hosts": ["localhost"],
        "changes": [{"host": "localhost", "name": "Something new", "actions": [], "diff": []}],
        "failures": [],
    }


def test_what_is_meant_for_the_operator_is_told_as_it_is(play):
    assert "\nfirst line\nsecond line\n" in play()[0].stdout


def test_verbose_tells_every_task(play):
    assert "Nothing new" in play("-v")[0].stdout


def test_a_failure_is_told_whole(play):
    result, outcome = play("-e", "fail=true")
    assert result.returncode == 2
    assert "A failure: FAILED on localhost" in result.stdout
    assert "it broke here" in result.stdout
    assert "at some.yml:" in result.stdout
    assert (outcome["changed"], outcome["refused"]) == (1, False)
    (failure,) = outcome["failures"]
    assert (failure["host"], failure["name"]) == ("localhost", "A failure")
    assert "it broke here" in failure["words"]


def test_a_secret_stays_one(play):
    result, outcome = play("-e", "fail_secret=true")
    assert "A secret: FAILED" in result.stdout
    assert "hunter2" not in result.stdout
    assert "hunter2" not in json.dumps(outcome)


def test_check_mode_is_named(play):
    assert "check mode" in play("--check")[0].stdout


def test_an_inventory_without_hosts_is_refused(play):
    result, outcome = play(hosts="xmpp")
    assert result.returncode == 0
    assert "no host for this play" in result.stdout
    assert (outcome["changed"], outcome["refused"], outcome["hosts"]) == (0, True, [])
