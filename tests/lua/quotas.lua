local services = {};
local pep = {
	get_pep_service = function(username)
		services[username] = services[username] or { nodes = {} };
		return services[username];
	end;
};
local pubsub = "http://jabber.org/protocol/pubsub";

local function new_quotas()
	services = {};
	return load_module("quotas", {
		pep = pep, quotas_contacts = 3, quotas_contact_requests = 3, quotas_pep_nodes = 3, quotas_invitations = 3;
		quotas_spam_reports = 3, quotas_offline_messages = 3, quotas_server_calls = 3;
	});
end

local function request(payload, to)
	local iq = stanza("iq", { type = "set", from = "bob@xmpp.example/phone", to = to }, payload);
	iq.tags = { payload };
	return iq;
end

local function fate(module, event, sent)
	local origin = new_session { username = "bob" };
	module.fire(event, { origin = origin, stanza = sent });
	return origin.sent[1] and origin.sent[1].condition;
end

local function fill_roster()
	rosters.bob = { [false] = { pending = {} }, ["a@x.example"] = {}, ["b@x.example"] = {}, ["c@x.example"] = {} };
end

test("a full roster takes no further contact, and changes of those that it has", function()
	local quotas = new_quotas();
	local function add(jid, subscription)
		local query = stanza("query", nil, stanza("item", { jid = jid, subscription = subscription }));
		return fate(quotas, "iq/self/jabber:iq:roster:query", request(query));
	end
	expect(add("d@x.example"), nil);
	fill_roster();
	expect(add("d@x.example"), "resource-constraint");
	expect(add("a@x.example"), nil);
	expect(add("d@x.example", "remove"), nil);
end);

test("a request or an approval adds no contact to a full roster", function()
	local quotas = new_quotas();
	fill_roster();
	for _, kind in ipairs { "subscribe", "subscribed" } do
		local function to(jid)
			local sent = stanza("presence", { type = kind, from = "bob@xmpp.example", to = jid });
			return fate(quotas, "pre-presence/bare", sent);
		end
		expect(to("d@x.example"), "resource-constraint");
		expect(to("a@x.example/y"), nil);
	end
	expect(fate(quotas, "pre-presence/bare", stanza("presence", { from = "bob@xmpp.example", to = "d@x.example" })), nil);
end);

test("requests of others wait in a bounded number", function()
	local quotas = new_quotas();
	rosters.bob = { [false] = { pending = { ["a@x.example"] = true, ["b@x.example"] = true, ["c@x.example"] = true } } };
	local function from(jid, kind)
		local sent = stanza("presence", { type = kind or "subscribe", from = jid, to = "bob@xmpp.example" });
		return fate(quotas, "presence/bare", sent);
	end
	expect(from("d@x.example"), "resource-constraint");
	expect(from("a@x.example"), nil);
	expect(from("d@x.example", "unsubscribe"), nil);
end);

test("an account has a bounded number of nodes", function()
	local quotas = new_quotas();
	local function act(name, node, to)
		local payload = stanza("pubsub", { xmlns = pubsub }, stanza(name, { node = node }));
		payload.tags = payload.children;
		return fate(quotas, "iq/bare/" .. pubsub .. ":pubsub", request(payload, to));
	end
	expect(act("publish", "d"), nil);
	services.bob.nodes = { a = {}, b = {}, c = {} };
	expect(act("publish", "d"), "resource-constraint");
	expect(act("create", nil, "bob@xmpp.example"), "resource-constraint");
	expect(act("publish", "a"), nil);
	expect(act("delete", "a"), nil);
	expect(act("publish", "d", "mia@xmpp.example"), nil); -- mod_pep refuses it
end);

test("an account has a bounded number of open invitations, and expired ones are forgotten", function()
	local quotas = new_quotas();
	clock = 100;
	stores.invite_token = { bob = { a = 200, b = 200, c = 200, d = 50 } };
	local function invite(node)
		local sent = request(stanza("command", { node = node or "urn:xmpp:invite#invite" }), "xmpp.example");
		return fate(quotas, "iq-set/host/http://jabber.org/protocol/commands:command", sent);
	end
	expect(invite(), "resource-constraint");
	expect(stores.invite_token.bob.d, nil);
	expect(invite("other"), nil);
	clock = 201;
	expect(invite(), nil);
end);

test("messages for somebody who is away are kept for the next login within a bound", function()
	local quotas = new_quotas();
	stores.offline = {};
	local sent = stanza("message", { to = "bob@xmpp.example" });
	local function taken() return quotas.fire("message/offline/handle", { stanza = sent }); end
	expect(taken(), nil);
	stores.offline = { { "1" }, { "2" }, { "3" } };
	quotas = new_quotas();
	expect(taken(), true);
end);

test("reports are told within a bound, and blocking goes on", function()
	local quotas = new_quotas();
	local told = 0;
	for _ = 1, 5 do
		local item = stanza("item", { jid = "eve@x.example" }, stanza("report", { xmlns = "urn:xmpp:reporting:1" }));
		fate(quotas, "iq-set/self/urn:xmpp:blocking:block", request(stanza("block", nil, item)));
		if item:get_child("report", "urn:xmpp:reporting:1") then told = told + 1; end
	end
	expect(told, 3);
end);

test("an account has other servers called within a bound", function()
	local quotas = new_quotas();
	local function call(from, to, kind, origin_type)
		local sent = stanza("iq", { type = kind or "get", from = from, to = to });
		local origin = new_session { type = origin_type or "c2s", username = from:match("^(.*)@") };
		return quotas.fire("route/remote", { origin = origin, stanza = sent, to_host = to }), origin.sent[1];
	end
	for _, to in ipairs { "a.example", "b.example", "a.example", "c.example" } do
		expect(call("bob@xmpp.example/phone", to), nil);
	end
	local stopped, told = call("bob@xmpp.example/laptop", "d.example");
	expect(stopped, true);
	expect(told.condition, "resource-constraint");
	expect(call("bob@xmpp.example/phone", "d.example", "result"), nil); -- who asked called us
	expect(call("bob@xmpp.example/phone", "d.example", "get", "s2sin"), nil); -- what the server says for him
	expect(call("bob@xmpp.example/phone", "a.example"), nil);
	expect(call("mia@xmpp.example/phone", "d.example"), nil);
	clock = 3600;
	expect(call("bob@xmpp.example/phone", "d.example"), nil);
end);
