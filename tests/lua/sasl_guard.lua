local sasl, sasl2, fast = "urn:ietf:params:xml:ns:xmpp-sasl", "urn:xmpp:sasl:2", "urn:xmpp:fast:0";

local function features()
	local function mechanism(name) return stanza("mechanism", nil, name); end
	return stanza("features", nil,
		stanza("mechanisms", { xmlns = sasl }, mechanism("SCRAM-SHA-256")),
		stanza("authentication", { xmlns = sasl2 }, mechanism("SCRAM-SHA-256-PLUS"),
			stanza("inline", nil, stanza("fast", { xmlns = fast }, mechanism("HT-SHA-256-EXPR")))));
end

-- What the guard does about <auth/> or <authenticate/>: "passed", or the condition of its refusal.
local function attempt(xmlns, mechanism, session, ...)
	local guard = load_module("sasl_guard");
	session = session or new_session();
	guard.fire("stream-features", { origin = session, features = features() });
	local element = stanza(xmlns == sasl and "auth" or "authenticate", { xmlns = xmlns, mechanism = mechanism }, ...);
	local handled = guard.fire("stanza/" .. xmlns .. ":" .. element.name, { origin = session, stanza = element });
	return handled and session.sent[1].children[1].name or "passed";
end

test("what was offered passes", function()
	expect(attempt(sasl, "SCRAM-SHA-256"), "passed");
	expect(attempt(sasl2, "SCRAM-SHA-256-PLUS"), "passed");
end);

test("what was not offered is refused", function()
	expect(attempt(sasl, "PLAIN"), "invalid-mechanism");
	expect(attempt(sasl2, "PLAIN"), "invalid-mechanism");
	expect(attempt(sasl2, nil), "invalid-mechanism");
end);

test("an offer of one negotiation is none in the other", function()
	expect(attempt(sasl, "SCRAM-SHA-256-PLUS"), "invalid-mechanism");
	expect(attempt(sasl2, "SCRAM-SHA-256"), "invalid-mechanism");
end);

test("FAST has an offer of its own", function()
	local element = stanza("fast", { xmlns = fast });
	expect(attempt(sasl2, "HT-SHA-256-EXPR", nil, element), "passed");
	expect(attempt(sasl2, "HT-SHA-256-EXPR"), "invalid-mechanism");
	expect(attempt(sasl2, "SCRAM-SHA-256-PLUS", nil, element), "invalid-mechanism");
end);

test("before encryption the refusal says so", function()
	expect(attempt(sasl, "PLAIN", new_session { secure = false }), "encryption-required");
end);

test("without features nothing passes", function()
	local guard = load_module("sasl_guard");
	local session = new_session();
	local element = stanza("auth", { xmlns = sasl, mechanism = "SCRAM-SHA-256" });
	expect(guard.fire("stanza/" .. sasl .. ":auth", { origin = session, stanza = element }), true);
end);

test("servers are not its affair", function()
	local guard = load_module("sasl_guard");
	local element = stanza("auth", { xmlns = sasl, mechanism = "EXTERNAL" });
	local session = new_session { type = "s2sin_unauthed" };
	expect(guard.fire("stanza/" .. sasl .. ":auth", { origin = session, stanza = element }), nil);
end);
