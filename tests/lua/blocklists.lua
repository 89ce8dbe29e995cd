local pubsub = "http://jabber.org/protocol/pubsub";
local followed = { { service = "lists.example", node = "abusers" } };
local name = "lists.example abusers";

local function message(from, to)
	return stanza("message", { from = from, to = to or "bob@xmpp.example" });
end

local function fate(module, sent, event)
	local origin = new_session();
	local stopped = module.fire(event or "message/bare", { origin = origin, stanza = sent });
	expect(origin.sent[1] == nil or stopped, true);
	return origin.sent[1] and origin.sent[1].condition or stopped;
end

local function items_of(...)
	local items = stanza("items", { node = "abusers" });
	for _, id in ipairs { ... } do items:add_child(stanza("item", { id = id })); end
	return items;
end

local function notification(from, change)
	local event = stanza("event", { xmlns = pubsub .. "#event" }, change);
	return stanza("message", { from = from, to = "xmpp.example" }, event);
end

local function answer(blocklists, ...)
	local result = stanza("iq", {}, stanza("pubsub", { xmlns = pubsub }, items_of(...)));
	blocklists.requests[#blocklists.requests].answer({ stanza = result });
end

local function new_lists(options)
	options = options or {};
	options.blocklists = options.blocklists or followed;
	local blocklists = load_module("blocklists", options);
	for _, run in ipairs(blocklists.timers) do run(); end
	return blocklists;
end

test("nothing is exchanged with whom the operator denies", function()
	local denied = load_module("blocklists", { blocklists_denied = { "evil.example", "troll@good.example" } });
	for _, from in ipairs { "x@evil.example", "evil.example", "x@deep.evil.example/y", "troll@good.example/x" } do
		for _, kind in ipairs { "bare", "full", "host" } do
			expect(fate(denied, message(from), "message/" .. kind), "policy-violation");
			expect(fate(denied, message(from), "presence/" .. kind), "policy-violation");
			expect(fate(denied, message("bob@xmpp.example", from), "pre-iq/" .. kind), "policy-violation");
		end
	end
	for _, from in ipairs { "x@good.example", "x@notevil.example", "x@evil.example.org", "bob@xmpp.example" } do
		expect(fate(denied, message(from)), nil);
	end
	rosters.bob = { [false] = {}, ["x@evil.example"] = { subscription = "both" } };
	expect(fate(denied, message("x@evil.example")), "policy-violation");
end);

test("errors and results of the denied are dropped in silence", function()
	local denied = load_module("blocklists", { blocklists_denied = { "evil.example" } });
	local sent = message("x@evil.example");
	sent.attr.type = "error";
	expect(fate(denied, sent), true);
end);

test("a list is fetched and holds, by hash and in plain", function()
	local blocklists = new_lists();
	expect(#blocklists.requests, 2);
	expect(blocklists.requests[2].stanza.attr.to, "lists.example");
	expect(fate(blocklists, message("eve@far.example/x")), nil);
	answer(blocklists, "sha256 of eve@far.example", "sha256 of bad.example", "worse.example");
	for _, from in ipairs { "eve@far.example/x", "x@bad.example", "x@worse.example" } do
		expect(fate(blocklists, message(from)), "policy-violation");
		expect(fate(blocklists, message(from, "bob@xmpp.example/nowhere"), "message/full"), "policy-violation");
		expect(fate(blocklists, message(from), "presence/bare"), "policy-violation");
	end
	expect(fate(blocklists, message("mia@far.example")), nil);
	answer(blocklists, "worse.example"); -- an hour later
	expect(fate(blocklists, message("eve@far.example")), nil);
end);

test("who is on the roster passes", function()
	local blocklists = new_lists();
	answer(blocklists, "far.example");
	rosters.bob = { [false] = {}, ["eve@far.example"] = {} };
	expect(fate(blocklists, message("eve@far.example/x")), nil);
	expect(fate(blocklists, message("mia@far.example/x")), "policy-violation");
end);

test("changes come as they happen, from the list's own service alone", function()
	local blocklists = new_lists();
	answer(blocklists);
	local function notify(from, change)
		return blocklists.fire("message/host", { origin = new_session(), stanza = notification(from, change) });
	end
	notify("other.example", items_of("far.example"));
	expect(fate(blocklists, message("eve@far.example")), nil);
	expect(notify("lists.example", items_of("far.example")), true);
	expect(fate(blocklists, message("eve@far.example")), "policy-violation");
	notify("lists.example", stanza("items", { node = "abusers" }, stanza("retract", { id = "far.example" })));
	expect(fate(blocklists, message("eve@far.example")), nil);
	notify("lists.example", items_of("far.example"));
	notify("lists.example", stanza("purge", { node = "abusers" }));
	expect(fate(blocklists, message("eve@far.example")), nil);
end);

test("a list that cannot be fetched stays as it was, over a restart too", function()
	local blocklists = new_lists();
	answer(blocklists, "far.example");
	blocklists.unload();
	expect(shared["/xmpp.example/blocklists/listed"][name], nil);
	blocklists = new_lists();
	blocklists.requests[2].refuse("remote-server-not-found");
	expect(fate(blocklists, message("eve@far.example")), "policy-violation");
	blocklists.requests[2].answer({ stanza = stanza("iq") });
	expect(fate(blocklists, message("eve@far.example")), "policy-violation");
end);

test("a room service has the lists of its host, and lets members in", function()
	answer(new_lists(), "far.example");
	local room = { get_affiliation = function(_, who) return who == "mia@far.example/x" and "member" or nil; end };
	prosody.hosts["xmpp.example"].modules = { muc = { get_room_from_jid = function() return room; end } };
	local rooms = load_module("blocklists", { host_type = "component", parent_host = "xmpp.example" });
	expect(fate(rooms, message("eve@far.example/x", "den@xmpp.example/eve"), "presence/full"), "policy-violation");
	expect(fate(rooms, message("mia@far.example/x", "den@xmpp.example/mia"), "presence/full"), nil);
end);

test("no list is followed unless it is named", function()
	local blocklists = load_module("blocklists");
	expect(#blocklists.timers, 0);
	expect(fate(blocklists, message("eve@far.example")), nil);
end);
