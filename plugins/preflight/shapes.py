"""Does a value have the type, the keys and the choices that its argument spec declares?

Stricter than Ansible, which accepts a value when it *could* be converted and then hands the role the unconverted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from plugins.preflight.deployment import Problem, problem

__all__ = ["shape_problems", "suggestion"]

TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str, int, float), "a string"),
    "path": ((str,), "a path"),
    "int": ((int,), "a whole number, without quotes"),
    "float": ((int, float), "a number, without quotes"),
    "bool": ((bool,), "true or false, without quotes (with -e: -e '{\"variable\": true}')"),
    "list": ((list, tuple), "a list"),
    "dict": ((Mapping,), "a mapping"),
}


def suggestion(name: str, known: Any) -> str:
    """Return ", did you mean ...?" for the known name nearest to `name`, or nothing."""
    nearest = get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def shape_problems(variable: str, value: Any, option: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what keeps `value` from having the shape that `option`, an argument spec, declares."""
    if value is None and not option.get("required") and option.get("default") is None:
        return
    kind = option.get("type", "str")
    if kind in TYPES and not _has_type(value, kind):
        yield problem(variable, value, f"{TYPES[kind][1]} is wanted")
    elif kind == "list":
        element = {**option, "type": option.get("elements", "raw"), "required": True}
        for index, entry in enumerate(value):
            yield from shape_problems(f"{variable}[{index}]", entry, element)
    elif "choices" in option and value not in option["choices"]:
        yield problem(variable, value, f"one of {', '.join(map(str, option['choices']))} is wanted")
    elif kind == "dict" and "options" in option:
        yield from _key_problems(variable, value, option["options"])


def _has_type(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind][0]) and (kind == "bool" or not isinstance(value, bool))


def _key_problems(variable: str, value: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Problem]:
    for key in value:
        if key not in options:
            wanted = f"no such key is known, only {', '.join(options)}{suggestion(str(key), options)}"
            yield problem(f"{variable}.{key}", value[key], wanted)
    for key, option in options.items():
        if key in value:
            yield from shape_problems(f"{variable}.{key}", value[key], option)
        elif option.get("required"):
            yield Problem(f"{variable}.{key}", "missing", " ".join(_description(option)))


def _description(option: Mapping[str, Any]) -> list[str]:
    description = option.get("description", [])
    return [description] if isinstance(description, str) else description
