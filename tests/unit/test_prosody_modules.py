"""Our Prosody modules, outside Prosody: the tests themselves are in tests/lua."""

import functools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HARNESS = ROOT / "tests" / "lua" / "harness.lua"
FILES = sorted(path for path in HARNESS.parent.glob("*.lua") if path != HARNESS)
TESTS = [(path, name) for path in FILES for name in re.findall(r'^test\("(.+?)"', path.read_text(), re.MULTILINE)]


@functools.cache
def outcome(path: Path) -> str:
    """What the harness prints of a file's tests."""
    run = subprocess.run(
        ["lua5.4", str(HARNESS), str(path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    return run.stdout + run.stderr


@pytest.mark.parametrize(("path", "name"), TESTS, ids=[f"{path.stem}: {name}" for path, name in TESTS])
def test_lua(path, name):
    assert f"ok {name}" in outcome(path).splitlines(), outcome(path)


def test_every_module_has_tests():
    modules = {path.stem.removeprefix("mod_") for path in (ROOT / "roles/prosody/files/modules").glob("mod_*.lua")}
    assert modules == {path.stem for path in FILES}
