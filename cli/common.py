"""What the commands share: exit statuses, where things are, how a tool of .venv is called."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOOD, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


class WrongInput(Exception):
    """What was asked for cannot be done; the text says what is wrong and what would be right. Exit status 2."""


def tool(name: str) -> str:
    """The path of a program of the environment that this Python belongs to."""
    return str(Path(sys.executable).parent / name)


def environment(**changes: str) -> dict[str, str]:
    """The environment for a tool: the kit's Ansible settings and the environment's programs first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **changes}


def inventory(value: str) -> str:
    """An argument of the command line that names an inventory: an existing path, or a host list with a comma."""
    if "," in value:
        return value
    path = Path(value)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no inventory {value!r}")
    return str(path.resolve())


def progress(text: str) -> None:
    """Replace the line under the cursor by `text`, on a terminal; nowhere else is there anything to replace."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write(f"\r\x1b[K{text[:width]}")
        sys.stdout.flush()


@contextmanager
def timed_line(text: str) -> Iterator[None]:
    """Print `text` with the seconds that the block took, once it is done; on a terminal show meanwhile that it runs."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - see __init__.py

    began = time.monotonic()
    with Progress(
        SpinnerColumn(), TextColumn(text), TimeElapsedColumn(), transient=True, disable=not sys.stdout.isatty()
    ) as progress_line:
        progress_line.add_task(text, total=None)
        yield
    print(f"  {text:<{columns() - 13}} {time.monotonic() - began:6.1f} s", flush=True)


def columns() -> int:
    """How wide a line of ours may be: as plugins/callback/portcullis.py has it."""
    return min(shutil.get_terminal_size((100, 24)).columns, 120)
