-- Prosody 13 runs on Lua 5.4 and gives each module its own `module`.
std = "lua54"
max_line_length = 120
globals = { "prosody" }
files["roles/prosody/files/modules"] = { globals = { "module" } }
files["roles/mfa/files/modules"] = { globals = { "module" } }
files["roles/prosody/files/lib"] = { globals = { "arg" } }
files["tests/lua"] = {
	globals = {
		"accounts", "clock", "expect", "hashed_passwords", "interface", "load_module", "new_session", "rosters", "shared",
		"stanza", "stores", "tasks", "test", "watched",
	},
}
files["roles/mfa/tests"] = { std = "lua54+busted", globals = { "load_library" } }
