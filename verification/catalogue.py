"""The catalogue: the controls of controls.yml and the threats of threats.yml."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import yaml

CONTROLS = Path(__file__).with_name("controls.yml")
THREATS = Path(__file__).with_name("threats.yml")


@dataclass(frozen=True)
class Threat:
    """A risk, in plain words: what happens, and what stands against it."""

    id: str
    title: str
    what: str
    stands: str


@dataclass(frozen=True)
class Control:
    """One promise.

    Attributes:
        id: AREA-NN.
        threat: id of the threat it stands against.
        title: the promise, in plain English.
        standard: where it is asked for.
        status: "built" (tests prove it) or "planned".
        planned_in: what brings it, when planned.
    """

    id: str
    threat: str
    title: str
    standard: str
    status: str
    planned_in: str = ""

    @property
    def area(self) -> str:
        """The part of the id before the number."""
        return self.id.rpartition("-")[0]

    @property
    def planned(self) -> bool:
        """Whether nothing proves it yet."""
        return self.status == "planned"


@functools.cache
def load(path: Path = CONTROLS) -> tuple[Control, ...]:
    """Every control, in the catalogue's order."""
    return tuple(Control(**entry) for entry in yaml.safe_load(path.read_text()))


@functools.cache
def threats(path: Path = THREATS) -> tuple[Threat, ...]:
    """Every threat, in the catalogue's order."""
    return tuple(Threat(id=name, **entry) for name, entry in yaml.safe_load(path.read_text())["threats"].items())


@functools.cache
def areas(path: Path = THREATS) -> dict[str, str]:
    """Area of the ids -> its name in the report, in the report's order."""
    names: dict[str, str] = yaml.safe_load(path.read_text())["areas"]
    return names
