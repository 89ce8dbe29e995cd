-- How many people, who do not know the sender, somebody has addressed within an hour, whichever way.
-- What mod_strangers and mod_room_letters share.

local cache = require "prosody.util.cache";
local now = require "prosody.util.time".now;

local most = module:get_option_integer("strangers_recipients", 20, 1);

local hour = 3600;
local shared = module:shared("/*/strangers/addressed");
shared.senders = shared.senders or cache.new(10000); -- bare JID -> { since, count, people }

local lib = {
	sentence = "Not delivered: you have addressed too many people who do not know you. Try again in an hour.";
};

-- Counts a recipient; true if it is one too many.
function lib.is_one_too_many(sender, recipient)
	local record = shared.senders:get(sender);
	if not record or now() - record.since >= hour then
		record = { since = now(), count = 0, people = {} };
		shared.senders:set(sender, record);
	end
	if record.people[recipient] then
		return false;
	elseif record.count < most then
		record.people[recipient] = true;
		record.count = record.count + 1;
		return false;
	end
	return true;
end

-- Tells the operator of a sender for whom it was one too many, once an hour.
function lib.tell_once(sender)
	local record = shared.senders:get(sender);
	if not record.told then
		record.told = true;
		module:log("warn", "%s has addressed %d people who do not know it within an hour, and goes on", sender, most);
	end
end

return lib;
