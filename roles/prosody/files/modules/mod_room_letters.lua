-- Sees that nobody writes to strangers in the name of a room.
--
-- An invitation through a room, and the word that one is declined, reach people from the room's own address, with
-- whatever else is in the message, and Prosody lets anybody who can write to the room decline towards anybody. Here
-- they are judged like a message of whoever sends them, by mod_strangers of the virtual host whose people take part,
-- and only those who have to do with the room hear of what is declined.
--
-- Options:
--   strangers_recipients  as in mod_strangers
-- Events: muc-pre-invite, muc-pre-decline. Fires strangers-letter at a virtual host, with origin, stanza, from and to,
--         which are bare JIDs, and the name by which the room tells who sends it; true if the letter was held back.
-- Source: XEP-0045 section 7.8.2.

local jid = require "prosody.util.jid";
local st = require "prosody.util.stanza";
local addressees = module:require "addressees";

local after_the_room = -1; -- which asks whether somebody may invite at all

local function virtual_host_of(address)
	local host = prosody.hosts[jid.host(address)];
	return host and host.type == "local" and host;
end

local function name_of(event)
	local full = event.stanza.attr.from;
	return table.concat({ jid.resource(full) or "", jid.resource(event.room:get_occupant_jid(full)) or "" }, " ");
end

local function judge(event, to)
	local from = jid.bare(event.stanza.attr.from);
	local host = virtual_host_of(to) or virtual_host_of(from);
	if host then
		return host.events.fire_event("strangers-letter", {
			origin = event.origin, stanza = event.stanza, from = from, to = to, name = name_of(event);
		});
	elseif not prosody.hosts[jid.host(from)] and addressees.is_one_too_many(from, to) then
		addressees.tell_once(from);
		event.origin.send(st.error_reply(event.stanza, "wait", "policy-violation", addressees.sentence));
		return true;
	end
end

-- Who is meant, as a bare JID: somebody in the room may be named by the name there.
local function person_of(room, address)
	if jid.bare(address) ~= room.jid then return jid.bare(address); end
	local occupant = room:get_occupant_by_nick(address);
	return occupant and occupant.bare_jid;
end

local function has_to_do_with(room, address)
	if (room:get_affiliation(address) or "none") ~= "none" then return true; end
	for _, occupant in room:each_occupant() do
		if occupant.bare_jid == address then return true; end
	end
	return false;
end

local function address_in(event, name)
	return jid.prep(event.stanza:get_child("x", "http://jabber.org/protocol/muc#user"):get_child(name).attr.to);
end

module:hook("muc-pre-invite", function(event)
	return judge(event, jid.bare(address_in(event, "invite")));
end, after_the_room);

module:hook("muc-pre-decline", function(event)
	local person = person_of(event.room, address_in(event, "decline"));
	if not person or not has_to_do_with(event.room, person) then
		event.origin.send(st.error_reply(event.stanza, "cancel", "item-not-found"));
		return true;
	end
	return judge(event, person);
end, after_the_room);
