"""Test files take turns: side by side, but for those that need the servers for themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parents[2]

CONFTEST = """\
import pathlib, pytest
from verification.turns import Turns

def pytest_configure(config):
    config.addinivalue_line("markers", "alone: .")
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Turns(pathlib.Path({inventory!r})))
"""

# Each test notes when it begins and ends; the clock is the machine's, the same for all workers.
TEST = """\
import json, pathlib, time, pytest
{mark}
@pytest.fixture(scope="module")
def kept():
    yield

@pytest.mark.parametrize("number", range(3))
def test_it(number, kept):
    began = time.monotonic()
    time.sleep(0.05)
    pathlib.Path({notes!r}, f"{{__name__}}-{{number}}").write_text(json.dumps([began, time.monotonic()]))
"""


def test_a_file_marked_alone_runs_when_no_other_does(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "inventory").touch()
    (tmp_path / "conftest.py").write_text(CONFTEST.format(inventory=str(tmp_path / "inventory")))
    for name, mark in {
        "a": "",
        "b": "pytestmark = pytest.mark.alone",
        "c": "",
        "d": "pytestmark = pytest.mark.alone",
    }.items():
        (tmp_path / f"test_{name}.py").write_text(TEST.format(mark=mark, notes=str(notes)))
    command = [sys.executable, "-m", "pytest", "-n4", "--dist=loadfile", "-q", str(tmp_path), f"--rootdir={tmp_path}"]
    run = subprocess.run(command, cwd=KIT, env={"PYTHONPATH": str(KIT)}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout

    def span(name: str) -> tuple[float, float]:
        times = [json.loads(note.read_text()) for note in notes.glob(f"test_{name}-*")]
        assert len(times) == 3
        return min(began for began, _ in times), max(ended for _, ended in times)

    def apart(one: str, other: str) -> bool:
        return span(one)[1] <= span(other)[0] or span(other)[1] <= span(one)[0]

    assert all(apart("b", other) and apart("d", other) for other in "ac") and apart("b", "d")
