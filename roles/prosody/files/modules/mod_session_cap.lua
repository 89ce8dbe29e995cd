-- Limits how many sessions one account has open at a time.
--
-- A session that hibernates, waiting for its client to resume (XEP-0198), gives way to a client that is
-- there: the longest asleep is closed first. A client that has logged in must bind a resource, which makes
-- it count, within the time allowed.
--
-- Options:
--   session_cap_resources     integer, default 20: resources per account
--   session_cap_policy        "refuse" (default): a further client gets resource-constraint;
--                             "replace": the account's oldest session is closed for it
--   session_cap_bind_timeout  period, default "30 seconds": from login to resource binding
-- Events: pre-resource-bind (plain, Bind 2, BOSH, WebSocket), authentication-success.
-- Source: RFC 6120 section 7.6.2.1 (resource-constraint), XEP-0386.

local resourceprep = require "prosody.util.encodings".stringprep.resourceprep;

local max_resources = module:get_option_integer("session_cap_resources", 20, 1);
local policy = module:get_option_enum("session_cap_policy", "refuse", "replace");
local bind_timeout = module:get_option_period("session_cap_bind_timeout", "30 seconds");

local function oldest(sessions, since)
	local found;
	for _, session in pairs(sessions) do
		if session[since] and not (found and found[since] <= session[since]) then
			found = session;
		end
	end
	return found;
end

module:hook("pre-resource-bind", function(event)
	local user = prosody.hosts[module.host].sessions[event.session.username];
	if not user then return; end
	local resource = event.resource and resourceprep(event.resource, true);
	if resource and user.sessions[resource] then return; end -- takes its namesake's place

	local count = 0;
	for _ in pairs(user.sessions) do
		count = count + 1;
	end
	if count < max_resources then return; end

	local leaving = oldest(user.sessions, "hibernating") or policy == "replace" and oldest(user.sessions, "conntime");
	if leaving then
		leaving:close { condition = "policy-violation", text = "Replaced by a newer session" };
		return;
	end
	event.session.log("info", "Refused a session: the account has %d", count);
	event.error = { type = "wait", condition = "resource-constraint", text = "Too many sessions of this account" };
	return false;
end);

module:hook("authentication-success", function(event)
	local session = event.session;
	if bind_timeout == math.huge then return; end
	module:add_timer(bind_timeout, function()
		if session.type == "c2s_unbound" then
			session:close { condition = "connection-timeout", text = "No resource was bound" };
		end
	end);
end);
