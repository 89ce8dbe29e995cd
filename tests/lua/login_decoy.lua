local options = { password_hash = "SHA-256" };
local accounts = {
	alice = { "stored", "server", 10000, "salt", true };
	dave = { "stored", "server", 12000, "dave's salt", false };
};

local function provider()
	local methods = {};
	function methods.get_sasl_handler()
		return { profile = {
			scram_sha_256 = function(_, username) return table.unpack(accounts[username] or {}); end;
			plain_test = function(_, username, password)
				local account = accounts[username];
				return account and password == "right" or nil, account and account[5];
			end;
		} };
	end
	prosody.hosts["xmpp.example"].users = methods;
	return methods;
end

local function backend(name)
	return prosody.hosts["xmpp.example"].users.get_sasl_handler({}).profile[name or "scram_sha_256"];
end

test("a known account is left alone", function()
	provider();
	load_module("login_decoy", options);
	local stored, server, iterations, salt, enabled = backend()(nil, "alice");
	expect(("%s %s %d %s %s"):format(stored, server, iterations, salt, enabled), "stored server 10000 salt true");
end);

test("an unknown account has a salt like others, keys of the right length, and seems enabled", function()
	provider();
	load_module("login_decoy", options);
	local stored, server, iterations, salt, enabled = backend()(nil, "nobody");
	expect(#stored + #server, 64);
	expect(iterations, 10000);
	expect(enabled, true);
	local x = "%x";
	local uuid = ("^%s%%-%s%%-4%s%%-[89ab]%s%%-%s$"):format(x:rep(8), x:rep(4), x:rep(3), x:rep(3), x:rep(12));
	expect(salt:match(uuid), salt);
end);

test("its salt is its own, and stays after a restart", function()
	provider();
	load_module("login_decoy", options);
	local _, _, _, salt = backend()(nil, "nobody");
	local _, _, _, other = backend()(nil, "noone");
	expect(salt == other, false);
	provider();
	load_module("login_decoy", options);
	local _, _, _, again = backend()(nil, "nobody");
	expect(again, salt);
end);

test("a disabled account keeps its salt, and no password opens it", function()
	provider();
	load_module("login_decoy", options);
	local stored, _, iterations, salt, enabled = backend()(nil, "dave");
	expect(stored == "stored", false);
	expect(("%d %s %s"):format(iterations, salt, enabled), "12000 dave's salt true");
end);

test("PLAIN costs an unknown and a disabled account one hash, and tells nothing", function()
	provider();
	load_module("login_decoy", options);
	local plain = backend("plain_test");
	expect(plain(nil, "alice", "right"), true);
	expect(hashed_passwords, 0);
	for _, username in ipairs { "nobody", "dave" } do
		local correct, enabled = plain(nil, username, "right");
		expect(("%s %s"):format(correct, enabled), "false true");
	end
	expect(hashed_passwords, 2);
end);

test("a reloaded provider is wrapped again, an unloaded module lets go", function()
	provider();
	local decoy = load_module("login_decoy", options);
	local methods = provider();
	local original = methods.get_sasl_handler;
	decoy.fire("item-added/auth-provider", {});
	expect(select("#", backend()(nil, "nobody")), 5);
	decoy.unload();
	expect(methods.get_sasl_handler, original);
end);
