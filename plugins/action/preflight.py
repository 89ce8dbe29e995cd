"""Checks every variable of a deployment on the control node; see DOCUMENTATION."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar

sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.preflight.deployment import Deployment
from plugins.preflight.report import problems
from plugins.preflight.specs import Role, read_roles

DOCUMENTATION = r"""
module: preflight
short_description: Checks every variable of a deployment before anything is touched
description:
  - Reads what the roles declare, resolves the host's variables, and fails once with all problems.
  - Runs on the control node alone and never connects to the host.
options:
  roles:
    description: Directory that holds the roles.
    type: path
    required: true
  ignored:
    description: Variables that begin like one of a role's but belong to something else.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
"""


class ActionModule(ActionBase):
    """Fails with the list of everything that is wrong with the variables, the facts and the files of a host."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"roles", "ignored"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with one line for each problem."""
        result = super().run(tmp, task_vars)
        variables = dict(task_vars or {})
        roles = read_roles(
            Path(self._task.args["roles"]),
            lambda path: self._loader.load_from_file(str(path), trusted_as_template=True),
        )
        values, unresolved = self._resolve(roles, variables)
        found = problems(
            Deployment(
                roles=roles,
                variables=variables,
                values=values,
                facts=_plain(variables.get("ansible_facts", {})),
                find=self._find,
                read=self._read,
            ),
            unresolved,
            self._task.args.get("ignored", []),
        )
        lines = [str(entry) for entry in found]
        result["changed"] = False
        if found:
            heading = "1 problem" if len(found) == 1 else f"{len(found)} problems"
            heading += "; nothing was changed on the host. docs/variables.md has every variable."
            result.update(failed=True, msg="\n- ".join([heading, *lines]))
        return result

    def _resolve(self, roles: list[Role], variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the values of the declared variables, and the reasons why others have none."""
        everything: dict[str, Any] = {}
        for role in roles:
            everything |= {**role.defaults, **role.private}
        everything |= variables
        templar = Templar(loader=self._loader, variables=everything)
        values, unresolved = {}, {}
        for name in (name for role in roles for name in (*role.options, *role.shared) if name in everything):
            try:
                values[name] = _plain(templar.template(everything[name]))
            except AnsibleError as error:
                unresolved[name] = _first_cause(error)
        return values, unresolved

    def _find(self, kind: str, role: Role, name: str) -> Path | None:
        paths = [str(role.path), self._loader.get_basedir()]
        try:
            return Path(self._loader.path_dwim_relative_stack(paths, kind, name))
        except AnsibleError:
            return None

    def _read(self, path: Path) -> bytes:
        try:
            return self._loader.get_text_file_contents(str(path)).encode(errors="surrogateescape")
        except AnsibleError as error:
            raise OSError(_first_cause(error)) from error


def _plain(value: Any) -> Any:
    """Return a copy without Ansible's lazy containers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


def _first_cause(error: BaseException) -> str:
    while error.__cause__:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
