"""What to_lua writes is read by the real Lua, and comes back as it was."""

from __future__ import annotations

import datetime
import json
import math
import random
import subprocess
import sys
import unicodedata

import pytest
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from plugins.filter.lua import FilterModule, lua_call, to_lua

# Reads expressions, each ended by a line of its own, and writes each value as JSON, strings as lists of bytes.
DUMP = r"""
local function dump(value)
    local kind = math.type(value) or type(value)
    if kind == "string" then
        return '{"string":[' .. table.concat({value:byte(1, -1)}, ",") .. ']}'
    elseif kind == "table" then
        local entries = {}
        for key, entry in pairs(value) do
            entries[#entries + 1] = "[" .. dump(key) .. "," .. dump(entry) .. "]"
        end
        return '{"table":[' .. table.concat(entries, ",") .. ']}'
    elseif kind == "float" then
        return '{"float":"' .. ("%a"):format(value) .. '"}'
    end
    return '{"' .. kind .. '":"' .. tostring(value) .. '"}'
end
for expression in (io.read("a")):gmatch("(.-)\n%-%- end\n") do
    print(dump(assert(load("return " .. expression, "=value", "t", {}))()))
end
"""


def read_by_lua(values):
    """Render the values, let Lua read them all, and return what it read, as Python values."""
    source = "".join(f"{to_lua(value, width=random.choice([0, 20, 100]))}\n-- end\n" for value in values)
    dumped = subprocess.run(["lua5.4", "-e", DUMP], input=source.encode(), capture_output=True, check=False)
    assert dumped.returncode == 0, dumped.stderr.decode()
    return [loaded(json.loads(line)) for line in dumped.stdout.splitlines()]


def loaded(dumped):
    ((kind, value),) = dumped.items()
    if kind == "table":
        return {loaded(key): loaded(entry) for key, entry in value}
    return {
        "string": lambda: bytes(value).decode(),
        "integer": lambda: int(value),
        "float": lambda: float.fromhex(value),
        "boolean": lambda: value == "true",
        "nil": lambda: None,
    }[kind]()


def as_lua_has_it(value):
    """A list is a table with the keys 1, 2, ..., and an entry that is nil is not there."""
    if isinstance(value, (list, tuple)):
        return {position: as_lua_has_it(entry) for position, entry in enumerate(value, 1)}
    if isinstance(value, dict):
        return {key: as_lua_has_it(entry) for key, entry in value.items() if entry is not None}
    return value


def arbitrary(randomness, depth=0):
    """Make up a value of any shape that YAML can have, with a liking for what is hard to quote."""
    hard = [
        "",
        "end",
        "nil",
        '"',
        "\\",
        "]]",
        "--",
        "\n",
        "\r\n",
        "\0",
        "\0001",
        "{{ x }}",
        "ä",
        "\u202e",
        "😀",
        "\x7f",
    ]

    def text():
        pieces = [
            randomness.choice(hard),
            chr(randomness.randrange(0xD800)),
            chr(randomness.randrange(0xE000, 0x110000)),
        ]
        return "".join(randomness.choices(pieces, k=randomness.randrange(5)))

    scalars = [
        lambda: None,
        lambda: randomness.random() < 0.5,
        lambda: randomness.randrange(-(2**63) + 1, 2**63),
        lambda: randomness.choice([0.0, -0.0, 0.1, 1e300, 5e-324, -1.5, 1e16]) * randomness.random(),
        text,
    ]
    tables = [
        lambda: [
            entry for _ in range(randomness.randrange(5)) if (entry := arbitrary(randomness, depth + 1)) is not None
        ],
        lambda: {
            randomness.choice([text, lambda: "name", lambda: randomness.randrange(-9, 9)])(): arbitrary(
                randomness, depth + 1
            )
            for _ in range(randomness.randrange(5))
        },
    ]
    return randomness.choice(scalars if depth > 3 else scalars + tables * 2)()


def test_whatever_is_written_comes_back():
    randomness = random.Random(5222)
    values = [arbitrary(randomness) for _ in range(3000)]
    for value, read in zip(values, read_by_lua(values), strict=True):
        assert read == as_lua_has_it(value), to_lua(value)


def test_characters_of_every_block_come_back_and_none_is_invisible():
    codes = [*range(0x3000), *range(0x3000, sys.maxunicode + 1, 61)]
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    texts = ["".join(characters[start : start + 4096]) for start in range(0, len(characters), 4096)]
    assert read_by_lua(texts) == texts
    invisible = {"Cc", "Cf", "Zl", "Zp"}
    assert not [c for c in to_lua("".join(characters)) if unicodedata.category(c) in invisible]


RESERVED_WORDS = """and break do else elseif end false for function goto if in local nil not or repeat return then true
until while"""


@pytest.mark.parametrize("word", RESERVED_WORDS.split())
def test_reserved_words_are_quoted_as_keys(word):
    assert to_lua({word: 1}) == f'{{ ["{word}"] = 1 }}'
    assert read_by_lua([{word: 1}]) == [{word: 1}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nil"),
        (True, "true"),
        (5222, "5222"),
        (0.5, "0.5"),
        (2**63 - 1, "9223372036854775807"),
        ("", '""'),
        ('say "\\"', r'"say \"\\\""'),
        ("a\nb\t\0001", r'"a\nb\t\0001"'),
        ("grüße", '"grüße"'),
        ([], "{}"),
        ({}, "{}"),
        (["a", ("b", 1)], '{ "a"; { "b"; 1 } }'),
        ({"b": 1, "a": 2, "a-b": 3, 4: 5, True: 6}, '{ b = 1; a = 2; ["a-b"] = 3; [4] = 5; [true] = 6 }'),
        ({"key": lua_call("secrets/x", "FileLine")}, '{ key = FileLine("secrets/x") }'),
        (lua_call(["a", {"b": 1}], "util.make"), 'util.make("a", { b = 1 })'),
    ],
)
def test_the_text_is_plain(value, text):
    assert to_lua(value) == text


def test_long_tables_have_one_entry_a_line():
    value = {"admins": ["admin@example.org", "root@example.org"], "limits": {"c2s": {"rate": "10kb/s"}}}
    assert to_lua(value, indent=1, width=40) == (
        "{\n"
        "\t\tadmins = {\n"
        '\t\t\t"admin@example.org";\n'
        '\t\t\t"root@example.org";\n'
        "\t\t};\n"
        '\t\tlimits = { c2s = { rate = "10kb/s" } };\n'
        "\t}"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "to_lua: nan is not a number"),
        ({"a": [1, math.inf]}, r"to_lua: a\[1\]: inf is not a number"),
        ({"a": {"b": [1, None]}}, r"a\.b\[1\]: nil would end the list"),
        ({"a": b"bytes"}, "a: a bytes has no form in Lua"),
        ({"a": {1, 2}}, "a: a set has no form in Lua"),
        ([datetime.date(2026, 1, 1)], r"\[0\]: a date has no form in Lua"),
        ({"a": object()}, "a: a object has no form in Lua"),
        (2**63, "does not fit Lua's 64-bit integers"),
        (-(2**63), "does not fit Lua's 64-bit integers"),
        ({"a": "\ud800"}, "a: the text is not valid Unicode"),
        ({None: 1}, "None: a NoneType cannot be a key"),
        ({math.nan: 1}, "nan: nan is not a number"),
        ({(1, 2): 1}, "a tuple cannot be a key"),
        (lua_call("x", "os.execute('true')"), "is not the name of a Lua function"),
        ({"a": lua_call("x", "end")}, "a: 'end' is not the name of a Lua function"),
        ({"a": lua_call([math.nan], "f")}, r"a\.f\(0\): nan"),
        ({"lua_call": "f", "arguments": "x"}, "the arguments of f are not a list"),
    ],
)
def test_what_lua_cannot_hold_is_refused_with_its_place(value, reason):
    with pytest.raises(AnsibleFilterError, match=reason):
        FilterModule().filters()["to_lua"](value)


def test_the_filters_work_in_a_template():
    templar = Templar(loader=DataLoader(), variables={"names": ["a", "b"], "broken": ["a", None]})
    templar._engine.environment.filters.update(FilterModule().filters())
    text = "{{ {'names': names, 'key': 'k' | lua_call('FileLine')} | to_lua }} --"
    assert templar.template(trust_as_template(text)) == '{ names = { "a"; "b" }; key = FileLine("k") } --'
    with pytest.raises(Exception, match=r"\[1\]: nil would end the list"):
        templar.template(trust_as_template("{{ broken | to_lua }} --"))
    with pytest.raises(Exception, match="missing"):
        templar.template(trust_as_template("{{ [missing] | to_lua }} --"))
