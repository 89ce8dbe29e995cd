local room = { jid = "den@rooms.example" };
function room.get_occupant_by_nick() return { bare_jid = "bob@xmpp.example", jid = "bob@xmpp.example/phone" }; end

local function passes(module, event, name, from, to_room)
	local origin = new_session();
	local sent = stanza(name or "message", { from = from or "bob@xmpp.example/phone", to = "den@rooms.example" });
	local stopped = module.fire(event, { room = to_room or room, origin = origin, stanza = sent });
	return stopped == nil, origin.sent[1], stopped;
end

local function spend(module, number)
	for _ = 1, number do expect(passes(module, "muc-occupant-groupchat"), true); end
end

test("half a minute's worth passes at once, the rest at the rate", function()
	local rate = load_module("room_rate", { room_rate = 2 });
	spend(rate, 60);
	local passed, refused = passes(rate, "muc-occupant-groupchat");
	expect(passed, false);
	expect(refused.condition, "policy-violation");
	clock = 5;
	spend(rate, 10);
	expect(passes(rate, "muc-occupant-groupchat"), false);
end);

test("others, and other rooms, have budgets of their own", function()
	local rate = load_module("room_rate", { room_rate = 2 });
	spend(rate, 60);
	expect(passes(rate, "muc-occupant-groupchat", nil, "mia@xmpp.example/x"), true);
	expect(passes(rate, "muc-occupant-groupchat", nil, nil, { jid = "tea@rooms.example" }), true);
	expect(passes(rate, "muc-occupant-groupchat", nil, "bob@xmpp.example/laptop"), false);
end);

test("entering, changing and private messages count as well", function()
	local rate = load_module("room_rate", { room_rate = 2 });
	spend(rate, 60);
	expect(passes(rate, "muc-occupant-pre-join", "presence"), false);
	expect(passes(rate, "muc-occupant-pre-change", "presence"), false);
	local _, refused, stopped = passes(rate, "muc-private-message", nil, "den@rooms.example/bob");
	expect(stopped, false); -- as Prosody wants it of this event
	expect(refused.attr.to, "bob@xmpp.example/phone");
end);
