"""What the roles declare: `meta/argument_specs.yml`, `defaults/main.yml` and `vars/main.yml`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Role", "read_roles", "read_yaml"]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SHARED = "shared"
"""The entry point under which a role specifies variables that belong to every role (`xmpp_domain`)."""


@dataclass(frozen=True)
class Role:
    """A role's declarations; `options` are argument specs by variable."""

    name: str
    path: Path
    description: str
    options: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any]
    private: Mapping[str, Any]


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.load(path.read_bytes(), Loader=LOADER)


def read_roles(directory: Path, read: Callable[[Path], Any] = read_yaml) -> list[Role]:
    """Return the roles below `directory` that have an argument spec, by name."""

    def content(path: Path) -> dict[str, Any]:
        return (read(path) if path.exists() else None) or {}

    roles = []
    for specs_file in sorted(directory.glob("*/meta/argument_specs.yml")):
        path = specs_file.parents[1]
        entry_points = read_yaml(specs_file)["argument_specs"]
        main = entry_points.get("main", {})
        roles.append(
            Role(
                name=path.name,
                path=path,
                description=main.get("short_description", ""),
                options=main.get("options", {}),
                shared=entry_points.get(SHARED, {}).get("options", {}),
                defaults=content(path / "defaults" / "main.yml"),
                private=content(path / "vars" / "main.yml"),
            )
        )
    return roles
