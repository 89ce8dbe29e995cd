-- Holds back what strangers send like spammers do: messages and requests with links, or to very many people.
--
-- A stranger is who is neither on the roster of the one written to, nor was written to by that one first. Rooms that
-- somebody has joined are none, nor are this server, its services and its administrators. What is held back is not
-- kept: it comes back with the error policy-violation and a sentence, and its author may ask to become a contact.
-- An encrypted message shows the server no links; that of how many people are addressed holds for it as well.
--
-- Options:
--   strangers_links       boolean, default false: whether messages of strangers may have links
--   strangers_recipients  integer, default 20: people of this server whom one stranger may address within an hour, and
--                         people elsewhere, not yet contacts, whom somebody of this server may
-- Events: pre-message/bare, pre-message/full, pre-presence/bare, pre-presence/full, message/bare, message/full,
--         presence/bare, presence/full; strangers-letter of mod_room_letters.
-- Stores: strangers_written_to, map and keyval: whom an account has written to, and when (seconds since 1970).
-- Source: XEP-0159, XEP-0205 section 3, RFC 6121 section 3.1.

local rostermanager = require "prosody.core.rostermanager";
local cache = require "prosody.util.cache";
local jid = require "prosody.util.jid";
local st = require "prosody.util.stanza";
local now = require "prosody.util.time".now;
local addressees = module:require "addressees";

local links_allowed = module:get_option_boolean("strangers_links", false);

local remembered = 200; -- people for each account
local sentence = {
	link = "Your message was not delivered: who should get it does not know you, so write without a link, "
		.. "or ask to become a contact first.";
	link_in_request = "Your request was not delivered: who should get it does not know you, so make it without a link.";
	many = addressees.sentence;
};

module:default_permission("prosody:admin", ":address-anybody");

-- Links

-- What a link has in it, which is quick to look for, and what it looks like.
local signs = {
	["://"] = "%a[%w+.-]*://";
	["www."] = "%f[%w]www%.%w";
	["xmpp:"] = "%f[%w]xmpp:%S";
	["mailto:"] = "%f[%w]mailto:%S";
};

local function has_link_in(text)
	text = text and text:lower() or "";
	for sign, link in pairs(signs) do
		if text:find(sign, 1, true) and text:find(link) then return true; end
	end
	if text:find("/", 1, true) then
		for word in text:gmatch("%S+") do
			if word:find("%w%.%a%a+/%S") and not word:find("^[^/]*@") then return true; end -- an address is no link
		end
	end
	return false;
end

-- What an invitation to a room, or a word about it, gives as its reason (XEP-0045 section 7.8, XEP-0249).
local function reason_of(message)
	local direct = message:get_child("x", "jabber:x:conference");
	local through_room = message:get_child("x", "http://jabber.org/protocol/muc#user");
	local letter = through_room and (through_room:get_child("invite") or through_room:get_child("decline"));
	return direct and direct.attr.reason or letter and letter:get_child_text("reason");
end

local leads_somewhere = { href = true, uri = true, url = true };

-- Whatever else it is that a client may show: a form, a file, a request to confirm (XEP-0070), what a link is about.
local function has_address_in(element)
	if element.name == "field" and element.attr.var == "FORM_TYPE" then return false; end -- the name of a protocol
	for name, value in pairs(element.attr) do
		if leads_somewhere[name] and value:find("://", 1, true) then return true; end
	end
	for _, child in ipairs(element) do
		if type(child) == "string" then
			if child:find("://", 1, true) then return true; end
		elseif has_address_in(child) then
			return true;
		end
	end
	return false;
end

local function leads_away(message)
	for child in message:childtags("reference", "urn:xmpp:reference:0") do
		if child.attr.type == "data" then return true; end
	end
	local html = message:get_child("html", "http://jabber.org/protocol/xhtml-im");
	return message:get_child("x", "jabber:x:oob") or message:get_child("file-sharing", "urn:xmpp:sfs:0")
		or html and tostring(html):find("%f[%w]href=") or has_address_in(message);
end

local function has_link(sent)
	for _, name in ipairs { "body", "subject", "status" } do
		for child in sent:childtags(name) do -- one for each language
			if has_link_in(child:get_text()) then return true; end
		end
	end
	if has_link_in(sent:get_child_text("nick", "http://jabber.org/protocol/nick")) or has_link_in(reason_of(sent)) then
		return true;
	end
	return sent.name == "message" and leads_away(sent);
end

-- Who knows whom

local written = module:open_store("strangers_written_to");
local written_map = module:open_store("strangers_written_to", "map");
local lists = cache.new(1000); -- username -> { [bare JID] = when }

local function list_of(username)
	local list = lists:get(username);
	if not list then
		list = written:get(username) or {};
		lists:set(username, list);
	end
	return list;
end

-- What clients send by themselves, such as receipts and the keys of OMEMO, is not written by anybody.
local function is_written(message)
	for _, xmlns in ipairs { "eu.siacs.conversations.axolotl", "urn:xmpp:omemo:1", "urn:xmpp:omemo:2" } do
		local encrypted = message:get_child("encrypted", xmlns);
		if encrypted and encrypted:get_child("payload") then return true; end
	end
	return message:get_child("body") or message:get_child("openpgp", "urn:xmpp:openpgp:0");
end

local function forget_oldest(username, list)
	local count, oldest = 0, nil;
	for address, when in pairs(list) do
		count = count + 1;
		if not oldest or when < list[oldest] then oldest = address; end
	end
	if count >= remembered then
		list[oldest] = nil;
		written_map:set(username, oldest, nil);
	end
end

local function remember(username, address)
	local list = list_of(username);
	forget_oldest(username, list);
	list[address] = math.floor(now());
	written_map:set(username, address, list[address]);
end

local function knows(username, address, host)
	local roster = rostermanager.load_roster(username, module.host);
	return roster[address] or list_of(username)[address] or roster[host]; -- the host: a gateway
end

local function has_joined(address, room)
	local session = prosody.full_sessions[address];
	for occupant in pairs(session and session.directed or {}) do
		if jid.bare(occupant) == room then return true; end
	end
	return false;
end

local function is_service(node, host)
	local service = prosody.hosts[host];
	return service and (not node or service.type == "component");
end

-- Asked last: it reads the role of a local account from the storage.
local function is_administrator(address)
	return module:may(":address-anybody", address);
end

-- The handlers

local function hold_back(event, sender, kind, reason)
	if is_administrator(sender) then return; end
	if reason == "many" then addressees.tell_once(sender); end
	event.origin.send(st.error_reply(event.stanza, kind, "policy-violation", sentence[reason]));
	return true;
end

local function is_answer_or_event(stanza)
	return stanza.attr.type == "error" or stanza:get_child("event", "http://jabber.org/protocol/pubsub#event");
end

local function bare_and_parts(address)
	local node, host = jid.split(address);
	return jid.join(node, host), node, host;
end

-- What becomes of what somebody sends whom the recipient does not know.
local function judge_unknown(event, from, to)
	if not links_allowed and has_link(event.stanza) then
		return hold_back(event, from, "modify", event.stanza.name == "message" and "link" or "link_in_request");
	elseif addressees.is_one_too_many(from, to) then
		return hold_back(event, from, "wait", "many");
	end
end

local function judge_incoming(event)
	local stanza = event.stanza;
	local from, from_node, from_host = bare_and_parts(stanza.attr.from);
	local to, username = bare_and_parts(stanza.attr.to);
	if not to or from == to or is_service(from_node, from_host) or knows(username, from, from_host)
		or is_answer_or_event(stanza) or has_joined(stanza.attr.to, from) then
		return;
	end
	return judge_unknown(event, from, to);
end

local function is_contact(username, address)
	local contact = rostermanager.load_roster(username, module.host)[address];
	return contact and contact.subscription ~= "none";
end

-- What becomes of what one of ours sends to somebody elsewhere.
local function judge_departing(event, from, to)
	if addressees.is_one_too_many(from, to) then
		return hold_back(event, from, "wait", "many");
	end
end

local function judge_outgoing(event)
	local stanza, username = event.stanza, event.origin.username;
	local to, _, to_host = bare_and_parts(stanza.attr.to);
	if not username or not to or is_answer_or_event(stanza) or stanza.attr.type == "groupchat" then
		return;
	end
	local from = jid.join(username, module.host);
	if to == from or is_contact(username, to) then
		return;
	elseif not prosody.hosts[to_host] and judge_departing(event, from, to) then
		return true;
	elseif stanza.name == "message" and not list_of(username)[to] and is_written(stanza) then
		remember(username, to);
	end
end

-- Somebody writes through a room of ours, to one of ours or as one of ours.
local function judge_letter(event)
	local from, to = event.from, event.to;
	local from_node, from_host = jid.split(from);
	local to_node, to_host = jid.split(to);
	if to_host == module.host then
		return from ~= to and not knows(to_node, from, from_host) and judge_unknown(event, from, to) or nil;
	end
	return not is_contact(from_node, to) and judge_departing(event, from, to) or nil;
end

local function of_requests(judge)
	return function(event)
		if event.stanza.attr.type == "subscribe" then
			return judge(event);
		end
	end
end

local before_archiving = 90; -- and after the policy for encryption, which has more to say
for _, kind in ipairs { "bare", "full" } do
	module:hook("message/" .. kind, judge_incoming, before_archiving);
	module:hook("presence/" .. kind, of_requests(judge_incoming), before_archiving);
	module:hook("pre-message/" .. kind, judge_outgoing, before_archiving);
	module:hook("pre-presence/" .. kind, of_requests(judge_outgoing), before_archiving);
end
module:hook("strangers-letter", judge_letter);
