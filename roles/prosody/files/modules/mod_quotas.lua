-- Limits how much of a kind one account may keep on the server.
--
-- Prosody bounds none of it: contacts, requests to become one that wait for an answer, nodes of personal eventing
-- (PEP), invitations that nobody has taken up. What would be over the limit comes back with an error; what is there
-- already stays. Of messages for somebody who is away the archive has each, so those over the limit are not kept a
-- second time for the next login, which hands out all at once. Reports of spam, of which each becomes a message to the
-- administrators, are bounded by the hour: over that, the reported one is blocked, and nobody is told. So are
-- other servers that an account makes this one connect to: of each Prosody keeps a session until it answers, or has not
-- for a while. Answers do not count, or strangers would use up what somebody may.
--
-- Options:
--   quotas_contacts          integer, default 1000: entries of a roster
--   quotas_contact_requests  integer, default 100: requests of others that wait for an answer
--   quotas_pep_nodes         integer, default 200
--   quotas_invitations       integer, default 20: invitations that are good and not taken up
--   quotas_offline_messages  integer, default 100: messages that wait for the next login
--   quotas_spam_reports      integer, default 20: reports an hour
--   quotas_server_calls      integer, default 300: other servers an hour to which there was no connection
-- Events: iq/self/jabber:iq:roster:query, iq-set/self/urn:xmpp:blocking:block,
--         iq/bare/http://jabber.org/protocol/pubsub:pubsub,
--         iq-set/host/http://jabber.org/protocol/commands:command, message/offline/handle, pre-presence/bare,
--         pre-presence/full, presence/bare, presence/full, route/remote.
-- Source: RFC 6121 section 2.3.3, XEP-0160, XEP-0163, XEP-0377, XEP-0401, CWE-406, CWE-770.

local rostermanager = require "prosody.core.rostermanager";
local cache = require "prosody.util.cache";
local jid = require "prosody.util.jid";
local st = require "prosody.util.stanza";
local now = require "prosody.util.time".now;

local contacts = module:get_option_integer("quotas_contacts", 1000, 1);
local contact_requests = module:get_option_integer("quotas_contact_requests", 100, 1);
local pep_nodes = module:get_option_integer("quotas_pep_nodes", 200, 10);
local invitations = module:get_option_integer("quotas_invitations", 20, 1);
local offline_messages = module:get_option_integer("quotas_offline_messages", 100, 1);
local spam_reports = module:get_option_integer("quotas_spam_reports", 20, 1);
local server_calls = module:get_option_integer("quotas_server_calls", 300, 1);

local before_others = 600; -- mod_adhoc is at 500

local function count(list)
	local number = 0;
	for key in pairs(list) do
		if key then number = number + 1; end -- a roster's key `false` is no contact
	end
	return number;
end

local function refuse(event, text)
	event.origin.send(st.error_reply(event.stanza, "cancel", "resource-constraint", text));
	return true;
end

-- A function that counts what an account does, a thing that has a name once, and says whether that is within the
-- number for an hour.
local function new_allowance(most)
	local records = cache.new(10000); -- username -> { since, number, known }
	return function(username, name)
		local record = records:get(username);
		if not record or now() - record.since >= 3600 then
			record = { since = now(), number = 0, known = {} };
			records:set(username, record);
		end
		if name and record.known[name] then
			return true;
		elseif record.number >= most then
			return false;
		end
		record.number = record.number + 1;
		if name then record.known[name] = true; end
		return true;
	end
end

-- Contacts

local function roster_of(username)
	return rostermanager.load_roster(username, module.host);
end

local function is_full(username, address)
	local roster = roster_of(username);
	return not roster[address] and count(roster) >= contacts;
end

local too_many_contacts = "You have as many contacts as an account may have: remove one first.";

module:hook("iq/self/jabber:iq:roster:query", function(event)
	local item = event.stanza.attr.type == "set" and event.stanza.tags[1]:get_child("item");
	local address = item and item.attr.subscription ~= "remove" and jid.prep(item.attr.jid);
	if address and is_full(event.origin.username, address) then
		return refuse(event, too_many_contacts);
	end
end, before_others);

local adds_a_contact = { subscribe = true, subscribed = true };

local function judge_outgoing(event)
	local attr, username = event.stanza.attr, event.origin.username;
	if username and attr.to and adds_a_contact[attr.type] and is_full(username, jid.bare(attr.to)) then
		return refuse(event, too_many_contacts);
	end
end

local function judge_incoming(event)
	local attr = event.stanza.attr;
	if attr.type ~= "subscribe" or not attr.to then return; end
	local pending = roster_of(jid.node(attr.to))[false].pending;
	if not pending[jid.bare(attr.from)] and count(pending) >= contact_requests then
		return refuse(event, "Too many requests wait for an answer there.");
	end
end

for _, kind in ipairs { "bare", "full" } do
	module:hook("pre-presence/" .. kind, judge_outgoing, before_others);
	module:hook("presence/" .. kind, judge_incoming, before_others);
end

-- PEP

local pep = module:depends("pep");

module:hook("iq/bare/http://jabber.org/protocol/pubsub:pubsub", function(event)
	local username, to = event.origin.username, event.stanza.attr.to;
	local action = event.stanza.tags[1].tags[1];
	if event.stanza.attr.type ~= "set" or not username or to and to ~= jid.bare(event.stanza.attr.from) or not action
		or action.name ~= "publish" and action.name ~= "create" then
		return;
	end
	local nodes = pep.get_pep_service(username).nodes;
	if not nodes[action.attr.node or ""] and count(nodes) >= pep_nodes then
		return refuse(event, "The account has as many nodes as it may have: delete one first.");
	end
end, before_others);

-- Invitations

local tokens = module:open_store("invite_token");
local tokens_map = module:open_store("invite_token", "map");

local function pending_invitations(username)
	local number = 0;
	for token, expires in pairs(tokens:get(username) or {}) do
		if expires > now() then
			number = number + 1;
		else
			tokens_map:set(username, token, nil); -- Prosody keeps them for ever
		end
	end
	return number;
end

module:hook("iq-set/host/http://jabber.org/protocol/commands:command", function(event)
	local username, attr = event.origin.username, event.stanza.tags[1].attr;
	if username and attr.node == "urn:xmpp:invite#invite" and pending_invitations(username) >= invitations then
		return refuse(event, "You have as many open invitations as you may have: wait until they are taken up.");
	end
end, before_others);

-- Messages for the next login

local offline = module:open_store("offline", "archive");
local after_push = 0; -- mod_cloud_notify is at 1, mod_offline at -1

module:hook("message/offline/handle", function(event)
	local _, waiting = offline:find(jid.node(event.stanza.attr.to), { limit = 0, total = true });
	if (waiting or 0) >= offline_messages then return true; end
end, after_push);

-- Reports

local may_report = new_allowance(spam_reports);

module:hook("iq-set/self/urn:xmpp:blocking:block", function(event)
	for item in event.stanza.tags[1]:childtags("item") do
		for _, xmlns in ipairs { "urn:xmpp:reporting:0", "urn:xmpp:reporting:1" } do
			if item:get_child("report", xmlns) and not may_report(event.origin.username) then
				item:remove_children("report", xmlns);
			end
		end
	end
end, before_others);

-- Calls of other servers

local may_call = new_allowance(server_calls);
local between_open_and_new = -5; -- mod_s2s sends over an open connection at -1, and opens one at -10

module:hook("route/remote", function(event)
	local origin, stanza = event.origin, event.stanza;
	local is_own = origin and origin.type == "c2s" and stanza.attr.type ~= "error" and stanza.attr.type ~= "result";
	if not is_own or may_call(origin.username, event.to_host) then return; end
	origin.send(st.error_reply(stanza, "wait", "resource-constraint",
		"You have reached out to too many servers. Try again in an hour."));
	return true;
end, between_open_and_new);
