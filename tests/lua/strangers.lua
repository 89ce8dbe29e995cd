local function new_strangers(options)
	return load_module("strangers", options or { strangers_recipients = 3 });
end

local function message(attr, ...)
	local stanza = stanza("message", { from = "eve@far.example/x", to = "bob@xmpp.example", type = "chat" });
	for key, value in pairs(attr) do stanza.attr[key] = value; end
	for _, child in ipairs { ... } do stanza:add_child(child); end
	return stanza;
end

local function body(text)
	return stanza("body", nil, text or "hello");
end

-- What becomes of a stanza, as an error's condition; nil where it passes.
local function fate(module, sent, event, username)
	local origin = new_session { username = username };
	local stopped = module.fire(event or "message/bare", { origin = origin, stanza = sent });
	expect(stopped or false, #origin.sent > 0);
	return origin.sent[1] and origin.sent[1].condition;
end

test("links of strangers come back, in whatever they are", function()
	local strangers = new_strangers();
	for _, child in ipairs {
		body("https://example.org"), body("HTTP://EXAMPLE.ORG"), body("see www.example.org"), body("t.me/offer");
		body("t.me/@offer");
		body("xmpp:den@rooms.example?join"), body("mailto:x@example.org"), stanza("subject", nil, "ftp://example.org");
		stanza("x", { xmlns = "jabber:x:oob" });
		stanza("file-sharing", { xmlns = "urn:xmpp:sfs:0" });
		stanza("html", { xmlns = "http://jabber.org/protocol/xhtml-im" }, stanza("a", { href = "//example.org" }));
	} do
		expect(fate(strangers, message({}, child)), "policy-violation");
		expect(fate(strangers, message({}, child), "message/full"), "policy-violation");
	end
end);

test("text without a link passes", function()
	local strangers = new_strangers();
	for _, text in ipairs {
		"hello", "and/or", "at 10:30", "e.g. this. That", "note: yes", "1.5/2", "wwwhat", "mia@far.example/x", "so.Why?";
		"[This is an OMEMO encrypted message: https://conversations.im/omemo]";
	} do
		expect(fate(strangers, message({}, body(text))), nil);
	end
end);

test("links pass where the operator allows them", function()
	local strangers = new_strangers { strangers_links = true, strangers_recipients = 3 };
	expect(fate(strangers, message({}, body("https://x.example"))), nil);
end);

test("who is on the roster, a gateway on it, and who was written to pass", function()
	local strangers, link = new_strangers(), body("https://example.org");
	rosters.bob = { [false] = { pending = {} }, ["eve@far.example"] = {}, ["gateway.example"] = {} };
	expect(fate(strangers, message({}, link)), nil);
	expect(fate(strangers, message({ from = "491@gateway.example" }, link)), nil);
	expect(fate(strangers, message({ from = "mia@far.example" }, link)), "policy-violation");
	local sent = message({ from = "bob@xmpp.example/phone", to = "mia@far.example/x" }, body());
	expect(fate(strangers, sent, "pre-message/full", "bob"), nil);
	expect(fate(strangers, message({ from = "mia@far.example" }, link)), nil);
	strangers.unload();
	expect(fate(new_strangers(), message({ from = "mia@far.example" }, link)), nil);
end);

test("what has no words makes nobody known", function()
	local strangers = new_strangers();
	local omemo = "urn:xmpp:omemo:2";
	for _, child in ipairs {
		stanza("received", { xmlns = "urn:xmpp:receipts" });
		stanza("encrypted", { xmlns = omemo }, stanza("header", { xmlns = omemo }));
	} do
		local sent = message({ from = "bob@xmpp.example", to = "mia@far.example" }, child);
		expect(fate(strangers, sent, "pre-message/bare", "bob"), nil);
	end
	expect(fate(strangers, message({ from = "mia@far.example" }, body("https://x.example"))), "policy-violation");
	local payload = stanza("encrypted", { xmlns = omemo }, stanza("payload", { xmlns = omemo }));
	fate(strangers, message({ from = "bob@xmpp.example", to = "mia@far.example" }, payload), "pre-message/bare", "bob");
	expect(fate(strangers, message({ from = "mia@far.example" }, body("https://x.example"))), nil);
end);

test("of those who were written to, the last 200 are remembered", function()
	local strangers = new_strangers { strangers_recipients = 1000 };
	for number = 1, 201 do
		clock = number;
		local sent = message({ from = "bob@xmpp.example", to = ("n%d@far.example"):format(number) }, body());
		expect(fate(strangers, sent, "pre-message/bare", "bob"), nil);
	end
	local count = 0;
	for _ in pairs(stores.strangers_written_to.bob) do count = count + 1; end
	expect(count, 200);
	expect(stores.strangers_written_to.bob["n1@far.example"], nil);
end);

test("the server, its services, its administrators and joined rooms pass", function()
	prosody.hosts["rooms.xmpp.example"] = { type = "component" };
	local strangers = new_strangers { administrators = { ["admin@xmpp.example"] = true } };
	for _, from in ipairs { "xmpp.example", "den@rooms.xmpp.example/mia", "admin@xmpp.example" } do
		expect(fate(strangers, message({ from = from }, body("https://example.org"))), nil);
	end
	local link = body("https://example.org");
	local private = message({ from = "den@rooms.far.example/mia", to = "bob@xmpp.example/phone" }, link);
	expect(fate(strangers, private, "message/full"), "policy-violation");
	prosody.full_sessions["bob@xmpp.example/phone"] = { directed = { ["den@rooms.far.example/bob"] = true } };
	expect(fate(strangers, private, "message/full"), nil);
end);

test("a stranger addresses few within an hour, and those again", function()
	local strangers = new_strangers();
	local function to(number, event)
		return fate(strangers, message({ to = ("n%d@xmpp.example"):format(number) }, body()), event);
	end
	for number = 1, 3 do expect(to(number), nil); end
	expect(to(4), "policy-violation");
	expect(to(1), nil);
	local request = stanza("presence", { type = "subscribe", from = "eve@far.example", to = "n5@xmpp.example" });
	expect(fate(strangers, request, "presence/bare"), "policy-violation");
	expect(fate(strangers, message({ from = "mia@far.example", to = "n4@xmpp.example" }, body())), nil);
	clock = 3600;
	expect(to(4), nil);
end);

test("of who goes on the operator is told, once an hour", function()
	local strangers = new_strangers { strangers_recipients = 1 };
	for number = 1, 4 do fate(strangers, message({ to = ("n%d@xmpp.example"):format(number) }, body())); end
	expect(#strangers.log, 1);
	expect(strangers.log[1]:match("^warn: eve@far.example has addressed 1 ") ~= nil, true);
	clock = 3600;
	for number = 1, 2 do fate(strangers, message({ to = ("n%d@xmpp.example"):format(number) }, body())); end
	expect(#strangers.log, 2);
end);

test("errors and events of PubSub are not counted, other presence is not looked at", function()
	local strangers = new_strangers { strangers_recipients = 1 };
	local event = stanza("event", { xmlns = "http://jabber.org/protocol/pubsub#event" });
	for number = 1, 5 do
		local to = ("n%d@xmpp.example"):format(number);
		expect(fate(strangers, message({ to = to }, event)), nil);
		expect(fate(strangers, message({ to = to, type = "error" }, stanza("error"))), nil);
		expect(fate(strangers, stanza("presence", { from = "eve@far.example", to = to }), "presence/bare"), nil);
	end
end);

test("people of ours address few strangers elsewhere, and all their contacts", function()
	local strangers = new_strangers();
	local function to(address, event)
		return fate(strangers, message({ from = "bob@xmpp.example/x", to = address }, body()), event or "pre-message/bare",
			"bob");
	end
	for number = 1, 3 do expect(to(("n%d@far.example"):format(number)), nil); end
	expect(to("n4@far.example"), "policy-violation");
	rosters.bob["n5@far.example"] = { subscription = "both" };
	rosters.bob["n6@far.example"] = { subscription = "none", ask = "subscribe" };
	expect(to("n5@far.example"), nil);
	expect(to("n6@far.example"), "policy-violation");
	expect(to("mia@xmpp.example"), nil); -- judged where it arrives
	local request = stanza("presence", { type = "subscribe", from = "bob@xmpp.example", to = "n7@far.example" });
	expect(fate(strangers, request, "pre-presence/bare", "bob"), "policy-violation");
end);

test("links hide in no reason for an invitation", function()
	local strangers = new_strangers();
	local through_room = stanza("x", { xmlns = "http://jabber.org/protocol/muc#user" },
		stanza("invite", { from = "eve@far.example" }, stanza("reason", nil, "see https://example.org")));
	for _, child in ipairs {
		stanza("x", { xmlns = "jabber:x:conference", jid = "den@rooms.far.example", reason = "see www.example.org" });
		through_room;
	} do
		expect(fate(strangers, message({}, child)), "policy-violation");
	end
	local direct = stanza("x", { xmlns = "jabber:x:conference", jid = "den@rooms.far.example", reason = "come in" });
	expect(fate(strangers, message({}, direct)), nil);
end);

test("what comes through a room is judged by who sends it", function()
	local strangers = new_strangers();
	rosters.bob = { [false] = { pending = {} }, ["mia@far.example"] = { subscription = "both" } };
	local function letter(from, to, text)
		local sent = message({ from = from .. "/x", to = "den@rooms.xmpp.example" }, body(text));
		local origin = new_session();
		local stopped = strangers.fire("strangers-letter", { origin = origin, stanza = sent, from = from, to = to });
		expect(stopped or false, #origin.sent > 0);
		return origin.sent[1] and origin.sent[1].condition;
	end
	local link = "https://example.org";
	expect(letter("eve@far.example", "bob@xmpp.example", link), "policy-violation");
	expect(letter("mia@far.example", "bob@xmpp.example", link), nil);
	expect(letter("bob@xmpp.example", "bob@xmpp.example", link), nil);
	for number = 1, 3 do expect(letter("eve@far.example", ("n%d@xmpp.example"):format(number)), nil); end
	expect(letter("eve@far.example", "n4@xmpp.example"), "policy-violation");
	for number = 1, 3 do expect(letter("bob@xmpp.example", ("n%d@far.example"):format(number), link), nil); end
	expect(letter("bob@xmpp.example", "n4@far.example"), "policy-violation");
	expect(letter("bob@xmpp.example", "mia@far.example"), nil);
end);

test("links hide in nothing that a client may show", function()
	local strangers = new_strangers();
	local form = { xmlns = "jabber:x:data" };
	for _, child in ipairs {
		stanza("x", form, stanza("field", { var = "a" }, stanza("value", nil, "https://example.org")));
		stanza("confirm", { xmlns = "http://jabber.org/protocol/http-auth", url = "https://example.org" });
		stanza("nick", { xmlns = "http://jabber.org/protocol/nick" }, "www.example.org");
		stanza("body", nil, "www.", stanza("x", { xmlns = "a" }), "example.org"), stanza("a", nil, body("t.me/offer"));
		stanza("body", nil, stanza("field", { var = "FORM_TYPE", type = "hidden" }, "https://example.org"));
		stanza("x", form, stanza("field", { label = "www.example.org" }));
		stanza("html", { xmlns = "http://jabber.org/protocol/xhtml-im" }, stanza("img", { src = "https://example.org" }));
		body("me@far.example,t.me/offer"), body("(eve@far.example)t.me/offer"), body("example.org:443/offer");
		body("t.me?start=1"), body("192.0.2.1/x"), body("xn--e1afmkfd.xn--p1ai/x"), body("пример.рф/x");
	} do
		expect(fate(strangers, message({}, child)), "policy-violation");
	end
	local type = stanza("field", { var = "FORM_TYPE", type = "hidden" },
		stanza("value", nil, "http://jabber.org/protocol/muc#request"));
	expect(fate(strangers, message({}, stanza("x", form, type))), nil);
end);

test("requests have no links", function()
	local strangers = new_strangers();
	local function ask(...)
		local request = stanza("presence", { type = "subscribe", from = "eve@far.example", to = "bob@xmpp.example" }, ...);
		return fate(strangers, request, "presence/bare");
	end
	expect(ask(stanza("status", nil, "see https://example.org")), "policy-violation");
	expect(ask(stanza("nick", { xmlns = "http://jabber.org/protocol/nick" }, "www.example.org")), "policy-violation");
	expect(ask(stanza("c", { xmlns = "http://jabber.org/protocol/caps", node = "https://client.example" })), nil);
	expect(ask(stanza("status", nil, "it is me")), nil);
end);

test("an event of PubSub carries no message", function()
	local strangers, link = new_strangers(), body("https://example.org");
	local event = stanza("event", { xmlns = "http://jabber.org/protocol/pubsub#event" });
	expect(fate(strangers, message({}, event, link)), "policy-violation");
	expect(fate(strangers, message({ type = "error" }, link)), "policy-violation");
end);

test("names in a letter are looked at, those of domains and of our services are not judged", function()
	local strangers = new_strangers();
	local function letter(from, to, name)
		local data = { origin = new_session(), stanza = message({}, body()), from = from, to = to, name = name };
		return strangers.fire("strangers-letter", data);
	end
	expect(letter("eve@far.example", "bob@xmpp.example", "see https://example.org eve"), true);
	expect(letter("eve@far.example", "xmpp.example", "see https://example.org"), nil);
	prosody.hosts["bot.xmpp.example"] = { type = "component" };
	expect(letter("bot.xmpp.example", "bob@xmpp.example", "https://example.org"), nil);
end);

test("no text or element takes longer than its length", function()
	local length, deep = 16000, 2000;
	local nested = body("hello");
	for _ = 1, deep do nested = stanza("body", nil, nested, ("x"):rep(length / deep)); end
	local function seconds_for(child)
		local strangers, began = new_strangers(), os.clock();
		for _ = 1, 3 do fate(strangers, message({}, child)); end
		return os.clock() - began;
	end
	local plain = seconds_for(body(("hello you "):rep(length / 10)));
	for _, text in ipairs {
		("a"):rep(length) .. " ://", "a." .. ("1"):rep(length) .. " /", "1.1.1." .. ("1"):rep(length) .. " /";
		("a."):rep(length / 2) .. " /", ("a@"):rep(length / 2) .. " /", ("1."):rep(length / 2) .. " /";
	} do
		expect(seconds_for(body(text)) < plain * 20, true);
	end
	expect(seconds_for(nested) < plain * 20, true);
end);
