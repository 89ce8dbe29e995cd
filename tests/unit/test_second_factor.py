"""The libraries of the second factor, outside Prosody: the tests themselves are in roles/mfa/tests."""

import functools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "roles" / "mfa" / "tests"
SPECS = sorted(path.stem for path in TESTS.glob("*_spec.lua"))


@functools.cache
def outcome() -> str:
    """What busted says, in the form of TAP."""
    command = ["busted", "--lua=lua5.4", "--output=TAP", f"--helper={TESTS / 'helper.lua'}", str(TESTS)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return run.stdout + run.stderr


@pytest.mark.parametrize("spec", SPECS)
def test_library(spec):
    subject = re.search(r'^describe\("(.+?)"', (TESTS / f"{spec}.lua").read_text(), re.MULTILINE)
    assert subject
    lines = [line for line in outcome().splitlines() if f" - {subject[1]} " in line]
    assert lines, outcome()
    assert all(line.startswith("ok ") for line in lines), outcome()
