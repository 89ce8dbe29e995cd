local printed;

local function command(module, name)
	for _, item in ipairs(module.items) do
		if item.name == name then
			return function(address)
				printed = {};
				local session = { print = function(line) table.insert(printed, line); end };
				return item.handler({ session = session }, address, { actor = "olga" });
			end;
		end
	end
end

local function new_actions()
	accounts.eve, accounts.bob = { enabled = true }, { enabled = true };
	prosody.hosts["xmpp.example"].type = "local";
	return load_module("account_actions");
end

local function sent_by(jid, key, with)
	return { key = key, with = with or "eve@xmpp.example", stanza = stanza("message", { from = jid }) };
end

test("an account is suspended and resumed, and its sessions end", function()
	local actions, session = new_actions(), new_session();
	prosody.hosts["xmpp.example"].sessions.eve = { sessions = { phone = session } };
	expect(command(actions, "suspend")("eve@xmpp.example"), true);
	expect(accounts.eve.enabled, false);
	expect(session.closed.condition, "policy-violation");
	command(actions, "status")("eve@xmpp.example");
	expect(printed[1], "suspended: yes");
	expect(command(actions, "resume")("eve@xmpp.example"), true);
	expect(accounts.eve.enabled, true);
end);

test("sessions are ended alone", function()
	local actions, session = new_actions(), new_session();
	prosody.hosts["xmpp.example"].sessions.eve = { sessions = { phone = session } };
	local ok, told = command(actions, "disconnect")("eve@xmpp.example");
	expect(ok, true);
	expect(told, "Ended are 1 sessions");
	expect(accounts.eve.enabled, true);
	expect(session.closed ~= nil, true);
end);

test("nothing is done about an account that is not there", function()
	local ok, told = command(new_actions(), "suspend")("nobody@xmpp.example");
	expect(ok, nil);
	expect(told, "There is no account nobody@xmpp.example");
end);

test("what an account sent is purged from archives, and nothing of others", function()
	local actions = new_actions();
	stores.archive = {
		sent_by("eve@xmpp.example/x", "a"), sent_by("bob@xmpp.example/x", "b");
		sent_by("mia@xmpp.example/x", "c", "mia@xmpp.example");
	};
	local salted = require "prosody.util.hashes".hmac_sha256("eve@xmpp.example", "salt");
	local function said(key, id)
		local occupant = stanza("occupant-id", { xmlns = "urn:xmpp:occupant-id:0", id = id });
		return { key = key, stanza = stanza("message", { from = "den@rooms.example/x" }, occupant) };
	end
	stores.muc_log = { said("d", salted), said("e", "another") };
	prosody.hosts["rooms.example"] = { type = "component", modules = { muc = {
		all_rooms = function()
			return pairs { [{ jid = "den@rooms.example", _data = { occupant_id_salt = "salt" } }] = true };
		end;
	} } };
	local ok, told = command(actions, "purge")("eve@xmpp.example");
	expect(ok, true);
	expect(told, "Gone are 1 messages to people, 1 in rooms, 0 uploads");
	expect(#stores.archive, 2);
	expect(stores.archive[1].key, "b");
	expect(#stores.muc_log, 1);
	expect(stores.muc_log[1].key, "e");
end);
