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

local complaints = {};

local logger = require "prosody.util.logger";
local function listen()
	logger.add_simple_sink(function (name, _, message)
		table.insert(complaints, name .. ": " .. message);
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

local function unread()
	local lines = {};
	for host, options in pairs(config.getconfig()) do
		for option in pairs(options) do
			if not (read[host] and read[host][option]) and not notes[option] then
				local where = host == "*" and "the global section" or host;
				table.insert(lines, ("option %q of %s is read by nothing: it is misspelt, or its module is not loaded")
					:format(option, where));
			end
		end
	end
	table.sort(lines);
	return lines;
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
		table.move(unread(), 1, #unread(), #complaints + 1, complaints);
		write("complaints", complaints);
	end);
	write("started", {});
end

arg = { [0] = "/usr/bin/prosody", "-F" };
dofile("/usr/bin/prosody");
