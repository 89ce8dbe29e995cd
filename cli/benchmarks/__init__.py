"""What can be measured: a module a part. Each says in its docstring what it measures, and offers

- `measure() -> list[Figure]`: boot what it needs, measure, remove it; raises cli.lab.Failed
- `NEEDS`: what must be installed besides .venv, as the entry script names it

Values of two sides are comparable only within a run: take turns (A B A B ...), and state ratios.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

PARTS = ("server", "deploy", "fleet", "attack", "mfa", "verify")


@dataclass
class Figure:
    """What was measured of each side, and perhaps what became of it as a ratio.

    Figures of a part that share label, unit and sides are shown as one, with several ratios.

    Attributes:
        key: its name in bench.json: "server.login_cpu_over_stock" is a ratio to the side that it names after `_over_`.
        label: what a person reads, such as "A login, processor time of the server".
        unit: of the values, such as "ms".
        sides: the values of each side's rounds, in the order to be shown; the kit's own side is called "ours".
        ratio: ours over the other; None: there is only something to look at.
        target: the ratio may be this at most; None: nothing is promised.
        note: a sentence to read beside it.
    """

    key: str
    label: str
    unit: str
    sides: dict[str, list[float]]
    ratio: float | None = None
    target: float | None = None
    note: str = ""

    @property
    def part(self) -> str:
        """Which part it belongs to."""
        return self.key.partition(".")[0]

    @property
    def base(self) -> str:
        """What its ratio is over, in words: "smallest peer"."""
        return self.key.partition("_over_")[2].partition(".")[0].replace("_", " ")

    @property
    def met(self) -> bool:
        """Whether it does not miss a target."""
        return self.target is None or (self.ratio is not None and self.ratio <= self.target)


def paired(ours: list[float], other: list[float]) -> float:
    """The median of the ratios of the rounds: what slows the machine down for a while slows both sides of a round."""
    return statistics.median(one / another for one, another in zip(ours, other, strict=True))


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles, in the unit of the values."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2
