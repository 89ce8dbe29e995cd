-- Logs in accounts with a second factor by the passwords of their devices, all others by their own.
--
-- A provider around internal_hashed. All device passwords of an account share a salt, so the server sends one SCRAM
-- challenge and then compares the client's proof with each device's key: clients need to know nothing of it. The
-- primary password of an account with a second factor opens nothing here, over SCRAM or elsewhere. Accounts that are
-- unknown, disabled, without devices or past the time to enrol get a challenge like others and fail at the proof,
-- after the same work.
--
-- Only SCRAM-SHA-256 is offered. An account that an older server has hashed with SHA-1 fails like a wrong password
-- until its owner logs in to the account page, which hashes it anew.
--
-- A client that goes on trying the primary password, or that of a revoked device, is refused but is no guesser:
-- `stale_credential` of the handler says so to mod_login_throttle.
--
-- Options: those of mod_mfa.
-- Source: RFC 5802, RFC 7677.

local base64 = require "prosody.util.encodings".base64;
local hashes = require "prosody.util.hashes";
local hex = require "prosody.util.hex";
local new_sasl = require "prosody.util.sasl".new;
local random_bytes = require "prosody.util.random".bytes;
local sxor = require "prosody.util.strbitop".sxor;

local key_length = 32; -- octets

module:depends("auth_internal_hashed");
local base;
for _, provider in ipairs(module:get_host_items("auth-provider")) do
	base = provider.name == "internal_hashed" and provider or base;
end

local mfa = module:depends("mfa");
local compared_devices = 2 * mfa.max_devices; -- present and past

local provider = {};
for name, method in pairs(base) do
	provider[name] = method;
end
provider.name = "mfa";

-- The keys of the devices, the primary key, the salt and the iteration count of an account.
local function keys_of(username, account)
	local primary = {
		stored_key = account.stored_key and hex.decode(account.stored_key);
		server_key = account.server_key and hex.decode(account.server_key);
		is_stale = (account.mfa or {}).enrolled;
	};
	if not primary.is_stale then
		return {}, primary, account.salt, account.iteration_count;
	end
	local keys, salt, iteration_count = mfa.login_keys(username, account);
	return keys or {}, primary, salt or account.salt, iteration_count or account.iteration_count;
end

-- In place of the keys that an account lacks. Each is another: Lua is quicker with a text that it has met before.
local no_keys = {};
for i = 0, compared_devices do
	no_keys[i] = random_bytes(key_length);
end

local function proves(stored_key, message, proof)
	local client_key = sxor(hashes.hmac_sha256(stored_key, message), proof);
	return hashes.equals(hashes.sha256(client_key), stored_key);
end

-- Compares the client's proof with every key; the work is the same for all accounts.
local function matching_key(keys, primary, message, proof)
	local found = proves(primary and primary.stored_key or no_keys[0], message, proof) and primary or nil;
	for i = 1, compared_devices do
		if proves(keys[i] and keys[i].stored_key or no_keys[i], message, proof) then
			found = keys[i];
		end
	end
	return found;
end

-- The keys are those of when the exchange began: what has been taken away since opens nothing.
local function opens(key, handler)
	return not key.is_stale and mfa.may_log_in(handler.username, key.id);
end

-- Gives the exchange the keys that the proof in the client's final message was made with.
local function choose_keys(handler, message)
	local state = handler.state;
	local without_proof, proof = message:match("(c=[^,]*,r=[^,]*,?.-),p=(.*)$"); -- as util.sasl.scram reads it
	proof = proof and base64.decode(proof);
	if not proof or #proof ~= key_length then
		return false;
	end
	local text = table.concat({ state.client_first_message_bare, state.server_first_message, without_proof }, ",");
	local key = matching_key(handler.mfa_keys or {}, handler.mfa_primary, text, proof);
	if not key then return true; end
	if opens(key, handler) then
		state.stored_key, state.server_key = key.stored_key, key.server_key;
		handler.mfa_device = key.id;
	else
		handler.stale_credential = true;
	end
	return true;
end

local equip;

-- Methods of util.sasl are replaced in the instance: mod_sasl2_fast wants the metatable as it is.
function equip(handler)
	local class = getmetatable(handler).__index;

	function handler:process(message)
		if not mfa.is_available() then
			module:log("error", "No master key, so nobody can log in");
			return "failure", "temporary-auth-failure";
		elseif self.state and not (message and choose_keys(self, message)) then
			return "failure", "malformed-request";
		end
		return class.process(self, message);
	end

	function handler:clean_clone()
		return equip(class.clean_clone(self));
	end

	return handler;
end

function provider.get_sasl_handler()
	return equip(new_sasl(module.host, {
		scram_sha_256 = function(handler, username)
			local account = mfa.read_account(username);
			if not account or not account.salt then return; end
			local keys, primary, salt, iteration_count = keys_of(username, account);
			if not account.disabled then
				handler.mfa_keys, handler.mfa_primary = keys, primary;
			end
			-- Keys that nothing matches: the right ones follow with the proof.
			return random_bytes(key_length), random_bytes(key_length), iteration_count, salt, true;
		end;
	}));
end

-- Asked by what logs in with a password elsewhere, such as mod_rest and mod_http_oauth2.
function provider.test_password(username, password)
	local account = mfa.read_account(username);
	if not mfa.is_available() then
		return nil, "There is no master key.";
	elseif account and not mfa.may_log_in(username) then
		return nil, "The account takes a second factor, or is disabled.";
	end
	return base.test_password(username, password);
end

-- A password reset by invitation (mod_register_ibr) creates the account anew: what it says of the second factor stays.
function provider.create_user(username, password)
	if password and mfa.read_account(username) then
		return provider.set_password(username, password);
	end
	return base.create_user(username, password);
end

module:provides("auth", provider);
