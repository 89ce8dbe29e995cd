local function message(attr, ...)
	local from, to = attr.from or "alice@xmpp.example/phone", attr.to or "bob@far.example";
	local stanza = stanza("message", { from = from, to = to, type = attr.type or "chat" });
	for _, child in ipairs { ... } do
		stanza:add_child(child);
	end
	return stanza;
end

local function element(name, xmlns, ...)
	return stanza(name, { xmlns = xmlns }, ...);
end

local body = element("body", nil, "hello");
local encrypted = {
	element("encrypted", "eu.siacs.conversations.axolotl", element("header"), element("payload", nil, "AAAA"));
	element("encrypted", "urn:xmpp:omemo:1", element("header"), element("payload", nil, "AAAA"));
	element("encrypted", "urn:xmpp:omemo:2", element("header"), element("payload", nil, "AAAA"));
	element("openpgp", "urn:xmpp:openpgp:0", "AAAA");
	element("x", "jabber:x:encrypted", "AAAA");
};

local function new_policy(policy, exceptions)
	return load_module("e2ee_policy", { e2ee_policy = policy, e2ee_policy_exceptions = exceptions });
end

-- What becomes of a message, as an error's condition; nil where it passes.
local function fate(module, stanza, event)
	local origin = new_session();
	local stopped = module.fire(event or "pre-message/bare", { origin = origin, stanza = stanza });
	expect(stopped or false, #origin.sent > 0);
	return origin.sent[1] and origin.sent[1].condition;
end

test("plaintext comes back, on every way", function()
	local policy = new_policy("require");
	for _, way in ipairs { "pre-message/bare", "pre-message/full", "pre-message/host", "message/bare", "message/full" } do
		expect(fate(policy, message({}, body), way), "policy-violation");
	end
end);

test("payloads of OMEMO, OX and OpenPGP pass, whatever body is beside them", function()
	local policy = new_policy("require");
	for _, payload in ipairs(encrypted) do
		expect(fate(policy, message({}, payload, body)), nil);
	end
end);

test("an empty payload is none", function()
	local policy = new_policy("require");
	for _, payload in ipairs(encrypted) do
		local empty = element(payload.name, payload.attr.xmlns, element("header"), element("payload", nil, " "));
		expect(fate(policy, message({}, empty, body)), "policy-violation");
	end
	expect(fate(policy, message({}, element("encryption", "urn:xmpp:eme:0"), body)), "policy-violation");
end);

test("words in disguise come back", function()
	local policy = new_policy("require");
	for _, disguise in ipairs {
		element("html", "http://jabber.org/protocol/xhtml-im");
		element("rtt", "urn:xmpp:rtt:0");
		element("x", "jabber:x:oob");
		element("file-sharing", "urn:xmpp:sfs:0");
		element("reference", "urn:xmpp:reference:0");
		element("subject", nil, "hello");
		element("forwarded", "urn:xmpp:forward:0", message({}, body));
	} do
		expect(fate(policy, message({}, disguise)), "policy-violation");
	end
end);

test("what has no words passes", function()
	local policy = new_policy("require");
	for _, child in ipairs {
		element("received", "urn:xmpp:receipts");
		element("composing", "http://jabber.org/protocol/chatstates");
		element("displayed", "urn:xmpp:chat-markers:0");
		element("reactions", "urn:xmpp:reactions:0");
		element("retract", "urn:xmpp:message-retract:1");
		element("propose", "urn:xmpp:jingle-message:0");
		element("event", "http://jabber.org/protocol/pubsub#event");
		element("x", "jabber:x:conference");
	} do
		expect(fate(policy, message({}, child)), nil);
	end
	expect(fate(policy, message({ type = "groupchat" }, element("subject", nil, "the room"))), nil);
	expect(fate(policy, message({ type = "error" }, body)), nil);
end);

test("a body passes as the fallback of an announcement, and of nothing else", function()
	local policy = new_policy("require");
	local function fallback(xmlns)
		return stanza("fallback", { xmlns = "urn:xmpp:fallback:0", ["for"] = xmlns });
	end
	local retract = element("retract", "urn:xmpp:message-retract:1");
	local reply = element("reply", "urn:xmpp:reply:0");
	expect(fate(policy, message({}, retract, fallback("urn:xmpp:message-retract:1"), body)), nil);
	expect(fate(policy, message({}, fallback("urn:xmpp:message-retract:1"), body)), "policy-violation");
	expect(fate(policy, message({}, retract, body)), "policy-violation");
	expect(fate(policy, message({}, reply, fallback("urn:xmpp:reply:0"), body)), "policy-violation");
end);

test("invitations to rooms pass", function()
	local invitation = element("x", "http://jabber.org/protocol/muc#user", element("invite"));
	expect(fate(new_policy("require"), message({}, invitation, body), "message/bare"), nil);
end);

test("the server itself and the exceptions may be spoken with", function()
	local policy = new_policy("require", { "bot@far.example", "gateway.example" });
	expect(fate(policy, message({ from = "xmpp.example" }, body), "message/bare"), nil);
	expect(fate(policy, message({ to = "xmpp.example" }, body), "pre-message/host"), nil);
	expect(fate(policy, message({ to = "bot@far.example/now" }, body)), nil);
	expect(fate(policy, message({ from = "491@gateway.example" }, body), "message/bare"), nil);
	expect(fate(policy, message({ from = "far.example" }, body), "message/bare"), "policy-violation");
end);

test("what a room relays reaches those who have joined it", function()
	local policy = new_policy("require");
	local relayed = message({ type = "groupchat", from = "den@rooms.example/bob", to = "alice@xmpp.example/phone" }, body);
	expect(fate(policy, relayed, "message/full"), "policy-violation");
	prosody.full_sessions["alice@xmpp.example/phone"] = { directed = { ["den@rooms.example/alice"] = true } };
	expect(fate(policy, relayed, "message/full"), nil);
end);

test("advice is given once a day, and the message passes", function()
	local policy = new_policy("advise");
	expect(fate(policy, message({}, body)), nil);
	expect(fate(policy, message({}, body)), nil);
	expect(#policy.sent, 1);
	expect(policy.sent[1].attr.to, "alice@xmpp.example/phone");
	clock = 86401;
	expect(fate(policy, message({}, body)), nil);
	expect(fate(policy, message({}, encrypted[1])), nil);
	expect(#policy.sent, 2);
end);

test("it is off unless it is asked for", function()
	expect(fate(load_module("e2ee_policy"), message({}, body)), nil);
end);
