local records = load_library("mfa_records");

-- A vault that seals by writing the purpose and the owner before the text.
local function new_vault(name, previous)
	local vault = {};
	function vault.seal(purpose, owner, text)
		return table.concat({ name, purpose, owner, text }, "|");
	end
	function vault.open(purpose, owner, sealed)
		for _, tried in ipairs { name, previous } do
			local head = table.concat({ tried, purpose, owner }, "|") .. "|";
			if type(sealed) == "string" and sealed:sub(1, #head) == head then
				return sealed:sub(#head + 1), tried == previous;
			end
		end
	end
	return vault;
end

local function new_store(kept)
	return {
		get = function(_, username) return kept[username]; end;
		set = function(self, username, record)
			if self.is_full then return nil, "disk full"; end
			kept[username] = record;
			return true;
		end;
	};
end

local function new_record(vault)
	return {
		key = vault.seal("key", "alice@xmpp.example", "k"), secret = vault.seal("totp", "alice@xmpp.example", "s");
		salt = "salt", iteration_count = 10000, steps = {}, wrong = {}, locks = 0, recovery = {}, retired = {};
		devices = { x = { name = "phone", created = 1, stored_key = ("a"):rep(64), server_key = ("b"):rep(64) } };
	};
end

describe("records", function()
	local vault = new_vault("new", "old");

	it("are loaded", function()
		local kept = { alice = new_record(vault) };
		local loaded = records.new(new_store(kept), vault, "xmpp.example").load("alice");
		assert.equal(kept.alice, loaded);
	end);

	it("are corrupt without their form", function()
		local damages = {
			function(record) record.key = nil; end;
			function(record) record.secret = "rubbish"; end;
			function(record) record.secret = record.key; end;
			function(record) record.salt = 5; end;
			function(record) record.steps = { "x" }; end;
			function(record) record.devices.x.stored_key = "a"; end;
			function(record) record.devices.y = true; end;
			function(record) record.recovery = { 1 }; end;
			function(record) record.recovery = { { used = 1 } }; end;
			function(record) record.locks = nil; end;
		};
		for _, damage in ipairs(damages) do
			local record = new_record(vault);
			damage(record);
			local subject = records.new(new_store { alice = record }, vault, "xmpp.example");
			assert.same({ nil, "corrupt" }, { subject.load("alice") });
		end
	end);

	it("of another account do not open", function()
		local subject = records.new(new_store { mallory = new_record(vault) }, vault, "xmpp.example");
		assert.same({ nil, "corrupt" }, { subject.load("mallory") });
	end);

	it("that the previous key has sealed are sealed anew and stored", function()
		local kept = { alice = new_record(new_vault("old")) };
		records.new(new_store(kept), vault, "xmpp.example").load("alice");
		assert.equal("new|totp|alice@xmpp.example|s", kept.alice.secret);
	end);

	it("that cannot be stored are not believed", function()
		local kept = { alice = new_record(vault) };
		local store = new_store(kept);
		local subject = records.new(store, vault, "xmpp.example");
		local changed = new_record(vault);
		changed.locks = 1;
		store.is_full = true;
		assert.is_nil((subject.save("alice", changed)));
		assert.equal(0, subject.load("alice").locks);
	end);
end);
