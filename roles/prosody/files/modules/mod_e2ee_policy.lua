-- Advises or requires that what people write is encrypted end to end.
--
-- What a client shows as words, or as a file, must come in a payload of OMEMO, OX or OpenPGP. Whatever has no words
-- passes: receipts, chat states, markers, reactions, retractions, calls, upload slots, subjects and invitations of
-- rooms, notifications. So does what the server itself says and is told.
--
-- On a virtual host it holds for what its people send, to whomever, and for what reaches them; on a room service, for
-- what is said in its rooms. What a room elsewhere relays to somebody who has joined it passes: an error would throw
-- them out of the room. A server cannot look into a payload, so two who agree on it can always get around the policy.
--
-- Options:
--   e2ee_policy             "off" (default); "advise": it passes, and its author is told once a day;
--                           "require": it comes back with the error policy-violation
--   e2ee_policy_exceptions  set of domains and bare JIDs to and from which everything passes
-- Events: pre-message/bare, pre-message/full, pre-message/host, message/bare, message/full.
-- Source: XEP-0384 (0.3.0 to 0.9.0), XEP-0373, XEP-0374, XEP-0027, XEP-0428.

local cache = require "prosody.util.cache";
local jid = require "prosody.util.jid";
local st = require "prosody.util.stanza";
local now = require "prosody.util.time".monotonic;

local policy = module:get_option_enum("e2ee_policy", "off", "advise", "require");
local exceptions = module:get_option_set("e2ee_policy_exceptions", {});

local sentence = {
	advise = "Your message was delivered, but it can be read on the way: switch on OMEMO encryption for this chat.";
	require = "Your message was not delivered: switch on OMEMO encryption for this chat, then send it again.";
};
local advised = cache.new(10000); -- bare JID -> when

local payloads = {
	["eu.siacs.conversations.axolotl"] = { "encrypted", "payload" };
	["urn:xmpp:omemo:1"] = { "encrypted", "payload" };
	["urn:xmpp:omemo:2"] = { "encrypted", "payload" };
	["urn:xmpp:openpgp:0"] = { "openpgp" };
	["jabber:x:encrypted"] = { "x" };
};

-- What is shown as words or as a file, where it is not <body/>.
local words = {
	{ "html", "http://jabber.org/protocol/xhtml-im" };
	{ "rtt", "urn:xmpp:rtt:0" };
	{ "x", "jabber:x:oob" };
	{ "file-sharing", "urn:xmpp:sfs:0" };
	{ "reference", "urn:xmpp:reference:0" };
};

-- What clients that do not know them show a body for, by a fallback (XEP-0428); no client can encrypt them all.
local announcements = {
	["urn:xmpp:message-retract:0"] = true;
	["urn:xmpp:message-retract:1"] = true;
	["urn:xmpp:reactions:0"] = true;
	["urn:xmpp:jingle-message:0"] = true;
	["urn:xmpp:call-invites:0"] = true;
};

local function is_encrypted(message)
	for xmlns, path in pairs(payloads) do
		local element = message:get_child(path[1], xmlns);
		if element and path[2] then
			element = element:get_child(path[2]);
		end
		local text = element and element:get_text();
		if text and text:find("%S") then return true; end
	end
	return false;
end

local function is_invitation(message)
	local room = message:get_child("x", "http://jabber.org/protocol/muc#user");
	return room and room:get_child("invite") or message:get_child("x", "jabber:x:conference");
end

local function is_fallback(message)
	for fallback in message:childtags("fallback", "urn:xmpp:fallback:0") do
		local xmlns = fallback.attr["for"];
		if announcements[xmlns] and message:get_child(nil, xmlns) then return true; end
	end
	return false;
end

local function is_plain(message)
	if message.attr.type == "error" or is_encrypted(message) then
		return false;
	end
	if message:get_child("body") and not is_invitation(message) and not is_fallback(message) then
		return true;
	end
	if message:get_child("subject") and message.attr.type ~= "groupchat" then
		return true;
	end
	for _, element in ipairs(words) do
		if message:get_child(element[1], element[2]) then return true; end
	end
	local forwarded = message:get_child("forwarded", "urn:xmpp:forward:0");
	local inner = forwarded and forwarded:get_child("message");
	return inner ~= nil and is_plain(inner);
end

local function is_excepted(address)
	local _, host = jid.split(address);
	return address == nil or exceptions:contains(jid.bare(address)) or exceptions:contains(host)
		or not jid.node(address) and prosody.hosts[host] ~= nil;
end

local function advise(author)
	local bare = jid.bare(author);
	local last = advised:get(bare);
	if jid.node(author) and not (last and now() - last < 86400) then
		advised:set(bare, now());
		module:send(st.message({ type = "chat", from = module.host, to = author }, sentence.advise));
	end
end

local function judge(event)
	local origin, message = event.origin, event.stanza;
	if not is_plain(message) or is_excepted(message.attr.from) or message.attr.to and is_excepted(message.attr.to) then
		return;
	end
	if policy == "advise" then
		advise(message.attr.from);
		return;
	end
	origin.send(st.error_reply(message, "modify", "policy-violation", sentence.require));
	return true;
end

local function has_joined(address, room)
	local session = prosody.full_sessions[address];
	for occupant in pairs(session and session.directed or {}) do
		if jid.bare(occupant) == jid.bare(room) then return true; end
	end
	return false;
end

local function judge_incoming(event)
	local attr = event.stanza.attr;
	if attr.type == "groupchat" and has_joined(attr.to, attr.from) then return; end
	return judge(event);
end

if policy ~= "off" then
	local before_archiving = 100;
	if module:get_host_type() == "component" then
		module:hook("message/bare", judge, before_archiving);
		module:hook("message/full", judge, before_archiving);
	else
		module:hook("pre-message/bare", judge, before_archiving);
		module:hook("pre-message/full", judge, before_archiving);
		module:hook("pre-message/host", judge, before_archiving);
		module:hook("message/bare", judge_incoming, before_archiving);
		module:hook("message/full", judge_incoming, before_archiving);
	end
end
