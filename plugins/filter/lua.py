"""Render values as Lua 5.2 to 5.4 source text: the only way a value comes into Prosody's configuration.

The functions raise `ValueError` with the place of the offending value; the filters turn it into Ansible's own error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

try:
    from ansible.errors import AnsibleFilterError
except ImportError:  # imported by a tool that runs without Ansible
    AnsibleFilterError = ValueError

__all__ = ["FilterModule", "lua_call", "to_lua"]

IDENTIFIER = re.compile(
    r"(?!(and|break|do|else|elseif|end|false|for|function|goto|if"
    r"|in|local|nil|not|or|repeat|return|then|true|until|while)\Z)"
    r"[A-Za-z_][A-Za-z0-9_]*"
)
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
LARGEST_INTEGER = 2**63 - 1
CALL = frozenset({"lua_call", "arguments"})


def to_lua(value: Any, indent: int = 0, width: int = 100) -> str:
    """Return the Lua expression for a value of YAML's types.

    Mappings keep their order. A table longer than `width` characters has one entry a line; `indent` is the number of
    tabs before the line on which the expression begins. What Lua cannot hold raises ValueError.
    """
    return _expression(value, "", indent, width)


def lua_call(argument: Any, function: str) -> dict[str, Any]:
    """Return a value that `to_lua` renders as a call, such as FileLine("secrets/x").

    A plain mapping, so that it survives being kept in a variable. `argument` is a value, or a list of several.
    """
    arguments = argument if _is_list(argument) else [argument]
    return {"lua_call": function, "arguments": list(arguments)}


def _expression(value: Any, path: str, indent: int, width: int) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number(value, path)
    if isinstance(value, str):
        return _string(value, path)
    if isinstance(value, Mapping):
        return _call(value, path, indent, width) if value.keys() == CALL else _mapping(value, path, indent, width)
    if _is_list(value):
        return _list(value, path, indent, width)
    raise _refusal(path, f"a {type(value).__name__} has no form in Lua")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _refusal(path: str, reason: str) -> ValueError:
    return ValueError(f"{path}: {reason}" if path else reason)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _number(value: float, path: str) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refusal(path, f"{value} is not a number that Lua can write")
        return float.__repr__(value)
    if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
        raise _refusal(path, f"{value} does not fit Lua's 64-bit integers")
    return int.__repr__(value)


def _string(value: str, path: str) -> str:
    """Quote a string. Whatever cannot be seen is escaped byte by byte, so that a reader sees what Lua reads."""
    try:
        return '"' + "".join(map(_character, value)) + '"'
    except UnicodeEncodeError:
        raise _refusal(path, "the text is not valid Unicode") from None


def _character(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03d}" for byte in character.encode())


def _list(values: Sequence[Any], path: str, indent: int, width: int) -> str:
    for position, value in enumerate(values):
        if value is None:
            raise _refusal(f"{path}[{position}]", "nil would end the list")
    return _table(
        lambda level: [
            _expression(value, f"{path}[{position}]", level, width) for position, value in enumerate(values)
        ],
        indent,
        width,
    )


def _mapping(values: Mapping[Any, Any], path: str, indent: int, width: int) -> str:
    def entries(level: int) -> list[str]:
        rendered = []
        for key, value in values.items():
            place = _below(path, str(key))
            rendered.append(f"{_key(key, place)} = {_expression(value, place, level, width)}")
        return rendered

    return _table(entries, indent, width)


def _key(key: Any, path: str) -> str:
    if isinstance(key, str) and IDENTIFIER.fullmatch(key):
        return str(key)
    if isinstance(key, (str, int, float)):
        return f"[{_expression(key, path, 0, 0)}]"
    raise _refusal(path, f"a {type(key).__name__} cannot be a key")


def _call(value: Mapping[str, Any], path: str, indent: int, width: int) -> str:
    function, arguments = value["lua_call"], value["arguments"]
    names = function.split(".") if isinstance(function, str) else [""]
    if not all(IDENTIFIER.fullmatch(name) for name in names):
        raise _refusal(path, f"{function!r} is not the name of a Lua function")
    if not _is_list(arguments):
        raise _refusal(path, f"the arguments of {function} are not a list")
    rendered = (
        _expression(argument, _below(path, f"{function}({position})"), indent, width)
        for position, argument in enumerate(arguments)
    )
    return f"{function}({', '.join(rendered)})"


def _table(entries: Callable[[int], list[str]], indent: int, width: int) -> str:
    """Lay out a table constructor: on one line if that is short enough, else with one entry a line."""
    rendered = entries(indent + 1)
    if not rendered:
        return "{}"
    line = "{ " + "; ".join(rendered) + " }"
    if len(line) <= width and "\n" not in line:
        return line
    inner, outer = "\t" * (indent + 1), "\t" * indent
    return "{\n" + "".join(f"{inner}{entry};\n" for entry in rendered) + outer + "}"


def _filter(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except ValueError as error:
            raise AnsibleFilterError(f"{function.__name__}: {error}") from error

    return apply


class FilterModule:
    """Filters for templates and defaults."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"lua_call": _filter(lua_call), "to_lua": _filter(to_lua)}
