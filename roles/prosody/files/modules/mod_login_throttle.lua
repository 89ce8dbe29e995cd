-- Limits failed logins, over SASL and SASL2 alike, and reports them to the log.
--
-- Failures are counted per account and source address, and more loosely per address, so that people
-- who share one are not locked out by a neighbour. IPv6 addresses count by their /64. Above a limit an
-- attempt is refused with temporary-auth-failure before the password is evaluated. The counts belong to
-- the server: reconnecting or changing the virtual host does not reset them. An account that has logged
-- in from an address before is held to its own limit there and to no other.
--
-- Each failure is one line and a warning, "failed login as USER@HOST (CONDITION) from IP: ADDRESS", the address at its
-- end; of IPv6 "(CONDITION, network NETWORK/64)". A client that shows a credential which was right once
-- (`stale_credential` of its SASL handler) is no guesser: its failures are reported as that, and not counted.
--
-- Modules with a way in of their own, such as a web page, share the limits: the functions at the end, through
-- module:depends("login_throttle"). Their `source` has `ip` and `log`, like a session.
--
-- Options:
--   login_throttle_account_attempts  integer, default 6: failures per account and address in one period
--   login_throttle_address_attempts  integer, default 60: failures per address in one period
--   login_throttle_period            period, default "5 minutes": counted from the first failure
--   login_throttle_stream_attempts   integer, default 5: negotiations per stream, then it is closed
--   login_throttle_memory            integer, default 10000: entries remembered, the oldest are forgotten (global)
-- Events: the SASL and SASL2 elements of clients; authentication-failure, authentication-success.
-- Source: RFC 6120 sections 6.4.5 (retries) and 6.5.11 (temporary-auth-failure), XEP-0388.

local base64 = require "prosody.util.encodings".base64;
local cache = require "prosody.util.cache";
local ip = require "prosody.util.ip";
local now = require "prosody.util.time".monotonic;
local stringprep = require "prosody.util.encodings".stringprep;

local sasl = module:require "sasl_negotiation";

local account_attempts = module:get_option_integer("login_throttle_account_attempts", 6, 1);
local address_attempts = module:get_option_integer("login_throttle_address_attempts", 60, 1);
local period = module:get_option_period("login_throttle_period", "5 minutes");
local stream_attempts = module:get_option_integer("login_throttle_stream_attempts", 5, 1);
local memory = module:get_option_integer("login_throttle_memory", 10000, 100);

-- Conditions that follow from a wrong or unknown credential; others say nothing about it.
local guesses = { ["not-authorized"] = true; ["account-disabled"] = true };

local state = module:shared("/*/login_throttle/state"); -- of all hosts; outlives a reload of the module
state.failures = state.failures or cache.new(memory); -- key -> { count, expiry }
state.acquainted = state.acquainted or cache.new(memory); -- "account address" -> true
local failures, acquainted = state.failures, state.acquainted;

local function network_of(address)
	local parsed = address and ip.new_ip((address:gsub("^::ffff:(%d+%.)", "%1"))); -- RFC 4291 section 2.5.5.2
	if not parsed then
		return "unknown";
	elseif parsed.proto == "IPv6" then
		return ip.truncate(parsed, 64).normal;
	end
	return parsed.normal;
end

local function count(key)
	local entry = failures:get(key);
	return entry and entry.expires > now() and entry.count or 0;
end

local function add(key)
	local previous = count(key);
	local expires = previous > 0 and failures:get(key).expires or now() + period;
	failures:set(key, { count = previous + 1, expires = expires });
end

-- Where the first message of a mechanism states the account.
local username_patterns = {
	{ mechanism = "^PLAIN$", message = "^[^%z]*%z([^%z]+)%z" }; -- RFC 4616
	{ mechanism = "^SCRAM%-", message = "^[^,]*,[^,]*,n=([^,]*)," }; -- RFC 5802
	{ mechanism = "^HT%-", message = "^([^%z]+)%z" }; -- XEP-0484
};

local function stated_username(stanza)
	local mechanism = stanza.attr.mechanism;
	local text = stanza:get_child_text("initial-response") or stanza:get_text();
	local message = mechanism and text and base64.decode(text);
	for _, pattern in ipairs(message and username_patterns or {}) do
		if mechanism:match(pattern.mechanism) then
			local username = message:match(pattern.message);
			username = username and stringprep.saslprep((username:gsub("=2C", ","):gsub("=3D", "=")));
			return username and stringprep.nodeprep(username);
		end
	end
end

local function keys(source, username)
	local network = network_of(source.ip);
	local account = username and username .. "@" .. module.host;
	return network, account and account .. " " .. network;
end

local function is_throttled(source, username)
	local network, pair = keys(source, username);
	if pair and count(pair) >= account_attempts then
		return true;
	end
	return count(network) >= address_attempts and not (pair and acquainted:get(pair));
end

local function report(source, username, condition)
	local network = network_of(source.ip);
	source.log("warn", "failed login as %s@%s (%s%s) from IP: %s", username or "?", module.host, condition,
		network:find(":", 1, true) and ", network " .. network .. "/64" or "", source.ip or "?");
end

local function count_failure(source, username)
	local network, pair = keys(source, username);
	add(network);
	if pair then
		add(pair);
	end
end

local function count_success(source, username)
	local _, pair = keys(source, username);
	failures:set(pair, nil);
	acquainted:set(pair, true);
end

local function check(session, stanza)
	-- Once the mechanism has read the account it is the handler's; what the client stated may differ.
	local handler = session.sasl_handler;
	local username = not stanza.attr.mechanism and handler and handler.username or stated_username(stanza);
	session.login_username = username or session.login_username;
	if not is_throttled(session, session.login_username) then return; end
	report(session, session.login_username, "throttled");
	return sasl.refuse(session, stanza, "temporary-auth-failure", "Too many failed logins, try again later");
end

local function begin(session, stanza)
	session.login_username = nil;
	session.login_attempts = (session.login_attempts or 0) + 1;
	if session.login_attempts > stream_attempts then
		session:close { condition = "policy-violation", text = "Too many login attempts" };
		return true;
	end
	return check(session, stanza);
end

sasl.hook_unauthenticated({ [sasl.xmlns_sasl] = "auth", [sasl.xmlns_sasl2] = "authenticate" }, begin, 900);
sasl.hook_unauthenticated({ [sasl.xmlns_sasl] = "response", [sasl.xmlns_sasl2] = "response" }, check, 900);

module:hook("authentication-failure", function(event)
	local session = event.session;
	local handler = session.sasl_handler;
	local condition = event.condition or event.message; -- mod_saslauth, mod_sasl2
	if not guesses[condition] then return; end
	local username = handler and handler.username or session.login_username;
	if handler and handler.stale_credential then
		condition = "stale-credential";
	else
		count_failure(session, username);
	end
	report(session, username, condition);
end);

module:hook("authentication-success", function(event)
	count_success(event.session, event.session.username);
end);

local exports = module.environment;
exports.count_failure, exports.count_success = count_failure, count_success;
exports.is_throttled, exports.report = is_throttled, report;
