"""The fixtures of the verification, and a way to deploy once more with other variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from verification.conftest import accounts, accounts_here, evidence, given_accounts, login, target

KIT = Path(__file__).resolve().parents[3]
Deploy = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def marker() -> str:
    """A text that occurs nowhere else."""
    return f"portcullis-{uuid.uuid4()}"


@pytest.fixture
def deploy(pytestconfig: pytest.Config) -> Deploy:
    """A function that runs playbooks/site.yml with the extra variables given to it, and returns what became of it."""

    def run(**variables: object) -> subprocess.CompletedProcess:
        playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/site.yml"]
        return subprocess.run(
            [*playbook, "-i", pytestconfig.getoption("ansible_inventory"), "-e", json.dumps(variables)],
            cwd=KIT,
            env={**os.environ, "ANSIBLE_CONFIG": str(KIT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
