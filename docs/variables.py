"""Writes variables.md from what the roles declare: `python -m docs.variables`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plugins.preflight.specs import read_roles

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).with_name("variables.md")
ROLES = PAGE.parents[1] / "roles"

INTRODUCTION = """\
# Variables

Made by `python -m docs.variables` from `roles/*/meta/argument_specs.yml`; change those. Set variables in
`group_vars` of your inventory. Before anything is touched, the role `preflight` refuses what no role knows or can use.
"""


def page() -> str:
    """Return the page."""
    roles = sorted(read_roles(ROLES), key=lambda role: (not role.shared, role.name))
    sections = []
    for role in roles:
        if role.shared:
            sections.append(_section("For every role", "", role.shared))
        sections.append(_section(f"`{role.name}`", f"{role.description}.\n\n", role.options))
    return "\n".join((INTRODUCTION, *sections))


def _section(heading: str, description: str, options: Mapping[str, Mapping[str, Any]]) -> str:
    return f"## {heading}\n\n{description}" + "".join(_entries(options, indent=""))


def _entries(options: Mapping[str, Mapping[str, Any]], indent: str) -> Iterator[str]:
    for name, option in options.items():
        entry = f"- `{name}` ({_kind(option)}): {_text(option['description'])}"
        yield textwrap.fill(
            entry,
            120,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield "\n"
        yield from _entries(option.get("options", {}), indent + "  ")


def _kind(option: Mapping[str, Any]) -> str:
    kind = {"raw": "any"}.get(option["type"], option["type"])
    if "elements" in option:
        kind += f" of {option['elements']}"
    if "choices" in option:
        kind = " | ".join(f"`{choice}`" for choice in option["choices"])
    if option.get("required"):
        return f"{kind}, required"
    default = option.get("default")
    if default is None:
        return kind
    return f"{kind}, default `{default if isinstance(default, str) else json.dumps(default)}`"


def _text(description: str | list[str]) -> str:
    text = description if isinstance(description, str) else " ".join(description)
    return re.sub(r"\b[A-Z]\(([^)]*)\)", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
