-- Limits how much one person may do in a room, whatever the room thinks of them.
--
-- mod_muc_limits bounds what strangers do, all together, and spares members; in a room for members alone it bounds
-- nothing. Here messages, private ones among them, entering, and changes of name and status count for each person and
-- room. What is over the rate comes back with the error policy-violation.
--
-- Options:
--   room_rate  number, default 2: events a second on average; half a minute's worth may come at once
-- Events: muc-occupant-groupchat, muc-occupant-pre-join, muc-occupant-pre-change, muc-private-message.
-- Source: XEP-0045, XEP-0205 section 3.

local cache = require "prosody.util.cache";
local jid = require "prosody.util.jid";
local st = require "prosody.util.stanza";
local now = require "prosody.util.time".monotonic;

local rate = module:get_option_number("room_rate", 2, 0.1);
local most = rate * 30;

local budgets = cache.new(10000); -- "room person" -> { left, at }

local function is_over(room, person)
	local key, time = room .. " " .. person, now();
	local budget = budgets:get(key) or { left = most, at = time };
	budget.left = math.min(most, budget.left + (time - budget.at) * rate);
	budget.at = time;
	budgets:set(key, budget);
	if budget.left < 1 then return true; end
	budget.left = budget.left - 1;
	return false;
end

local function refuse(event, person, address)
	local stanza = event.stanza;
	if stanza.attr.type == "error" or not is_over(event.room.jid, person) then return; end
	local reply = st.error_reply(stanza, "wait", "policy-violation", "You are too fast for this room, wait a little.");
	reply.attr.to = address;
	if stanza.name == "presence" then
		reply:up():tag("x", { xmlns = "http://jabber.org/protocol/muc" });
	end
	event.origin.send(reply);
	return true;
end

local function count(event)
	local from = event.stanza.attr.from;
	return refuse(event, jid.bare(from), from);
end

local function count_private(event) -- its sender is already the one that the room shows
	local occupant = event.room:get_occupant_by_nick(event.stanza.attr.from);
	if occupant and refuse(event, occupant.bare_jid, occupant.jid) then
		return false;
	end
end

module:hook("muc-occupant-groupchat", count, 100);
module:hook("muc-occupant-pre-join", count, 100);
module:hook("muc-occupant-pre-change", count, 100);
module:hook("muc-private-message", count_private, 100);
