"""The parts of preflight that the table of wrong inventories does not reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugins.filter.xmpp import virtual_hosts
from plugins.preflight.deployment import Deployment, Problem, problem
from plugins.preflight.meanings import MEANINGS, contact, findings, memory, rate, secret, time_span
from plugins.preflight.report import problems
from plugins.preflight.shapes import shape_problems
from plugins.preflight.specs import Role, read_roles

OURS = read_roles(Path(__file__).parents[2] / "roles")
FACTS = {"distribution": "Debian", "distribution_major_version": "13", "service_mgr": "systemd"}


def role(name: str, options: dict[str, Any], defaults: dict[str, Any] | None = None) -> Role:
    return Role(name, Path(name), name, options, {}, defaults or {}, {})


def deployment(roles: list[Role], variables: dict[str, Any]) -> Deployment:
    defaults = {name: value for entry in roles for name, value in entry.defaults.items()}
    return Deployment(roles, variables, {**defaults, **variables}, FACTS)


def test_a_renamed_variable_is_sent_to_its_new_name() -> None:
    bot = role("bot", {"bot_name": {"type": "str", "default": "b"}}, {"bot_name": "b"})
    found = problems(
        deployment([bot], {"bot_nick": "x", "bot_hat": "y"}),
        {},
        renamed={
            "bot_nick": "bot_name",
            "bot_hat": "bots wear no hats since 2.0, remove it",
        },
    )
    assert [str(entry) for entry in found] == [
        "bot_hat is a name of a former version: bots wear no hats since 2.0, remove it",
        "bot_nick is a name of a former version: bot_name is wanted",
    ]


def test_a_default_that_follows_a_wrong_variable_is_no_problem_of_its_own() -> None:
    options = {"bot_port": {"type": "int"}, "bot_backup_port": {"type": "int"}}
    bot = role("bot", options, {"bot_port": 1, "bot_backup_port": "{{ bot_port + 1 }}"})
    wrong = deployment([bot], {"bot_port": "one"})
    unresolved = {"bot_backup_port": "cannot add"}
    assert [entry.variable for entry in problems(wrong, unresolved)] == ["bot_port"]
    assert [entry.variable for entry in problems(deployment([bot], {}), unresolved)] == ["bot_backup_port"]


# fmt: off
PLACEHOLDERS = [
    "", "  ", "changeme", "CHANGE_ME", "please change me", "replace_this", "<your secret>", "password",
    "my-secret", "your_password_here", "password123", "TODO", "xxxxx", "***", "...", "12345", "example", "None",
]
# fmt: on


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_placeholders_are_no_secrets(value: str) -> None:
    bot = role("bot", {"bot_turn_secret": {"type": "str", "required": True}})
    (found,) = problems(deployment([bot], {"bot_turn_secret": value}), {})
    assert str(found).startswith("bot_turn_secret is (hidden): a secret of your own is wanted")


@pytest.mark.parametrize(
    "value", ["0d4FMmDqYgV7Sd", "correct horse battery staple", "secretary-of-state-1x", "change is good"]
)
def test_secrets_of_ones_own_are_accepted(value: str) -> None:
    assert not list(findings(secret, value))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("bot_password", "hunter2"),
        ("bot_tokens[0]", "hunter2"),
        ("bot_accounts", [{"jid": "a@b.example", "password": "hunter2"}]),
        ("bot_accounts[0].password", "hunter2"),
    ],
)
def test_secrets_are_hidden(variable: str, value: Any) -> None:
    assert "hunter2" not in str(problem(variable, value, "something else is wanted"))


def test_long_values_are_cut() -> None:
    assert len(problem("bot_names", ["bot"] * 1000, "fewer").got) == 120


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ({"type": "float"}, "1.5", "a number, without quotes"),
        ({"type": "path"}, 5, "a path"),
        ({"type": "list", "elements": "int"}, [1, "2"], "a whole number"),
        ({"type": "list", "elements": "str", "choices": ["a"]}, ["a", "b"], "one of a is wanted"),
        (
            {"type": "dict", "options": {"a": {"type": "dict", "options": {"b": {"type": "int"}}}}},
            {"a": {"b": "c"}},
            "whole",
        ),
    ],
)
def test_other_shapes_are_refused(option: dict[str, Any], value: Any, wanted: str) -> None:
    (found,) = shape_problems("bot_x", value, option)
    assert wanted in found.wanted


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ({"type": "float"}, 1),
        ({"type": "raw"}, object()),
        ({"type": "str"}, 8443),
        ({"type": "str", "default": None}, None),
        ({"type": "list", "elements": "dict", "options": {"a": {"type": "int"}}}, [{"a": 1}, {}]),
    ],
)
def test_these_shapes_are_accepted(option: dict[str, Any], value: Any) -> None:
    assert not list(shape_problems("bot_x", value, option))


@pytest.mark.parametrize(
    ("meaning", "values"),
    [
        (
            contact,
            ["xmpp:a@b.example?message", "xmpp:room.b.example", "mailto:a+b@c.example", "https://b.example/contact"],
        ),
        (memory, ["70%", "100%", "512M", "2G", "infinity"]),
        (rate, ["50kb/s", "1 MB/s", "9000B/s"]),
        (time_span, ["14day", "2 weeks", "1month", "90d 12h"]),
    ],
    ids=["contact", "memory", "rate", "time span"],
)
def test_these_values_have_a_meaning(meaning: Any, values: list[str]) -> None:
    assert not [found for value in values for found in findings(meaning, value)]


def test_roles_are_read_from_their_specifications(tmp_path: Path) -> None:
    (tmp_path / "bot" / "meta").mkdir(parents=True)
    (tmp_path / "bot" / "meta" / "argument_specs.yml").write_text(
        "argument_specs: {main: {short_description: A bot, options: {bot_name: {type: str, required: true}}}}"
    )
    (tmp_path / "without-a-specification").mkdir()
    (bot,) = read_roles(tmp_path)
    assert (bot.name, bot.description, list(bot.options), bot.defaults) == ("bot", "A bot", ["bot_name"], {})


ODD_VALUES: list[Any] = [
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "x",
    "-",
    [],
    {},
    [None],
    [7],
    [""],
    ["x"],
    [[]],
    [{}],
    [{"port": None}],
]
ODD_VALUES += [{"x": None}, {"x": []}, {"x": {}}, {"admin": [7]}, {7: 7}, [{"domain": 7}], [{"domain": "a.example"}]]


@pytest.mark.parametrize("variable", MEANINGS)
def test_odd_values_never_break_a_meaning_or_a_rule(variable: str) -> None:
    hosts = virtual_hosts([{"domain": "chat.example"}])
    sound = {"xmpp_domain": "chat.example", "prosody_hosts": hosts, "certificates_hosts": hosts, "web_hosts": hosts}
    for value in ODD_VALUES:
        for provider in ("own_ca", "provided"):
            everything = {**sound, "certificates_provider": provider, "prosody_admins": [], variable: value}
            problems(deployment(OURS, everything), {})


def test_a_problem_reads_as_a_sentence() -> None:
    assert str(Problem("bot_port", "0", "a port is wanted")) == "bot_port is 0: a port is wanted"
