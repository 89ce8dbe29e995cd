"""All problems of a deployment, at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from plugins.preflight.deployment import Deployment, Problem, is_secret, problem
from plugins.preflight.meanings import MEANINGS, findings, secret
from plugins.preflight.rules import RULES
from plugins.preflight.shapes import shape_problems, suggestion

__all__ = ["RENAMED", "problems"]

RENAMED: dict[str, str] = {}
"""Variables of former versions: the old name, and the new one or a sentence on what to do instead."""

SHARED_PREFIX = "xmpp_"


def problems(
    deployment: Deployment,
    unresolved: Mapping[str, str],
    ignored: Collection[str] = (),
    renamed: Mapping[str, str] = RENAMED,
) -> list[Problem]:
    """Return every problem of `deployment`.

    `unresolved` holds, by variable, why its expression could not be resolved; `ignored` names that are somebody else's
    although they begin like ours. A default that is wrong only because a variable it follows is wrong is no problem of
    its own.
    """
    found = list(_name_problems(deployment, ignored, renamed))
    unsound: dict[str, list[Problem]] = {}
    for variable in deployment.options:
        own = list(_value_problems(deployment, variable, unresolved))
        if own:
            unsound[variable] = own
            if deployment.is_chosen(variable) or variable not in deployment.defaults:
                found += own
    for rule in RULES:
        if all(variable in deployment.options and variable not in unsound for variable in rule.reads):
            found += rule.check(deployment)
    return found or [entry for own in unsound.values() for entry in own]


def _name_problems(deployment: Deployment, ignored: Collection[str], renamed: Mapping[str, str]) -> Iterator[Problem]:
    """Unknown and renamed variables among those that begin like ours, or that nearly are one of ours."""
    prefixes = (SHARED_PREFIX, *(f"{role.name}_" for role in deployment.roles))
    for name in sorted(set(deployment.variables) - set(deployment.options) - set(ignored)):
        if name in renamed:
            new = renamed[name]
            yield Problem(name, "a name of a former version", f"{new} is wanted" if new in deployment.options else new)
        elif name.startswith(prefixes) or _is_slip(name, deployment.options):
            yield Problem(name, "unknown", f"no role reads it{suggestion(name, deployment.options)}")


def _is_slip(name: str, known: Collection[str]) -> bool:
    return not name.startswith(("ansible_", "__")) and bool(get_close_matches(name, known, n=1, cutoff=0.9))


def _value_problems(deployment: Deployment, variable: str, unresolved: Mapping[str, str]) -> Iterator[Problem]:
    option = deployment.options[variable]
    if variable in unresolved:
        yield Problem(variable, "an expression that fails", unresolved[variable])
        return
    if variable not in deployment.values:
        if option.get("required"):
            yield Problem(variable, "missing", str(option.get("description")))
        return
    value = deployment.values[variable]
    shape = list(shape_problems(variable, value, option))
    yield from shape
    if shape or value is None:
        return
    meaning = MEANINGS.get(variable, secret if is_secret(variable) else None)
    if meaning:
        for where, got, wanted in findings(meaning, value):
            yield problem(f"{variable}{where}", got, wanted)
