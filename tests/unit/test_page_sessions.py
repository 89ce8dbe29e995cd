"""The sessions of the account page end in time, and a cookie that was replaced opens nothing; with a clock of ours."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the library asks of Prosody. Hashes need only tell inputs apart here.
STAND_INS = """
local clock, drawn = 0, 0;
local libraries = {
    hashes = {
        equals = function(a, b) return a == b; end,
        hmac_sha256 = function(key, text) return "hmac " .. key .. text; end,
        sha256 = function(text) return "hash " .. text; end,
    },
    hex = { encode = function(text) return text; end },
    random = { bytes = function() drawn = drawn + 1; return ("%064x"):format(drawn); end },
    time = { monotonic = function() return clock; end },
};
for name, library in pairs(libraries) do package.loaded["prosody.util." .. name] = library; end
local seconds = { ["10 minutes"] = 600, ["1 hour"] = 3600 };
module = { get_option_period = function(_, _, default) return seconds[default]; end };
local lib = dofile("roles/mfa/files/modules/mfa_page_sessions.lib.lua");
local function request(header) return { headers = { cookie = header } }; end
"""


@pytest.mark.parametrize(
    "claim",
    [
        # idle, lifetime, sudo
        "local _, c = lib.begin('a', true); clock = 600; assert(lib.find(c)); clock = 1201; assert(not lib.find(c))",
        "local _, c = lib.begin('a', true); for t = 0, 3600, 300 do clock = t; assert(lib.find(c)) end;"
        " clock = 3601; assert(not lib.find(c))",
        "local s = lib.begin('a', true); assert(not lib.is_fresh(s)); lib.refresh(s); clock = 599;"
        " assert(lib.is_fresh(s)); clock = 600; assert(not lib.is_fresh(s))",
        # rotation, the end, the end of all of an account
        "local s, c = lib.begin('a'); local d = lib.rotate(s); assert(not lib.find(c)); assert(lib.find(d) == s)",
        "local s, c = lib.begin('a'); lib.finish(s); assert(not lib.find(c))",
        "local s, c = lib.begin('a'); local _, d = lib.begin('a'); local _, e = lib.begin('b');"
        " lib.finish_all('a', s); assert(lib.find(c) and not lib.find(d) and lib.find(e))",
        # an account has eight at most: the one that was used the longest time ago gives way
        "local all = {}; for i = 1, 9 do clock = i; all[i] = select(2, lib.begin('a')); end;"
        " assert(not lib.find(all[1])); for i = 2, 9 do assert(lib.find(all[i])) end",
        # a cookie is found among others, and only if it looks like one
        "local c = lib.new_cookie(); assert(lib.cookie(request('x=y; __Host-account=' .. c .. '; z=1')) == c)",
        "assert(not lib.cookie(request('__Host-account=short'))); assert(not lib.cookie(request(nil)))",
        "assert(not lib.cookie(request('__Host-account=' .. ('../'):rep(22):sub(1, 64))))",
        # the token of a form belongs to its cookie
        "local c, d = lib.new_cookie(), lib.new_cookie(); assert(lib.is_form_token(c, lib.form_token(c)));"
        " assert(not lib.is_form_token(d, lib.form_token(c))); assert(not lib.is_form_token(nil, lib.form_token(c)))",
    ],
)
def test_sessions(claim):
    run = subprocess.run(["lua5.4", "-e", STAND_INS + claim], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
