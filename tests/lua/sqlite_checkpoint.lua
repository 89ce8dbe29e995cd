local function engine(driver)
	local made = { params = { driver = driver }, said = {}, connected = 0 };
	function made:onconnect() self.connected = self.connected + 1; return true; end
	function made:execute(statement) table.insert(self.said, statement); return true; end
	return made;
end

local function start(...)
	shared["/*/sql/connections"] = { ... };
	load_module("sqlite_checkpoint", {}).fire("server-started");
end

test("a commit brings the log into the database only where nobody else does", function()
	local sqlite = engine "SQLite3";
	start(sqlite);
	expect(table.concat(sqlite.said, " "), "PRAGMA wal_autocheckpoint=16384");
end);

test("so it does after the database was opened again", function()
	local sqlite = engine "SQLite3";
	start(sqlite);
	expect(sqlite:onconnect(), true);
	expect(sqlite.connected, 1);
	expect(#sqlite.said, 2);
end);

test("another database is left alone", function()
	local other = engine "PostgreSQL";
	start(other);
	expect(#other.said, 0);
end);
