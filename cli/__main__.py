"""Runs as `python cli` from anywhere, and as `python -m cli` from the root of the kit."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cli.main import main  # noqa: E402 - the line above makes it importable

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
