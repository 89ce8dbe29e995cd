-- Runs Prosody as /usr/bin/prosody does, and keeps account of what it complains about and which options it reads.
-- usage: lua5.4 prosody-trial.lua DIRECTORY
--
-- In DIRECTORY, `started` appears when all hosts and modules are loaded; `complaints`, written at the end, holds a line
-- for every message of level "error" and for every option in the configuration that nothing has read: Prosody itself
-- passes over the misspelt name of an option, or one whose module is not loaded, in silence.

local directory = assert(arg[1], "usage: prosody-trial.lua DIRECTORY");
local source = "/usr/lib/prosody";

-- Not options, but what the configuration parser itself notes of a VirtualHost or Component line.
local notes = { defined = true; load_global_modules = true };

package.path = source .. "/?.lua;" .. package.path;
package.cpath = source .. "/?.so;" .. package.cpath;
require "loader";

-- Read by the module named, or by Prosody itself, only when the occasion arises: no trial provokes it.
local read_on_occasion = {
	component_conflict_resolve = "component", component_secret = "component", validate_from_addresses = "component";
	conflict_resolve = true, force_module_reload = true;
	console_banner = "admin_shell", default_provisioned_role = "admin_shell";
	http_external_url = true, http_host = true, http_interfaces = true, http_ports = true; -- when something is served
	https_ports = true, trusted_proxies = true;
	muc_tombstone_expiry = "muc";
	oauth2_policy_url = "http_oauth2", oauth2_service_documentation = "http_oauth2", oauth2_terms_url = "http_oauth2";
	rest_iq_max_timeout = "rest", rest_iq_timeout = "rest";
};

local complaints = {};

local function complain(line)
	if not complaints[line] then
		complaints[line] = true;
		table.insert(complaints, line);
	end
end

local logger = require "prosody.util.logger";
local function listen()
	logger.add_simple_sink(function (name, _, message)
		complain(name .. ": " .. message:match("^[^\n]*"));
	end, { "error" });
end
local reset = logger.reset;
function logger.reset()
	reset();
	listen();
end
listen();

local config = require "prosody.core.configmanager";
local read = {};
for _, name in ipairs { "get", "rawget" } do
	local original = config[name];
	config[name] = function (host, option)
		read[host] = read[host] or {};
		read[host][option] = true;
		read["*"] = read["*"] or {};
		read["*"][option] = true;
		return original(host, option);
	end
end

local function is_loaded(name)
	local modulemanager = require "prosody.core.modulemanager";
	for host in pairs(config.getconfig()) do
		if modulemanager.is_loaded(host, name) then return true; end
	end
	return false;
end

local function complain_of_unread_options()
	local lines = {};
	for host, options in pairs(config.getconfig()) do
		for option in pairs(options) do
			local reader = read_on_occasion[option];
			local expected = notes[option] or reader == true or reader and is_loaded(reader);
			if not expected and not (read[host] and read[host][option]) then
				local where = host == "*" and "the global section" or host;
				table.insert(lines, ("option %q of %s is read by nothing: it is misspelt, or its module is not loaded")
					:format(option, where));
			end
		end
	end
	table.sort(lines);
	for _, line in ipairs(lines) do
		complain(line);
	end
end

local function write(name, lines)
	local file = assert(io.open(directory .. "/" .. name, "w"));
	for _, line in ipairs(lines) do
		file:write(line, "\n");
	end
	assert(file:close());
end

local startup = require "prosody.util.startup";
local start = startup.prosody;
function startup.prosody()
	start();
	for host, session in pairs(prosody.hosts) do
		if session.modules and session.modules.muc then -- reads the defaults of rooms when it makes one
			session.modules.muc.create_room("trial@" .. host);
		end
	end
	prosody.events.add_handler("server-stopping", function ()
		complain_of_unread_options();
		write("complaints", complaints);
	end);
	write("started", {});
end

arg = { [0] = "/usr/bin/prosody", "-F" };
dofile("/usr/bin/prosody");
