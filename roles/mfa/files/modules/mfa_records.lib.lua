-- The records of the second factor, one for each account that has one or is about to, kept in memory once read.
--
-- A record:
--   key              sealed: 32 random octets, the account's own key
--   secret           sealed: the secret of the authenticator app; missing while the first enrolment is pending
--   pending          { secret = sealed, expires = Unix time, attempts }: an enrolment to be confirmed
--   salt, iteration_count  of all device passwords (RFC 5802)
--   devices          id -> { name, created, expires, last_used, last_address, stored_key, server_key } (keys in hex)
--   retired          stored keys of revoked devices, the latest at the end: a client that still tries one is no guesser
--   steps, wrong, locks, locked_until, recovery  see mfa_codes
--
-- A record that does not have this form, or whose secrets do not open, is corrupt: its owner is refused, nobody else.

local cache = require "prosody.util.cache";
local hex = require "prosody.util.hex";

local remembered = 10000; -- records kept in memory

local lib = {};

local function is_list(value, kind)
	if type(value) ~= "table" then return false; end
	for _, entry in pairs(value) do
		if type(entry) ~= kind then return false; end
	end
	return true;
end

local function is_key(value)
	return type(value) == "string" and #value == 64 and not value:find("%X");
end

local function has_marks(recovery)
	for _, entry in ipairs(recovery) do
		if not is_key(entry.mark) then return false; end
	end
	return true;
end

local function is_optional_number(value)
	return value == nil or type(value) == "number";
end

local function is_device(device)
	return type(device) == "table" and type(device.name) == "string" and type(device.created) == "number"
		and is_optional_number(device.expires) and is_optional_number(device.last_used)
		and is_key(device.stored_key) and is_key(device.server_key);
end

local function has_form(record)
	if type(record) ~= "table" or type(record.salt) ~= "string" or type(record.iteration_count) ~= "number"
		or not (is_list(record.steps, "number") and is_list(record.wrong, "string"))
		or not (is_list(record.recovery, "table") and has_marks(record.recovery) and is_list(record.retired, "string"))
		or type(record.locks) ~= "number" or not is_optional_number(record.locked_until)
		or type(record.devices) ~= "table" then
		return false;
	end
	for _, device in pairs(record.devices) do
		if not is_device(device) then return false; end
	end
	return true;
end

-- vault: see mfa_vault.
function lib.new(store, vault, host)
	local records = {};
	local in_memory = cache.new(remembered);
	local device_keys = setmetatable({}, { __mode = "k" }); -- record -> see records.device_keys

	local function jid_of(username)
		return username .. "@" .. host;
	end

	function records.forget(username)
		in_memory:set(username, nil);
	end

	-- Stores a record, or removes it if there is none. What could not be stored is not believed in memory either.
	function records.save(username, record)
		local ok, problem = store:set(username, record);
		in_memory:set(username, ok and record or nil);
		if record then
			device_keys[record] = nil;
		end
		return ok, problem;
	end

	function records.seal(username, purpose, text)
		return vault.seal(purpose, jid_of(username), text);
	end

	function records.open(username, purpose, sealed)
		return vault.open(purpose, jid_of(username), sealed);
	end

	-- Whether all that is sealed opens; what the previous master key sealed is sealed anew.
	local function renew_seals(username, record)
		local places = {
			{ table = record, field = "key", purpose = "key" };
			{ table = record, field = "secret", purpose = "totp" };
			{ table = record.pending or {}, field = "secret", purpose = "totp" };
		};
		local changed = false;
		for _, place in ipairs(places) do
			local sealed = place.table[place.field];
			if sealed then
				local text, is_old = records.open(username, place.purpose, sealed);
				if not text then return false; end
				if is_old then
					place.table[place.field] = records.seal(username, place.purpose, text);
					changed = true;
				end
			end
		end
		if changed then
			records.save(username, record);
		end
		return record.key ~= nil;
	end

	-- The record of an account: a table to change and save; or nil, and "corrupt" unless there is none.
	function records.load(username)
		local record = in_memory:get(username);
		if record then return record; end
		local problem;
		record, problem = store:get(username);
		if not record then
			return nil, problem and "corrupt";
		elseif not has_form(record) or not renew_seals(username, record) then
			return nil, "corrupt";
		end
		in_memory:set(username, record);
		return record;
	end

	-- The keys of an account's devices, ready to compare: a list of { id, stored_key, server_key }, and of
	-- { stored_key, is_stale = true } for those revoked.
	function records.device_keys(record)
		local keys = device_keys[record];
		if not keys then
			keys = {};
			for id, device in pairs(record.devices) do
				table.insert(keys, {
					id = id;
					stored_key = hex.decode(device.stored_key), server_key = hex.decode(device.server_key);
				});
			end
			for _, stored_key in ipairs(record.retired) do
				table.insert(keys, { stored_key = hex.decode(stored_key), is_stale = true });
			end
			device_keys[record] = keys;
		end
		return keys;
	end

	return records;
end

return lib;
