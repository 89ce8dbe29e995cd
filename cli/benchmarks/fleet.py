"""How a deployment grows with the number of hosts"""

from __future__ import annotations

from cli.benchmarks import Figure
from cli.lab import Failed

NEEDS = ["containers"]


def measure() -> list[Figure]:
    """Raises Failed: it is not built yet."""
    raise Failed("This part is not built yet.")
