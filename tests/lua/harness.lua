-- Loads a module of ours outside Prosody, with stand-ins for what it asks of Prosody, and runs tests on it.
-- usage: lua5.4 tests/lua/harness.lua TESTS, from the root of the repository
--
-- A file of tests calls test(name, function), and in it load_module(name, options), which returns a handle:
--   fire(event, data)   runs the handlers of an event by priority, as Prosody does; returns their result
--   sent                the stanzas given to module:send, in order
--   timers              the functions given to module:add_timer, in order
--   log                 the lines given to module:log, in order; those of a session are in its `logged`
--   requests            what was given to module:send_iq, in order: { stanza =, answer(stanza), refuse(problem) }
--   items               what was given to module:add_item, in order
--   unload()            what Prosody does when it unloads the module

local modules = "roles/prosody/files/modules/";

clock = 0; -- what monotonic() answers, in seconds
rosters = {}; -- [username] -> roster
accounts = {}; -- [username] -> { enabled = }
stores = {}; -- [store][user] -> record; survives a reload, as Prosody's storage does
shared = {}; -- module:shared()
tasks = {}; -- what util.timer was given, in order: { at =, delay =, run = }
interface = {}; -- the methods of all connections
watched = nil; -- what net.server watches last: { open =, run = }

-- util.stanza, as far as the modules use it
local stanza_mt = {};
function stanza_mt.__index(self, key)
	return stanza_mt[key] or rawget(self, "children")[key];
end

function stanza(name, attr, ...)
	return setmetatable({ name = name, attr = attr or {}, children = { ... }, last = {} }, stanza_mt);
end

local function message_stanza(attr, body)
	return stanza("message", attr, stanza("body", nil, body));
end

local function error_reply(to, kind, condition, text)
	local reply = stanza(to.name, { type = "error", to = to.attr.from, from = to.attr.to });
	reply.kind, reply.condition, reply.text = kind, condition, text;
	return reply;
end

local function current(self)
	return self.last[#self.last] or self;
end

function stanza_mt:tag(name, attr)
	local child = stanza(name, attr);
	table.insert(current(self).children, child);
	table.insert(self.last, child);
	return self;
end

function stanza_mt:add_child(child)
	table.insert(current(self).children, child);
	return self;
end

function stanza_mt:remove_children(name, xmlns)
	for i = #self.children, 1, -1 do
		local child = self.children[i];
		if type(child) == "table" and child.name == name and child.attr.xmlns == xmlns then
			table.remove(self.children, i);
		end
	end
end

function stanza_mt:__tostring()
	local attributes, content = {}, {};
	for key, value in pairs(self.attr) do table.insert(attributes, (" %s='%s'"):format(key, value)); end
	for _, child in ipairs(self.children) do table.insert(content, tostring(child)); end
	return ("<%s%s>%s</%s>"):format(self.name, table.concat(attributes), table.concat(content), self.name);
end

function stanza_mt:up()
	table.remove(self.last);
	return self;
end

function stanza_mt:text_tag(name, text)
	table.insert(current(self).children, stanza(name, nil, text));
	return self;
end

function stanza_mt:childtags(name, xmlns)
	return coroutine.wrap(function()
		for _, child in ipairs(self.children) do
			local its = type(child) == "table" and child.attr.xmlns;
			local is_meant = its == xmlns or not xmlns and its == self.attr.xmlns; -- as an element inherits it
			if type(child) == "table" and (not name or child.name == name) and is_meant then
				coroutine.yield(child);
			end
		end
	end);
end

function stanza_mt:get_child(name, xmlns)
	return self:childtags(name, xmlns)();
end

function stanza_mt:get_text() -- as Prosody does it: nil beside elements
	return #self.children == 1 and type(self.children[1]) == "string" and self.children[1] or nil;
end

function stanza_mt:get_child_text(name, xmlns)
	local child = self:get_child(name, xmlns);
	return child and child:get_text();
end

function stanza_mt:find(path)
	local parent, xmlns, name = path:match("^([^/]+)/{(.-)}(.+)$");
	local child = self:get_child(parent);
	return child and child:get_child(name, xmlns);
end

-- Cryptography is Prosody's affair: the stand-ins are told apart by their input, and that is all.
local function pseudo_hash(key, text)
	local state = 5381;
	local octets = {};
	for i = 1, 32 do
		for octet in (key .. text .. i):gmatch(".") do
			state = (state * 33 + octet:byte()) % 2 ^ 32;
		end
		octets[i] = string.char(math.floor(state) % 256);
	end
	return table.concat(octets);
end

local hex = {
	encode = function(text) return (text:gsub(".", function(c) return ("%02x"):format(c:byte()); end)); end;
	decode = function(text) return (text:gsub("%x%x", function(c) return string.char(tonumber(c, 16)); end)); end;
};

hashed_passwords = 0;
local function hash_password()
	hashed_passwords = hashed_passwords + 1;
end

local ip = {};
function ip.new_ip(address)
	if address:match("^%d+%.%d+%.%d+%.%d+$") then
		return { proto = "IPv4", normal = address };
	elseif address:find(":", 1, true) then
		return { proto = "IPv6", normal = address };
	end
end
function ip.truncate(address, bits) -- of addresses written in full
	return { normal = address.normal:sub(1, bits // 16 * 5) .. ":" };
end

local function new_cache()
	local data = {};
	return { get = function(_, key) return data[key]; end, set = function(_, key, value) data[key] = value; end };
end

local jid = {};
function jid.split(address)
	local node, host, resource = (address or ""):match("^([^@/]*@?)([^/]*)/?(.*)$");
	node = node:match("^(.*)@$");
	if not node then host = (address or ""):match("^[^/]*"); end
	return node, host, resource ~= "" and resource or nil;
end
function jid.bare(address) return address and address:match("^[^/]*"); end
function jid.resource(address) return (select(3, jid.split(address))); end
function jid.node(address) return (jid.split(address)); end
function jid.host(address) return (select(2, jid.split(address))); end
function jid.prep(address) return address and address:lower(); end
function jid.join(node, host) return node and node .. "@" .. host or host; end
jid.prepped_split = jid.split;

local function new_set(list)
	local items = {};
	for _, item in ipairs(list or {}) do items[item] = true; end
	return {
		contains = function(_, item) return items[item] ~= nil; end;
		add = function(_, item) items[item] = true; end;
		remove = function(_, item) items[item] = nil; end;
		empty = function() return next(items) == nil; end;
	};
end

local function lower(text) return text:lower(); end
local function same(text) return text; end

local libraries = {
	cache = { new = new_cache };
	encodings = {
		base64 = { decode = same, encode = same };
		stringprep = { nodeprep = lower, resourceprep = same, saslprep = same };
	};
	hashes = { hmac_sha256 = pseudo_hash, sha256 = function(text) return "sha256 of " .. text; end };
	hex = hex;
	id = { medium = function() return "id"; end };
	ip = ip;
	jid = jid;
	random = { bytes = function(count) return ("r"):rep(count); end };
	["sasl.scram"] = { hashers = { ["SHA-1"] = hash_password, ["SHA-256"] = hash_password } };
	set = { new = new_set };
	stanza = {
		stanza = stanza, message = message_stanza, error_reply = error_reply;
		iq = function(attr) return stanza("iq", attr); end;
	};
	timer = {
		add_task = function(delay, run)
			table.insert(tasks, { at = clock + delay, delay = delay, run = run });
			return tasks[#tasks];
		end;
		stop = function(task) task.run = function() end; end;
	};
	indexedbheap = {
		create = function()
			local entries = {};
			local heap = {};
			function heap:insert(item, priority) -- luacheck: ignore 212/self
				local at = 1;
				while entries[at] and entries[at].priority <= priority do at = at + 1; end
				table.insert(entries, at, { item = item, priority = priority });
			end
			function heap:pop() -- luacheck: ignore 212/self
				local entry = table.remove(entries, 1);
				if entry then return entry.priority, entry.item; end
			end
			return heap;
		end;
	};
	time = { monotonic = function() return clock; end, now = function() return clock; end };
	uuid = { generate = function() return "00000000-0000-4000-8000-000000000000"; end };
};
for name, library in pairs(libraries) do
	package.loaded["prosody.util." .. name] = library;
end

package.loaded["prosody.core.rostermanager"] = {
	load_roster = function(username)
		rosters[username] = rosters[username] or { [false] = { pending = {} } };
		return rosters[username];
	end;
};

package.loaded["prosody.core.usermanager"] = {
	user_exists = function(username) return accounts[username] ~= nil; end;
	user_is_enabled = function(username) return accounts[username].enabled; end;
	enable_user = function(username) accounts[username].enabled = true; return true; end;
	disable_user = function(username) accounts[username].enabled = false; return true; end;
	users = function() return pairs(accounts); end;
};

-- An archive is a list of { key, stanza, with }.
local function new_archive(list)
	local archive = {};
	function archive:find(_, query) -- luacheck: ignore 212/self
		if query and query.limit == 0 then return nil, #list; end
		local i = 0;
		return function()
			repeat i = i + 1; until not list[i] or not (query and query.with) or list[i].with == query.with
			if list[i] then return list[i].key, list[i].stanza; end
		end
	end
	function archive:delete(_, query) -- luacheck: ignore 212/self
		for i = #list, 1, -1 do
			for _, key in ipairs(query.ids) do
				if list[i] and list[i].key == key then table.remove(list, i); end
			end
		end
		return true;
	end
	return archive;
end

package.loaded["prosody.core.storagemanager"] = {
	open = function(_, name)
		stores[name] = stores[name] or {};
		return new_archive(stores[name]);
	end;
	olddm = { getpath = function(slot) return "/nowhere/" .. slot; end };
};

-- net.server_epoll, as far as a connection has its methods from there
package.loaded["prosody.net.server"] = {
	get_backend = function() return "epoll"; end;
	wrapserver = function() return setmetatable({}, { __index = interface }); end;
	watchfd = function(_, _, on_writable)
		watched = { open = true, run = on_writable };
		function watched.set(self, _, writes) self.open = writes; end
		function watched.close(self) self.open = false; end
		return watched;
	end;
};
package.loaded.socket = { udp4 = function() end };

local function new_handle(options)
	local handlers = {};
	local handle = { timers = {}, sent = {}, requests = {}, items = {}, log = {} };
	local module = { host = "xmpp.example" };
	handle.module = module;

	local function option(_, name, default)
		if options[name] == nil then return default; end
		return options[name];
	end
	module.get_option = option;
	module.get_option_integer = option;
	module.get_option_number = option;
	module.get_option_boolean = option;
	module.get_option_string = option;
	module.get_option_enum = option;
	function module.get_option_period(_, name, default)
		local value = option(nil, name, default);
		local count, unit = tostring(value):match("^(%d+) (%a-)s?$");
		return count and count * ({ second = 1, minute = 60 })[unit] or value;
	end
	function module.get_option_set(_, name, default)
		return new_set(option(nil, name, default));
	end
	function module.get_host_type() return options.host_type or "local"; end
	function module.default_permission() end
	function module.may(_, _, address) return (options.administrators or {})[address] or false; end
	function module.log(_, level, format, ...) table.insert(handle.log, level .. ": " .. format:format(...)); end
	function module.depends(_, name) return options[name]; end
	function module.add_item(_, _, item) table.insert(handle.items, item); end
	function module.send_iq(_, request)
		local promise = {};
		function promise:next(callback) self.answer = callback; return self; end
		function promise:catch(callback) self.refuse = callback; return self; end
		promise.stanza = request;
		table.insert(handle.requests, promise);
		return promise;
	end
	function module.send(_, sent) table.insert(handle.sent, sent); end
	function module:set_global() self.host = "*"; end
	function module.shared(_, path)
		shared[path] = shared[path] or {};
		return shared[path];
	end
	function module.hook(_, event, handler, priority)
		handlers[event] = handlers[event] or {};
		table.insert(handlers[event], { handler = handler, priority = priority or 0 });
	end
	function module.add_timer(_, _, callback)
		table.insert(handle.timers, callback);
	end
	function module.open_store(_, name, kind)
		stores[name] = stores[name] or {};
		if kind == "archive" then
			return new_archive(stores[name]);
		elseif kind == "map" then
			return {
				set = function(_, user, key, value)
					stores[name][user] = stores[name][user] or {};
					stores[name][user][key] = value;
					return true;
				end;
			};
		end
		return {
			get = function(_, user) return stores[name][user or "*"]; end;
			set = function(_, user, record) stores[name][user or "*"] = record; return true; end;
		};
	end
	function module.require(_, name)
		return assert(loadfile(modules .. name .. ".lib.lua", "t", setmetatable({ module = module }, { __index = _G })))();
	end

	function handle.fire(event, data)
		local list = handlers[event] or {};
		table.sort(list, function(a, b) return a.priority > b.priority; end);
		for _, entry in ipairs(list) do
			local result = entry.handler(data);
			if result ~= nil then return result; end
		end
	end
	function handle.unload()
		if module.unload then module.unload(); end
	end
	return handle;
end

function load_module(name, options)
	local handle = new_handle(options or {});
	local environment = setmetatable({ module = handle.module }, { __index = _G });
	handle.module.environment = environment;
	assert(loadfile(modules .. "mod_" .. name .. ".lua", "t", environment))();
	if handle.module.add_host then
		local host = new_handle(options or {});
		handle.module.add_host(host.module);
		handle.host = host;
	end
	return handle;
end

function new_session(fields)
	local session = { type = "c2s_unauthed", secure = true, ip = "192.0.2.1", sent = {}, logged = {} };
	function session.send(sent) table.insert(session.sent, sent); end
	function session.log(level, format, ...) table.insert(session.logged, level .. ": " .. format:format(...)); end
	function session:close(reason) self.closed = reason; end
	for key, value in pairs(fields or {}) do
		session[key] = value;
	end
	return session;
end

function expect(got, wanted)
	if got ~= wanted then
		error(("wanted %s, got %s"):format(wanted, got), 2);
	end
end

local failed = false;
function test(name, run)
	clock, stores, shared, hashed_passwords = 0, {}, {}, 0;
	rosters, accounts = {}, {};
	tasks, interface = {}, {};
	prosody = { full_sessions = {}, hosts = { ["xmpp.example"] = { sessions = {}, users = {} } } };
	local ok, problem = xpcall(run, debug.traceback);
	failed = failed or not ok;
	print(ok and "ok " .. name or ("not ok %s: %s"):format(name, problem:gsub("\n", "\n  ")));
end

dofile(arg[1]);
os.exit(not failed);
