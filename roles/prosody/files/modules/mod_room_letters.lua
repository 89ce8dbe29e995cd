-- Sees that nobody writes to strangers in the name of a room.
--
-- An invitation through a room, and the word that one is declined, reach people from the room's own address, with
-- whatever else is in the message, and Prosody lets anybody who can write to the room decline towards anybody. Here
-- they are judged like a message of whoever sends them, by mod_strangers of the virtual host whose people take part,
-- and only those who have to do with the room hear of what is declined.
--
-- Options:
--   strangers_recipients  as in mod_strangers
-- Events: muc-pre-invite, muc-pre-decline. Fires strangers-letter at a virtual host, with origin, stanza, and from and
--         to, which are bare JIDs; true if the letter was held back.
-- Source: XEP-0045 section 7.8.2.

local jid = require "prosody.util.jid";
local st = require "prosody.util.stanza";
local addressees = module:require "addressees";

local after_the_room = -1; -- which asks whether somebody may invite at all

local function virtual_host_of(address)
	local host = prosody.hosts[jid.host(address)];
	return host and host.type == "local" and host;
end

local function judge(event, from, to)
	local host = virtual_host_of(to) or virtual_host_of(from);
	if host then
		return host.events.fire_event("strangers-letter", {
			origin = event.origin, stanza = event.stanza, from = from, to = to;
		});
	elseif addressees.is_one_too_many(from, to) then
		addressees.tell_once(from);
		event.origin.send(st.error_reply(event.stanza, "wait", "policy-violation", addressees.sentence));
		return true;
	end
end

local function has_to_do_with(room, address)
	if address == room.jid or (room:get_affiliation(address) or "none") ~= "none" then return true; end
	for _, occupant in room:each_occupant() do
		if occupant.bare_jid == address then return true; end
	end
	return false;
end

local function letter_of(event, name)
	local letter = event.stanza:get_child("x", "http://jabber.org/protocol/muc#user"):get_child(name);
	return jid.bare(event.stanza.attr.from), jid.bare(jid.prep(letter.attr.to));
end

module:hook("muc-pre-invite", function(event)
	return judge(event, letter_of(event, "invite"));
end, after_the_room);

module:hook("muc-pre-decline", function(event)
	local from, to = letter_of(event, "decline");
	if not has_to_do_with(event.room, to) then
		event.origin.send(st.error_reply(event.stanza, "cancel", "item-not-found"));
		return true;
	elseif to ~= event.room.jid then
		return judge(event, from, to);
	end
end, after_the_room);
