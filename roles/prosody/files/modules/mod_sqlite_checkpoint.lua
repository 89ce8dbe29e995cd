-- Leaves it to another process to bring SQLite's write-ahead log into the database.
--
-- SQLite does that in the commit that makes the log 1000 pages long. An archived message takes about 50, so in a flood
-- everybody waits for two fdatasync every twenty messages, 5 to 20 ms. prosody-checkpoint.service does it meanwhile,
-- for readers and writers do not wait for a passive checkpoint; this module only makes Prosody's own a safety net for
-- when that service is not there.
--
-- Options (global):
--   sqlite_checkpoint_pages  integer, default 16384: of 4 KiB each, at which Prosody itself does it
-- Events: server-started.
-- Source: https://www.sqlite.org/wal.html section 3.

module:set_global();

local pages = module:get_option_integer("sqlite_checkpoint_pages", 16384, 1000);
local engines = module:shared("/*/sql/connections");

local function configure(engine)
	engine:execute(("PRAGMA wal_autocheckpoint=%d"):format(pages));
end

module:hook("server-started", function()
	for _, engine in pairs(engines) do
		if engine.params.driver == "SQLite3" then
			local onconnect = engine.onconnect;
			function engine:onconnect()
				local ok, problem = onconnect(self);
				configure(self);
				return ok, problem;
			end
			configure(engine);
		end
	end
end);
