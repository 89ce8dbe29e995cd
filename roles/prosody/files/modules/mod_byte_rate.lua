-- Reads a connection no faster than a rate, but lets who was silent say a little at once.
--
-- mod_limits, under net.server_epoll, puts a connection to sleep after each read for as long as its bytes take at the
-- rate. A login, a few kilobytes in ten turns, then waits most of its time, and each sleep costs a timer and two
-- system calls. Here what a connection did not use is saved up, for half a second; it sleeps when it owes.
--
-- Options (global):
--   limits  { c2s = { rate = "50kb/s" }, s2sin = { ... }, s2sout = { ... } }, as mod_limits reads it: bytes a second of
--           each connection of that kind, a thousand to the kilobyte; a kind that is not there is not limited
-- Events: none. A filter of incoming bytes.
-- Source: XEP-0205 section 3, CWE-770.

module:set_global();

local filters = require "prosody.util.filters";
local now = require "prosody.util.time".monotonic;

local saved = 0.5; -- seconds
local exponents = { b = 0, k = 3, m = 6, g = 9 };

local rates = {};
for kind, limit in pairs(module:get_option("limits", {})) do
	local quantity, unit = tostring(limit.rate):lower():match("^(%d+) ?([bkmg])[^/]*/s$");
	rates[kind] = assert(quantity, "limits: a rate such as 50kb/s is wanted") * 10 ^ exponents[unit];
end

local function count(data, session)
	local budget, time = session.byte_budget, now();
	local left = math.min(budget.most, budget.left + (time - budget.at) * budget.rate) - #data;
	budget.left, budget.at = left, time;
	if left < 0 and session.conn then
		session.conn:pausefor(-left / budget.rate);
	end
	return data;
end

local function limit(session)
	local rate = rates[session.type:match("^[^_]+")];
	if rate then
		session.byte_budget = { rate = rate, most = rate * saved, left = rate * saved, at = now() };
		filters.add_filter(session, "bytes/in", count, 1000); -- before the bytes mean anything
	end
end

function module.load()
	filters.add_filter_hook(limit);
end

function module.unload()
	filters.remove_filter_hook(limit);
end
