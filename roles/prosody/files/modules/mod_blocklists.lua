-- Refuses what known abusers send: those whom the operator names, and those on lists that others keep.
--
-- With whom the operator names, nothing is exchanged in either direction. Who is on a list of others is refused by
-- people who do not have them on their rosters, and by rooms of which they are not members. A list is a node of a
-- PubSub service whose items are named by SHA-256 in hexadecimal of bare JIDs or domains, or by them in plain. It is
-- fetched once an hour, its changes come as they happen, and it is kept: its service may be away.
--
-- Options:
--   blocklists_denied  set of domains, with all below them, and bare JIDs with which nothing is exchanged
--   blocklists         list of { service = JID, node = name } to follow, on virtual hosts
--   parent_host        of a component: the virtual host whose lists hold for it as well
-- Events: iq, message and presence /bare, /full and /host, and the same with pre-; message/host (PubSub).
-- Stores: blocklists, keyval and map: the items of each list, under "service node".
-- Source: XEP-0060, XEP-0191, XEP-0268.

local rostermanager = require "prosody.core.rostermanager";
local hashes = require "prosody.util.hashes";
local id = require "prosody.util.id";
local jid = require "prosody.util.jid";
local st = require "prosody.util.stanza";

local denied = module:get_option_set("blocklists_denied", {});
local is_component = module:get_host_type() == "component";
local lists = is_component and {} or module:get_option("blocklists", {});
local home = is_component and module:get_option_string("parent_host") or module.host;
local listed = module:shared("/" .. home .. "/blocklists/listed"); -- "service node" -> { [item] = true }

local pubsub = "http://jabber.org/protocol/pubsub";
local sentence = {
	denied = "This server exchanges nothing with that address.";
	listed = "Not delivered: the address is on a list of abusers that this server follows.";
};

-- Who is meant

local function is_denied(address)
	local bare, host = jid.bare(address), jid.host(address);
	if denied:contains(bare) then return true; end
	while host do
		if denied:contains(host) then return true; end
		host = host:match("^[^.]*%.(.+)$");
	end
	return false;
end

local function is_listed(address)
	if next(listed) == nil then return false; end
	local bare, host = jid.bare(address), jid.host(address);
	local names = { bare, host, hashes.sha256(bare, true), hashes.sha256(host, true) };
	for _, items in pairs(listed) do
		for _, name in ipairs(names) do
			if items[name] then return true; end
		end
	end
	return false;
end

local function is_known(address, recipient)
	local username = jid.node(recipient);
	if not is_component then
		return username and rostermanager.load_roster(username, module.host)[jid.bare(address)];
	end
	local muc = prosody.hosts[module.host].modules.muc;
	local room = username and muc and muc.get_room_from_jid(jid.bare(recipient));
	local affiliation = room and room:get_affiliation(address);
	return affiliation and affiliation ~= "outcast";
end

-- The handlers

local function refuse(event, reason)
	local stanza = event.stanza;
	if stanza.attr.type ~= "error" and stanza.attr.type ~= "result" then
		event.origin.send(st.error_reply(stanza, "cancel", "policy-violation", sentence[reason]));
	end
	return true;
end

local function judge_incoming(event)
	local from, to = event.stanza.attr.from, event.stanza.attr.to;
	if not from or prosody.hosts[jid.host(from)] then
		return;
	elseif is_denied(from) then
		return refuse(event, "denied");
	elseif jid.node(to) and is_listed(from) and not is_known(from, to) then
		return refuse(event, "listed");
	end
end

local function judge_outgoing(event)
	local to = event.stanza.attr.to;
	if to and not prosody.hosts[jid.host(to)] and is_denied(to) then
		return refuse(event, "denied");
	end
end

if #lists > 0 or is_component or not denied:empty() then
	for _, name in ipairs { "iq", "message", "presence" } do
		for _, kind in ipairs { "bare", "full", "host" } do
			module:hook(name .. "/" .. kind, judge_incoming, 1000);
			module:hook("pre-" .. name .. "/" .. kind, judge_outgoing, 1000);
		end
	end
end

-- The lists of others

local store = module:open_store("blocklists");
local store_map = module:open_store("blocklists", "map");
local by_name = {}; -- "service node" -> list

local function put(name, item, value)
	if item and listed[name][item] ~= value then
		listed[name][item] = value;
		store_map:set(name, item, value);
	end
end

local function replace(name, answer)
	local payload = answer.stanza:get_child("pubsub", pubsub);
	local items = payload and payload:get_child("items");
	if not items then
		return module:log("warn", "The list %s answers with something else than a list", name);
	end
	local fresh, count = {}, 0;
	for item in items:childtags("item") do
		if item.attr.id then
			fresh[item.attr.id] = true;
			count = count + 1;
		end
	end
	listed[name] = fresh;
	store:set(name, fresh);
	module:log("info", "The list %s has %d entries", name, count);
end

local function ask(list, kind, action)
	local request = st.iq({ type = kind, from = module.host, to = list.service, id = id.medium() })
		:tag("pubsub", { xmlns = pubsub }):add_child(action);
	return module:send_iq(request);
end

local function refresh(name, list)
	ask(list, "set", st.stanza("subscribe", { node = list.node, jid = module.host })):catch(function(problem)
		module:log("warn", "The list %s cannot be subscribed to: %s", name, problem);
	end);
	ask(list, "get", st.stanza("items", { node = list.node })):next(function(answer)
		replace(name, answer);
	end):catch(function(problem)
		module:log("warn", "The list %s cannot be fetched, and stays as it was: %s", name, problem);
	end);
end

local function take_change(event)
	local change = event.stanza:get_child("event", pubsub .. "#event");
	local items = change and (change:get_child("items") or change:get_child("purge"));
	local name = items and event.stanza.attr.from .. " " .. (items.attr.node or "");
	if not by_name[name] then return; end
	for child in items:childtags() do
		put(name, child.attr.id, child.name == "item" or nil);
	end
	if items.name == "purge" then
		listed[name] = {};
		store:set(name, nil);
	end
	return true;
end

for _, list in ipairs(lists) do
	local name = list.service .. " " .. list.node;
	by_name[name] = list;
	listed[name] = store:get(name) or {};
end

if #lists > 0 then
	module:hook("message/host", take_change, 10);
	module:add_timer(1, function()
		for name, list in pairs(by_name) do
			refresh(name, list);
		end
		return 3600;
	end);
end

function module.unload()
	for name in pairs(by_name) do
		listed[name] = nil;
	end
end
