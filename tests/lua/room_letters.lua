local user = "http://jabber.org/protocol/muc#user";
local letters, names; -- fired at the virtual host, and of whom the last one told

local function load_letters()
	letters = {};
	prosody.hosts["xmpp.example"].type = "local";
	prosody.hosts["xmpp.example"].events = {
		fire_event = function(event, data)
			table.insert(letters, ("%s %s %s"):format(event, data.from, data.to));
			names = data.name;
			if data.from == "eve@far.example" then return true; end
		end;
	};
	return load_module("room_letters", { strangers_recipients = 3 });
end

local room = { jid = "den@rooms.xmpp.example" };
function room.get_affiliation(_, address) return address == "mia@xmpp.example" and "owner" or nil; end
local occupants = { ["den@rooms.xmpp.example/bob"] = { bare_jid = "bob@xmpp.example" } };
function room.each_occupant() return pairs(occupants); end
function room.get_occupant_by_nick(_, nick) return occupants[nick]; end
function room.get_occupant_jid(_, full) return full == "bob@xmpp.example/x" and "den@rooms.xmpp.example/bob" or nil; end

local function fate(module, kind, from, to)
	local letter = stanza(kind, { to = to }, stanza("reason", nil, "come in"));
	local sent = stanza("message", { from = from, to = room.jid }, stanza("x", { xmlns = user }, letter));
	local origin = new_session();
	local stopped = module.fire("muc-pre-" .. kind, { room = room, origin = origin, stanza = sent });
	return stopped, origin.sent[1] and origin.sent[1].condition;
end

test("the virtual host of who is invited judges, or that of who invites", function()
	local module = load_letters();
	expect(fate(module, "invite", "pia@far.example/x", "ann@xmpp.example/y"), nil);
	expect(fate(module, "invite", "bob@xmpp.example/x", "ann@far.example"), nil);
	expect(letters[1], "strangers-letter pia@far.example ann@xmpp.example");
	expect(letters[2], "strangers-letter bob@xmpp.example ann@far.example");
	expect(names, "x bob");
	expect(fate(module, "invite", "eve@far.example/x", "ann@xmpp.example"), true);
end);

test("who is from elsewhere invites few people from elsewhere", function()
	local module = load_letters();
	for number = 1, 3 do
		expect(fate(module, "invite", "eve@far.example/x", ("n%d@third.example"):format(number)), nil);
	end
	local stopped, condition = fate(module, "invite", "eve@far.example/x", "n4@third.example");
	expect(stopped, true);
	expect(condition, "policy-violation");
	expect(#module.log, 1);
	expect(#letters, 0);
end);

test("only who has to do with the room hears of what is declined", function()
	local module = load_letters();
	for _, address in ipairs { "mia@xmpp.example", "bob@xmpp.example/phone" } do
		expect(fate(module, "decline", "pia@far.example/x", address), nil);
	end
	expect(#letters, 2);
	expect(fate(module, "decline", "eve@far.example/x", "mia@xmpp.example"), true);
	local stopped, condition = fate(module, "decline", "pia@far.example/x", "ann@xmpp.example");
	expect(stopped, true);
	expect(condition, "item-not-found");
end);

test("who is in the room may be named by the name there", function()
	local module = load_letters();
	expect(fate(module, "decline", "pia@far.example/x", "den@rooms.xmpp.example/bob"), nil);
	expect(letters[1], "strangers-letter pia@far.example bob@xmpp.example");
	local stopped, condition = fate(module, "decline", "pia@far.example/x", "den@rooms.xmpp.example/ann");
	expect(stopped, true);
	expect(condition, "item-not-found");
end);

test("services of ours are no strangers", function()
	local module = load_letters();
	prosody.hosts["bot.xmpp.example"] = { type = "component" };
	for number = 1, 5 do
		expect(fate(module, "invite", "bot.xmpp.example/x", ("n%d@third.example"):format(number)), nil);
	end
end);
