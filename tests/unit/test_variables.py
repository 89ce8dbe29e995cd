"""What the roles declare, what they default to, what they read and what the documentation says are the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from jinja2 import nodes

from docs.variables import PAGE, page
from plugins.preflight.meanings import MEANINGS
from plugins.preflight.report import RENAMED
from plugins.preflight.rules import RULES
from plugins.preflight.specs import Role, read_roles

ROOT = Path(__file__).parents[2]
ROLES = read_roles(ROOT / "roles")
OPTIONS = {name: option for role in ROLES for name, option in {**role.shared, **role.options}.items()}

SITE = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
"""What one role contributes to another's transaction passes through here."""

READ_BY_OTHER_ROLES = {
    "bans": {"firewall_ssh_port", "firewall_trusted_sources"},
    "web": {"prosody_bosh_enabled", "prosody_upload_size_limit", "prosody_websocket_enabled"},
}
"""Variables of another role that a role's defaults may follow, so that the operator sets one and not two."""

EXPRESSIONS = ("when", "that", "until", "changed_when", "failed_when", "loop")
PARSER = jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"], autoescape=False)

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in the regular expressions of templates
every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
every_option = pytest.mark.parametrize("name", OPTIONS)


def names_in(template: str) -> set[str]:
    """The variables that a Jinja template reads."""
    return {name.name for name in PARSER.parse(template).find_all(nodes.Name)}


def names_in_yaml(content: Any, is_expression: bool = False) -> Iterator[str]:
    """The variables that the templates and expressions of a YAML file read."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from names_in_yaml(value, key in EXPRESSIONS)
    elif isinstance(content, list):
        for entry in content:
            yield from names_in_yaml(entry, is_expression)
    elif isinstance(content, str):
        yield from names_in(f"{{{{ {content} }}}}" if is_expression and "{{" not in content else content)


def names_made_in_yaml(content: Any) -> Iterator[str]:
    """The private variables that the tasks register or set."""
    if isinstance(content, dict):
        yield from (key for key in content if str(key).startswith("__"))
        yield from ([content["register"]] if isinstance(content.get("register"), str) else [])
        content = list(content.values())
    if isinstance(content, list):
        for entry in content:
            yield from names_made_in_yaml(entry)


def yaml_files(role: Role, *folders: str) -> Iterator[Any]:
    """The contents of the YAML files in folders of a role."""
    for folder in folders:
        for file in sorted((role.path / folder).rglob("*.yml")):
            yield yaml.safe_load(file.read_text())


@cache
def read_names(path: Path) -> set[str]:
    """Every variable that the role at `path` reads outside its public defaults."""
    role = next(role for role in ROLES if role.path == path)
    names = {name for content in yaml_files(role, "tasks", "handlers", "vars") for name in names_in_yaml(content)}
    for template in (path / "templates").rglob("*.j2"):
        names |= names_in(template.read_text())
    return names


def read_by_defaults(role: Role) -> set[str]:
    """Every variable that the defaults of a role follow."""
    return set(names_in_yaml(dict(role.defaults)))


@every_role
def test_defaults_are_those_of_the_specification(role: Role) -> None:
    assert role.defaults == {name: option["default"] for name, option in role.options.items() if "default" in option}


@every_option
def test_every_variable_is_described(name: str) -> None:
    option = OPTIONS[name]
    assert option.get("description"), "no description"
    assert option.get("type"), "no type"
    assert option["type"] != "list" or option.get("elements"), "no type of the entries"
    assert option["type"] != "bool" or name.endswith("_enabled"), "a boolean ends in _enabled"


@every_role
def test_every_variable_has_a_default_or_is_required(role: Role) -> None:
    for name, option in role.options.items():
        assert ("default" in option) != bool(option.get("required")), name


@every_role
def test_every_variable_is_read(role: Role) -> None:
    used = read_names(role.path) | read_by_defaults(role) | set(names_in_yaml(SITE))
    assert not set(role.options) - used
    assert not set(role.private) - used


@every_role
def test_every_variable_that_is_read_is_declared(role: Role) -> None:
    private = {
        name for content in yaml_files(role, "tasks", "handlers", "vars") for name in names_made_in_yaml(content)
    }
    own = {name for name in read_names(role.path) if name.startswith((f"{role.name}_", "__"))}
    assert not own - set(role.options) - private


@every_role
def test_no_role_reads_what_is_not_its_own(role: Role) -> None:
    foreign = {name for other in ROLES for name in (*other.options, *other.shared) if other is not role}
    assert not read_names(role.path) & foreign
    shared = {name for other in ROLES for name in other.shared}
    assert read_by_defaults(role) & foreign - shared == READ_BY_OTHER_ROLES.get(role.name, set())


def test_every_shared_variable_is_followed_by_a_role() -> None:
    shared = {name for role in ROLES for name in role.shared}
    assert shared == shared & {name for role in ROLES for name in read_by_defaults(role)}


@every_role
def test_every_template_is_there(role: Role) -> None:
    for name, default in role.defaults.items():
        if name.endswith("_template"):
            assert (role.path / "templates" / default).is_file(), name


@pytest.mark.parametrize("name", MEANINGS)
def test_a_meaning_belongs_to_a_variable(name: str) -> None:
    assert name in OPTIONS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_a_rule_reads_variables_that_exist_and_says_what_it_asks_for(rule: Any) -> None:
    assert set(rule.reads) <= set(OPTIONS)
    assert rule.check.__doc__


def test_a_former_name_is_not_in_use() -> None:
    assert not set(RENAMED) & set(OPTIONS)


def test_the_documentation_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m docs.variables"
