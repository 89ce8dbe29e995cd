-- Holds back what strangers send like spammers do: messages and requests with links, or to very many people.
--
-- A stranger is who is neither on the roster of the one written to, nor was written to by that one first. Rooms that
-- somebody has joined are none, nor are this server, its services and its administrators. What is held back is not
-- kept: it comes back with the error policy-violation and a sentence, and its author may ask to become a contact.
-- An encrypted message shows the server no links; how many people are addressed is bounded for it as well.
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

-- What a link has in it, which is quick to look for, and what it looks like. Strangers choose the text: in a pattern,
-- what may repeat must not begin at any place, nor be followed by what it may contain, or the time goes by the square.
local signs = {
	["://"] = "%w://";
	["www."] = "%f[%w]www%.%w";
	["xmpp:"] = "%f[%w]xmpp:%S";
	["mailto:"] = "%f[%w]mailto:%S";
};
local letter = "[%a\128-\255]"; -- of any language, in UTF-8
local paths = {}; -- the last label of a name, and what follows it
for _, rest in ipairs { "/%S", "[?#]%w", ":%d+/%S", ":%d+[?#]%w" } do
	table.insert(paths, "[%w\128-\255]%.([%w\128-\255-]+)" .. rest);
end
local paths_of_numbers = { "%f[%d]%d+%.%d+%.%d+%.%d+/%S", "%f[%d]%d+%.%d+%.%d+%.%d+:%d+/%S" }; -- of IP addresses
local address_of_a_session = "^[%w._%%+-]+@[%w.-]+/[^/]*$"; -- is none

local function has_path(word)
	if word:find(address_of_a_session) then return false; end
	for _, path in ipairs(paths) do
		for label in word:gmatch(path) do
			if label:find(letter) then return true; end
		end
	end
	for _, path in ipairs(paths_of_numbers) do
		if word:find(path) then return true; end
	end
	return false;
end

-- What many clients write where one without OMEMO would show an empty message.
local fallback = "https://conversations%.im/omemo";

local function has_link_in(text)
	text = (text or ""):lower():gsub(fallback, " ", 1);
	for sign, link in pairs(signs) do
		if text:find(sign, 1, true) and text:find(link) then return true; end
	end
	if text:find("[/?#]") then
		for word in text:gmatch("%S+") do
			if has_path(word) then return true; end
		end
	end
	return false;
end

local leads_away = { href = true };
local may_lead_away = { src = true, style = true, uri = true, url = true }; -- or name somebody, as in XEP-0372
local is_shown = { desc = true, label = true, name = true, reason = true, title = true };

local function has_link_beside_text(element)
	for name, value in pairs(element.attr) do
		if leads_away[name] or may_lead_away[name] and value:find("://", 1, true)
			or is_shown[name] and has_link_in(value) then
			return true;
		end
	end
	return false;
end

-- Gathers the text of an element, with that of those within where clients take it together.
local function gather_text(element, is_whole, text)
	for _, child in ipairs(element) do
		if type(child) == "string" then
			table.insert(text, child);
		elseif is_whole then
			gather_text(child, true, text);
		end
	end
	return text;
end

local function is_name_of_form(field, form)
	return form.attr.xmlns == "jabber:x:data" and field.attr.var == "FORM_TYPE" and field.attr.type == "hidden";
end

local is_text = { body = true, status = true, subject = true };

-- Whether there is a link in anything that a client may show: they differ in what they do. What is within a text was
-- looked at as a part of it.
local function has_link(element, is_within)
	local is_whole = not is_within and is_text[element.name];
	local text = table.concat(gather_text(element, is_whole, {}));
	if has_link_beside_text(element) or has_link_in(text) then return true; end
	for _, child in ipairs(element) do
		if type(child) ~= "string" and not is_name_of_form(child, element) and has_link(child, is_within or is_whole) then
			return true;
		end
	end
	return false;
end

local function has_link_or_file(sent)
	for child in sent:childtags("reference", "urn:xmpp:reference:0") do
		if child.attr.type == "data" then return true; end
	end
	return sent:get_child("x", "jabber:x:oob") or sent:get_child("file-sharing", "urn:xmpp:sfs:0") or has_link(sent);
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

local beside_events = {
	["http://jabber.org/protocol/address"] = true;
	["http://jabber.org/protocol/pubsub#event"] = true;
	["http://jabber.org/protocol/shim"] = true;
	["urn:xmpp:delay"] = true;
	["urn:xmpp:hints"] = true;
	["urn:xmpp:sid:0"] = true;
};

-- What no person has written: an error, or an event of PubSub and nothing that a client would show.
local function is_answer_or_event(stanza)
	if stanza.attr.type == "error" and stanza:get_child("error") then return true; end
	if not stanza:get_child("event", "http://jabber.org/protocol/pubsub#event") then return false; end
	for _, child in ipairs(stanza) do
		if type(child) == "string" or not beside_events[child.attr.xmlns] then return false; end
	end
	return true;
end

local function bare_and_parts(address)
	local node, host = jid.split(address);
	return jid.join(node, host), node, host;
end

-- What becomes of what somebody sends whom the recipient does not know.
local function judge_unknown(event, from, to)
	if not links_allowed and (has_link_or_file(event.stanza) or has_link_in(event.name)) then
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
	if not to_node or is_service(from_node, from_host) then
		return;
	elseif to_host == module.host then
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
