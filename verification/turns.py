"""Tests share the servers; those that deploy, restart or break something have them for themselves."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


class Turns:
    """Lets test files run side by side, and one marked `alone` (`pytestmark`) when no other runs.

    A turn is a whole file's, because the fixtures of a file may keep a connection open from test to test.

    Args:
        inventory: the file or directory that the workers have in common, and lock.
    """

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        self.turn: int | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        """Wait for the file's turn before its first test, and end it after its last."""
        if self.turn is None:
            self.turn = os.open(self.inventory, os.O_RDONLY)
            fcntl.flock(self.turn, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            if not nextitem or nextitem.path != item.path:
                os.close(self.turn)
                self.turn = None
