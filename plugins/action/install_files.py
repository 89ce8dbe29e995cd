"""The control node's half of install_files: check the arguments, render and read the files, send all in one call."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Callable, Iterator

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins import standing

# What a value has to be: a test, and the words for it.
Rule = tuple[Callable[[Any], bool], str]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/") and os.path.normpath(value) == value != "/"


def _is_list_of(test: Callable[[Any], bool], empty: bool = True) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and (empty or bool(value)) and all(test(item) for item in value)


def _one_of(*values: str) -> Rule:
    return (lambda value: value in values, "one of " + ", ".join(values))


TEXT: Rule = (lambda value: isinstance(value, str), "text")
NAME: Rule = (lambda value: isinstance(value, str) and value != "", "a name")
FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")
PATH: Rule = (_is_path, "an absolute, plain path such as /etc/prosody")
PATHS: Rule = (_is_list_of(_is_path), "a list of absolute, plain paths")
ARGV: Rule = (_is_list_of(lambda item: isinstance(item, str), empty=False), "a list: the program and its arguments")
MODE: Rule = (
    lambda value: isinstance(value, str) and re.fullmatch(r"[0-7]{3,4}", value) is not None,
    'a quoted octal mode such as "0640"',
)
SECONDS: Rule = (
    lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0,
    "a number of seconds",
)
VARIABLES: Rule = (lambda value: isinstance(value, dict), "a mapping of variables")

# Per list of the task: each key's rule and default; REQUIRED has none.
REQUIRED = object()
SPECIFICATION: dict[str, dict[str, tuple[Rule, Any]]] = {
    "files": {
        "dest": (PATH, REQUIRED),
        "template": (NAME, None),
        "content": (TEXT, None),
        "src": (NAME, None),
        "link": (NAME, None),
        "from": (PATH, None),
        "vars": (VARIABLES, {}),
        "state": (_one_of("present", "absent"), "present"),
        "owner": (NAME, "root"),
        "group": (NAME, "root"),
        "mode": (MODE, "0644"),
        "secret": (FLAG, False),
    },
    "directories": {
        "path": (PATH, REQUIRED),
        "owner": (NAME, "root"),
        "group": (NAME, "root"),
        "mode": (MODE, "0755"),
    },
    "checks": {
        "name": (NAME, REQUIRED),
        "command": (ARGV, REQUIRED),
        "paths": (PATHS, REQUIRED),
    },
    "commands": {
        "argv": (ARGV, REQUIRED),
        "paths": (PATHS, REQUIRED),
    },
    "services": {
        "name": (NAME, REQUIRED),
        "enabled": (FLAG, None),
        "state": (_one_of("started", "stopped"), None),
        "restart_on": (PATHS, []),
        "reload_on": (PATHS, []),
        "restart_command": (ARGV, None),
        "reload_command": (ARGV, None),
        "probe": (ARGV, None),
        "probe_timeout": (SECONDS, 30),
    },
}
CONFIRM = "confirm_seconds"
UNDO_TIME = 30  # seconds that the host may need to undo what was not confirmed
SOURCES = ("template", "content", "src", "link", "from")
ENGINE = Path(__file__).resolve().parents[1] / "module_utils" / "file_transaction.py"


def validated(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the task's arguments with every default filled in. Raises AnsibleActionFail on wrong input."""
    if unknown := sorted(map(str, set(arguments) - {*SPECIFICATION, CONFIRM})):
        raise AnsibleActionFail(f"{unknown[0]}: unknown; install_files takes {', '.join([*SPECIFICATION, CONFIRM])}")
    plan: dict[str, Any] = {name: list(_entries(name, arguments.get(name) or [])) for name in SPECIFICATION}
    plan[CONFIRM] = arguments.get(CONFIRM)
    if plan[CONFIRM] is not None and not SECONDS[0](plan[CONFIRM]):
        raise AnsibleActionFail(f"{CONFIRM}: got {plan[CONFIRM]!r}, want {SECONDS[1]}")
    for file, where in zip(plan["files"], _places("files", plan["files"])):
        sources = [source for source in SOURCES if file[source] is not None]
        if file["state"] == "present" and len(sources) != 1:
            got = " and ".join(sources) or "none"
            raise AnsibleActionFail(f"{where}: got {got}, want exactly one of {', '.join(SOURCES)}")
    _refuse_duplicates("service", [service["name"] for service in plan["services"]])
    return plan


def _entries(name: str, entries: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(entries, list):
        raise AnsibleActionFail(f"{name}: got {entries!r}, want a list")
    specification = SPECIFICATION[name]
    for entry, where in zip(entries, _places(name, entries)):
        if not isinstance(entry, dict):
            raise AnsibleActionFail(f"{where}: got {entry!r}, want a mapping with {', '.join(specification)}")
        if unknown := sorted(map(str, set(entry) - set(specification))):
            raise AnsibleActionFail(f"{where}: {unknown[0]}: unknown; known are {', '.join(specification)}")
        complete = {}
        for key, ((test, wanted), default) in specification.items():
            value = entry.get(key)
            if value is None:
                if default is REQUIRED:
                    raise AnsibleActionFail(f"{where}: {key}: missing, want {wanted}")
                value = default
            elif not test(value):
                got = f"a {type(value).__name__}" if key == "content" else repr(value)
                raise AnsibleActionFail(f"{where}: {key}: got {got}, want {wanted}")
            complete[key] = value
        yield complete


def _places(name: str, entries: list[Any]) -> Iterator[str]:
    """Name each entry as its author finds it: by its place in the list and its first key."""
    label = next(iter(SPECIFICATION[name]))
    for index, entry in enumerate(entries):
        known = entry.get(label) if isinstance(entry, dict) else None
        yield f"{name}[{index}] ({known})" if known else f"{name}[{index}]"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def _refuse_duplicates(kind: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise AnsibleActionFail(f"{kind} {name}: given twice")


class ActionModule(ActionBase):
    """Render, read and send; the module of the same name does the rest on the host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, without the invocation, which holds the files' contents."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        plan = validated(self._task.args)
        plan["files"] = [sent for file in plan["files"] for sent in self._resolved(file, task_vars)]
        for entry in plan["directories"]:
            entry["mode"] = int(entry["mode"], 8)
        _refuse_duplicates(
            "path", [file["dest"] for file in plan["files"]] + [entry["path"] for entry in plan["directories"]]
        )
        role = self._task._role
        plan["name"] = _slug(role.get_name() if role else "play")
        plan["manifest"] = _slug(f"{role.get_name()}: {self._task.name}") if role else ""
        plan["engine"] = hashlib.sha256(ENGINE.read_bytes()).hexdigest()  # what another one found is no answer
        text = json.dumps(plan).encode()
        if standing.is_standing(task_vars.get("inventory_hostname", ""), plan["manifest"], text):
            return {
                "changed": False,
                "changed_files": [],
                "actions": [],
                "skipped_checks": [],
                "diff": [],
                "backup": "",
            }
        # One opaque string: the module declares it no_log, and Ansible then censors this string in the output,
        # not every word that happens to occur in a plan.
        payload = base64.b64encode(zlib.compress(text)).decode()
        result = self._send({"payload": payload}, task_vars)
        if result.pop("unconfirmed", False):
            result.update(self._confirmation({"payload": payload, "confirm": True}, plan[CONFIRM], task_vars))
        return result

    def _send(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        result = self._execute_module(module_name="install_files", module_args=arguments, task_vars=task_vars)
        result.pop("invocation", None)
        return result

    def _confirmation(self, arguments: dict[str, Any], seconds: float, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Confirm the change over a connection made after it: a shared one from before outlives what locks others out.

        The attempts go on until the host has had its time to undo the change, so that the host itself says it has.
        """
        deadline = time.monotonic() + seconds + UNDO_TIME
        trouble, pause = "", 1.0
        while True:
            try:
                self._connection.reset()
                answer = self._send(arguments, task_vars)
            except AnsibleConnectionFailure as error:
                trouble = str(error)
                if time.monotonic() > deadline:
                    return {"failed": True, "msg": f"The host cannot be reached since the change.\n{trouble}"}
                time.sleep(pause)
                pause = min(2 * pause, 8.0)
            else:
                if not answer.get("failed"):
                    return {}
                return {"failed": True, "changed": False, "msg": f"{answer['msg']}\n{trouble}".rstrip()}

    def _resolved(self, file: dict[str, Any], task_vars: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what is sent for an entry: one file, link or absence, or every file of a tree."""
        sent = {key: file[key] for key in ("dest", "owner", "group", "secret")}
        sent["mode"] = int(file["mode"], 8)
        if file["state"] == "absent":
            yield {**sent, "kind": "absent"}
        elif file["link"] is not None:
            yield {**sent, "kind": "link", "content": file["link"]}
        elif file["from"] is not None:
            yield {**sent, "kind": "file", "from": file["from"]}
        elif file["content"] is not None:
            yield {**sent, "kind": "file", "content": file["content"]}
        elif file["template"] is not None:
            yield {**sent, "kind": "file", "content": self._rendered(file, task_vars)}
        else:
            source = Path(self._find("files", file["src"], file["dest"]))
            for path in sorted(p for p in source.rglob("*") if not p.is_dir()) if source.is_dir() else [source]:
                dest = file["dest"] if path == source else f"{file['dest']}/{path.relative_to(source)}"
                yield {**sent, "dest": dest, "kind": "file", **self._read(path, file["secret"])}

    def _find(self, directory: str, name: str, dest: str) -> str:
        try:
            return str(self._find_needle(directory, name))
        except AnsibleError as error:
            raise AnsibleActionFail(f"{dest}: {error}") from error

    def _rendered(self, file: dict[str, Any], task_vars: dict[str, Any]) -> str:
        """Render a template as the template module does, include paths and ansible_managed among it."""
        source = self._find("templates", file["template"], file["dest"])
        roots = [*task_vars.get("ansible_search_path", []), self._loader.get_basedir(), str(Path(source).parent)]
        templar = self._templar.copy_with_new_env(
            searchpath=[path for root in roots for path in (f"{root}/templates", root)],
            available_variables={
                **generate_ansible_template_vars(file["template"], source, file["dest"]),
                **task_vars,
                **file["vars"],
            },
        )
        text = trust_as_template(self._loader.get_text_file_contents(source))
        try:
            rendered = templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True})
        except AnsibleError as error:
            raise AnsibleActionFail(f"{file['dest']}: template {file['template']}: {error}") from error
        return "" if rendered is None else str(rendered)

    def _read(self, path: Path, secret: bool) -> dict[str, Any]:
        """Read a file, decrypted if it is vaulted; what was vaulted is secret. Any bytes survive the JSON."""
        real = self._loader.get_real_file(str(path))
        try:
            content = Path(real).read_bytes().decode("utf-8", "surrogateescape")
        finally:
            self._loader.cleanup_tmp_file(real)
        return {"content": content, "secret": secret or real != self._loader.path_dwim(str(path))}
