"""The catalogue: controls, threats, what to do about each control, and the tests that bear the controls."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

KIT = Path(__file__).resolve().parents[1]
CONTROLS = Path(__file__).with_name("controls.yml")
THREATS = Path(__file__).with_name("threats.yml")
REMEDIES = Path(__file__).with_name("remedies.yml")


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


@functools.cache
def remedies(path: Path = REMEDIES) -> dict[str, str]:
    """Id of a control -> how to mend what breaks it, on a server of the kit and on any other."""
    found: dict[str, str] = yaml.safe_load(path.read_text())
    return found


@functools.cache
def proofs() -> dict[str, dict[Path, list[str]]]:
    """Map each control that tests bear to the names of the tests by file, read from their source."""
    found: dict[str, dict[Path, list[str]]] = {}
    for (path, name), controls in tests().items():
        for control in controls:
            found.setdefault(control, {}).setdefault(path, []).append(name)
    return found


def tests() -> dict[tuple[Path, str], list[str]]:
    """Map every verification test, by its file relative to the kit and its name, to the controls that it bears."""
    found = {}
    for path in sorted([*KIT.glob("verification/test_*.py"), *KIT.glob("molecule/*/tests/test_*.py")]):
        body = ast.parse(path.read_text()).body
        # What the decorators of several tests share is a constant of the file.
        constants = {
            node.targets[0].id: node.value
            for node in body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                trees = [*node.decorator_list]
                names = [each.id for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Name)]
                trees += [constants[name] for name in names if name in constants]
                found[path.relative_to(KIT), node.name] = sorted(
                    {control for tree in trees for control in _controls(tree)}
                )
    return found


def _controls(tree: ast.expr) -> Iterator[str]:
    """The ids in `control("...")` anywhere in a decorator, a mark of one parameter included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "control":
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))
