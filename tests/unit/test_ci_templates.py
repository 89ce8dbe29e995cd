"""The pipelines that forks copy: each command in them exists, and what they keep is what the commands write."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cli import test as testing
from cli.common import ROOT
from cli.main import parser

TEMPLATES = sorted((ROOT / "templates/ci").glob("*.yml"))


def texts(tree: object) -> list[str]:
    """Every text in a document."""
    if isinstance(tree, dict):
        return [text for value in tree.values() for text in texts(value)]
    if isinstance(tree, list):
        return [text for value in tree for text in texts(value)]
    return [str(tree)]


def commands(path: Path) -> list[list[str]]:
    """The arguments of each call of ./portcullis."""
    lines = [line for text in texts(yaml.safe_load(path.read_text(encoding="utf-8"))) for line in text.splitlines()]
    return [shlex.split(call[1]) for line in lines if (call := re.search(r"\./portcullis (.+)", line))]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_command_of_a_pipeline_exists(path, tmp_path):
    calls = commands(path)
    assert {call[0] for call in calls} == {"test", "verify"}
    for call in calls:
        inventory = tmp_path / "hosts.yml"
        inventory.touch()
        arguments = parser().parse_args([str(inventory) if word.startswith("$") else word for word in call])
        if arguments.command == "test":
            assert testing.choose(arguments.stages)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_pipeline_keeps_what_the_commands_write(path):
    kept = [
        text for text in texts(yaml.safe_load(path.read_text(encoding="utf-8"))) if re.fullmatch(r"reports/\S*", text)
    ]
    written = {call[call.index("--report") + 1] for call in commands(path) if "--report" in call}
    assert f"{testing.REPORTS.name}/" in kept
    assert {f"{directory}/" for directory in written} <= set(kept)


def test_both_services_have_a_pipeline():
    assert [path.name for path in TEMPLATES] == ["github.yml", "gitlab.yml"]
