-- Keeps strangers from learning which accounts exist.
--
-- An unknown user gets a SCRAM challenge like everybody else: a salt that is always the same for that
-- name, the iteration count of new accounts, and the failure of a wrong password at the proof. A disabled
-- account keeps its own salt and fails alike. Where PLAIN is enabled the answer takes as long as a wrong
-- password does. Accounts hashed under an older `default_iteration_count` stand out until their next
-- password change.
--
-- Options, those of mod_auth_internal_hashed:
--   password_hash            string, default "SHA-1"
--   default_iteration_count  integer, default 10000
-- Events: item-added/auth-provider (the provider is wrapped whenever it is loaded).
-- Source: RFC 6120 section 13.11 (directory harvesting), RFC 5802 section 7 (unknown-user), OWASP ASVS 5.0 6.3.8.

local hashes = require "prosody.util.hashes";
local hex = require "prosody.util.hex";
local random_bytes = require "prosody.util.random".bytes;
local hashers = require "prosody.util.sasl.scram".hashers;
local uuid = require "prosody.util.uuid".generate;

local hash_name = module:get_option_enum("password_hash", "SHA-1", "SHA-256");
local iteration_count = module:get_option_integer("default_iteration_count", 10000, 4096);
local hash_password = hashers[hash_name];
local key_length = hash_name == "SHA-1" and 20 or 32; -- octets

local store = module:open_store("login_decoy");

-- Shaped like the record of an account, so that reading the one takes as long as reading the other.
local function new_record()
	return {
		stored_key = hex.encode(random_bytes(key_length)), server_key = hex.encode(random_bytes(key_length));
		salt = uuid(), iteration_count = iteration_count, created = os.time(), updated = os.time();
	};
end

local function read_keys(record)
	return record and hex.decode(record.stored_key), record and hex.decode(record.server_key);
end

if not store:get() then
	assert(store:set(nil, new_record()));
end
local secret = read_keys(store:get());

local function derive(purpose, username)
	return hashes.hmac_sha256(secret, purpose .. "\0" .. username);
end

-- Salts are UUIDs of version 4 (mod_auth_internal_hashed), so that is what a decoy's must look like.
local function decoy_salt(username)
	local digits = hex.encode(derive("salt", username));
	local variant = ("89ab"):sub(tonumber(digits:sub(32, 32), 16) % 4 + 1):sub(1, 1);
	return ("%s-%s-4%s-%s%s-%s"):format(digits:sub(1, 8), digits:sub(9, 12), digits:sub(13, 15),
		variant, digits:sub(16, 18), digits:sub(19, 30));
end

-- Wraps a SCRAM backend of util.sasl: (handler, username) -> stored key, server key, iterations, salt, enabled.
local function with_decoys(backend)
	return function(handler, username, ...)
		local stored_key, server_key, iterations, salt, enabled = backend(handler, username, ...);
		-- The same work for everybody, so that it takes the same time: one record found and read, one missing.
		read_keys(store:get(stored_key and username or nil));
		local decoy_stored_key = derive("stored key", username):sub(1, key_length);
		local decoy_server_key = derive("server key", username):sub(1, key_length);
		local decoy = decoy_salt(username);
		if enabled and stored_key then
			return stored_key, server_key, iterations, salt, true;
		end
		return decoy_stored_key, decoy_server_key, iterations or iteration_count, salt or decoy, true;
	end;
end

-- Wraps the backend of PLAIN: (handler, username, password) -> correct, enabled.
local function with_equal_time(backend)
	return function(handler, username, password, ...)
		local correct, enabled = backend(handler, username, password, ...);
		if enabled then
			return correct, true;
		end
		hash_password(password, decoy_salt(username), iteration_count);
		return false, true;
	end;
end

local wrapped; -- the provider whose get_sasl_handler is ours
local get_sasl_handler;

local function unwrap()
	if wrapped then
		wrapped.get_sasl_handler = get_sasl_handler;
		wrapped = nil;
	end
end

local function wrap()
	local provider = prosody.hosts[module.host].users;
	if provider == wrapped then return; end
	unwrap();
	wrapped, get_sasl_handler = provider, provider.get_sasl_handler;
	function provider.get_sasl_handler(session)
		local handler = get_sasl_handler(session);
		local profile = {};
		for name, backend in pairs(handler.profile) do
			if name:find("^scram_") then
				backend = with_decoys(backend);
			elseif name == "plain_test" then
				backend = with_equal_time(backend);
			end
			profile[name] = backend;
		end
		handler.profile = profile;
		return handler;
	end
end

wrap();
module:hook("item-added/auth-provider", wrap, -1); -- after the user manager has taken it
module.unload = unwrap;
