local sasl, sasl2 = "urn:ietf:params:xml:ns:xmpp-sasl", "urn:xmpp:sasl:2";
local options = {
	login_throttle_account_attempts = 3;
	login_throttle_address_attempts = 8;
	login_throttle_period = "5 minutes";
};

local function begin(throttle, session, username)
	local element = stanza("auth", { xmlns = sasl, mechanism = "SCRAM-SHA-256" }, ("n,,n=%s,r=x"):format(username));
	return throttle.fire("stanza/" .. sasl .. ":auth", { origin = session, stanza = element });
end

-- One login with a wrong password: whether it was looked at.
local function guess(throttle, username, address)
	local session = new_session { ip = address, sasl_handler = { username = username:lower() } };
	function session.sasl_handler:clean_clone() return self; end
	if begin(throttle, session, username) then return false; end
	throttle.fire("authentication-failure", { session = session, condition = "not-authorized" });
	return true, session;
end

local function looked_at(throttle, count, username, address)
	local evaluated = 0;
	for i = 1, count do
		if guess(throttle, type(username) == "function" and username(i) or username, address) then
			evaluated = evaluated + 1;
		end
	end
	return evaluated;
end

local function succeed(throttle, username, address)
	throttle.fire("authentication-success", { session = new_session { username = username, ip = address } });
end

local function someone(i) return "user" .. i; end

test("an account and an address have a few guesses", function()
	local throttle = load_module("login_throttle", options);
	expect(looked_at(throttle, 5, "alice", "192.0.2.1"), 3);
	expect(looked_at(throttle, 1, "ALICE", "192.0.2.1"), 0);
	expect(looked_at(throttle, 1, "alice", "192.0.2.2"), 1);
	expect(looked_at(throttle, 1, "bob", "192.0.2.1"), 1);
end);

test("guesses expire", function()
	local throttle = load_module("login_throttle", options);
	looked_at(throttle, 3, "alice", "192.0.2.1");
	clock = 299;
	expect(looked_at(throttle, 1, "alice", "192.0.2.1"), 0);
	clock = 300;
	expect(looked_at(throttle, 4, "alice", "192.0.2.1"), 3);
end);

test("a reload of the module forgets nothing", function()
	looked_at(load_module("login_throttle", options), 3, "alice", "192.0.2.1");
	expect(looked_at(load_module("login_throttle", options), 1, "alice", "192.0.2.1"), 0);
end);

test("an address has a limit of its own", function()
	local throttle = load_module("login_throttle", options);
	expect(looked_at(throttle, 20, someone, "192.0.2.1"), 8);
end);

test("a success clears the account's count and not the address's", function()
	local throttle = load_module("login_throttle", options);
	looked_at(throttle, 3, "alice", "192.0.2.1");
	succeed(throttle, "alice", "192.0.2.1");
	expect(looked_at(throttle, 1, "alice", "192.0.2.1"), 1);
	expect(looked_at(throttle, 20, someone, "192.0.2.1"), 4);
end);

test("neighbours who have logged in before are not locked out", function()
	local throttle = load_module("login_throttle", options);
	succeed(throttle, "bob", "192.0.2.1");
	looked_at(throttle, 20, someone, "192.0.2.1");
	expect(looked_at(throttle, 5, "bob", "192.0.2.1"), 3);
end);

test("IPv6 counts by /64, IPv4 in IPv6 notation as IPv4", function()
	local throttle = load_module("login_throttle", options);
	looked_at(throttle, 3, "alice", "2001:0db8:0000:0001:0000:0000:0000:0001");
	expect(looked_at(throttle, 1, "alice", "2001:0db8:0000:0001:ffff:0000:0000:0002"), 0);
	expect(looked_at(throttle, 1, "alice", "2001:0db8:0000:0002:0000:0000:0000:0001"), 1);
	looked_at(throttle, 3, "bob", "::ffff:192.0.2.1");
	expect(looked_at(throttle, 1, "bob", "192.0.2.1"), 0);
	expect(looked_at(throttle, 1, "bob", "::ffff:192.0.2.2"), 1);
end);

test("challenges taken before the limit do not help", function()
	local throttle = load_module("login_throttle", options);
	local session = new_session { sasl_handler = { username = "alice" } };
	function session.sasl_handler:clean_clone() return self; end
	expect(begin(throttle, session, "alice"), nil);
	looked_at(throttle, 3, "alice", "192.0.2.1");
	local proof = { origin = session, stanza = stanza("response", { xmlns = sasl }, "p=x") };
	expect(throttle.fire("stanza/" .. sasl .. ":response", proof), true);
	expect(session.sent[1].children[1].name, "temporary-auth-failure");
end);

test("the account that is counted is the one the server read", function()
	local throttle = load_module("login_throttle", options);
	looked_at(throttle, 3, "alice", "192.0.2.1");
	local session = new_session { sasl_handler = { username = "alice" } };
	function session.sasl_handler:clean_clone() return self; end
	begin(throttle, session, "decoy");
	local proof = { origin = session, stanza = stanza("response", { xmlns = sasl2 }, "p=x") };
	expect(throttle.fire("stanza/" .. sasl2 .. ":response", proof), true);
end);

test("failures that no password caused do not count", function()
	local throttle = load_module("login_throttle", options);
	for _ = 1, 20 do
		throttle.fire("authentication-failure", { session = new_session(), condition = "malformed-request" });
	end
	expect(looked_at(throttle, 1, "alice", "192.0.2.1"), 1);
end);

test("a stream has a few attempts", function()
	local throttle = load_module("login_throttle", options);
	local session = new_session();
	for _ = 1, 5 do
		expect(begin(throttle, session, "alice"), nil);
	end
	expect(begin(throttle, session, "alice"), true);
	expect(session.closed.condition, "policy-violation");
end);

test("a failure is logged with its address last", function()
	local throttle = load_module("login_throttle", options);
	local _, session = guess(throttle, "alice", "192.0.2.1");
	expect(session.logged[1], "warn: failed login as alice@xmpp.example (not-authorized) from IP: 192.0.2.1");
	local address = "2001:0db8:0000:0001:0000:0000:0000:0002";
	_, session = guess(throttle, "alice", address);
	expect(session.logged[1],
		"warn: failed login as alice@xmpp.example (not-authorized, network 2001:0db8:0000:0001::/64) from IP: " .. address);
end);

test("SASL2 names its conditions otherwise", function()
	local throttle = load_module("login_throttle", options);
	local session = new_session { sasl_handler = { username = "alice" } };
	throttle.fire("authentication-failure", { session = session, message = "not-authorized" });
	expect(#session.logged, 1);
end);

test("an address that cannot be read is still limited", function()
	local throttle = load_module("login_throttle", options);
	expect(looked_at(throttle, 20, someone, "nonsense"), 8);
end);
