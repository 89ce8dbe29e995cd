"""The deployment under validation, as the rules see it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plugins.preflight.specs import Role

__all__ = ["Deployment", "Problem", "is_secret", "problem"]

SECRET = re.compile(r"(^|_)(password|passphrase|secret|token|credential|private_key)s?(\[\d+\])?$")


@dataclass(frozen=True)
class Problem:
    """One thing to correct: which variable, what it holds, what is wanted instead."""

    variable: str
    got: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.variable} is {self.got}: {self.wanted}"


def is_secret(variable: str) -> bool:
    """Whether the value of a variable, or of a key below it, must never be shown."""
    return any(SECRET.search(part) for part in variable.split("."))


def problem(variable: str, value: Any, wanted: str) -> Problem:
    """Return a problem with `value`, which is hidden when the variable looks like a secret."""
    got = "(hidden)" if is_secret(variable) else _shown(value)
    return Problem(variable, got, wanted)


def _shown(value: Any) -> str:
    def masked(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: "(hidden)" if is_secret(str(key)) else masked(entry) for key, entry in part.items()}
        return [masked(entry) for entry in part] if isinstance(part, list) else part

    text = json.dumps(masked(value), ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."


@dataclass(frozen=True)
class Deployment:
    """Everything the rules may look at.

    `variables` are all variables of the host as they were written, `values` the declared ones with their expressions
    resolved, `facts` the host's facts without `ansible_`. `find(kind, role, name)` returns the file that a role would
    take for a name below its `kind` ("files" or "templates"), or None; `read(path)` its content, decrypted, or an
    `OSError` with the reason.
    """

    roles: list[Role]
    variables: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    find: Callable[[str, Role, str], Path | None] = lambda _kind, _role, _name: None
    read: Callable[[Path], bytes] = Path.read_bytes

    @cached_property
    def options(self) -> dict[str, Mapping[str, Any]]:
        """The argument spec of each declared variable."""
        return {name: option for role in self.roles for name, option in {**role.shared, **role.options}.items()}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of each declared variable that has one, as it was written."""
        return {name: default for role in self.roles for name, default in role.defaults.items()}

    def role(self, name: str) -> Role:
        """Return the role called `name`."""
        return next(role for role in self.roles if role.name == name)

    def is_chosen(self, variable: str) -> bool:
        """Whether the operator gave the variable a value of their own."""
        missing = object()
        value = self.variables.get(variable, missing)
        return value is not missing and value != self.defaults.get(variable, missing)

    def origin(self, variable: str) -> str:
        """Return the variable that the operator would change: another one where the default just follows it."""
        if self.is_chosen(variable):
            return variable
        followed = re.findall(r"\w+", str(self.defaults.get(variable, "")))
        return next((name for name in followed if name in self.options and self.is_chosen(name)), variable)
