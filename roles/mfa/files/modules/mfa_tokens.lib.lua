-- Binds the tokens of FAST (XEP-0484) to the device that asked for them, and seals them on disk.
--
-- mod_sasl2_fast keeps its tokens in clear: HT-SHA-256 needs them, so a hash would not do. It opens its store through
-- the wrapper made here, which seals each token with its device and gives out none whose device is gone: the decision
-- falls before the token is compared, so a refused one changes nothing.

local json = require "prosody.util.json";

local purpose = "fast token";

local lib = {};

-- Wraps a map store. policy, a table that may change its functions later:
--   seal(username, purpose, text), open(username, purpose, sealed)  see mfa_records
--   may_use_token(username, device)  whether a token of the device opens the account now
--   device                           of the session that is being given a token; false for none
--   used                             set here: the device of the last token given out
function lib.wrap(store, policy)
	local wrapper = { remove = store.remove };

	local function sealed(username, token)
		if type(token) ~= "table" or token == store.remove then return token; end
		if token.device == nil then
			token.device = policy.device;
		end
		return { sealed = policy.seal(username, purpose, json.encode(token)) };
	end

	function wrapper.get(_, username, key)
		local kept = store:get(username, key);
		local text = kept and policy.open(username, purpose, kept.sealed);
		local token = text and json.decode(text);
		if not token or not policy.may_use_token(username, token.device) then return nil; end
		policy.used = token.device;
		return token;
	end

	function wrapper.set(_, username, key, token)
		return store:set(username, key, sealed(username, token));
	end

	function wrapper.set_keys(_, username, tokens)
		local kept = {};
		for key, token in pairs(tokens) do
			kept[key] = sealed(username, token);
		end
		return store:set_keys(username, kept);
	end

	return wrapper;
end

-- Seals anew the tokens of an account that the previous master key has sealed. store: as a whole, not a map.
function lib.renew(store, policy, username)
	local tokens, changed = store:get(username), false;
	for _, token in pairs(tokens or {}) do
		local text, is_old = policy.open(username, purpose, token.sealed);
		if text and is_old then
			token.sealed, changed = policy.seal(username, purpose, text), true;
		end
	end
	if changed then
		store:set(username, tokens);
	end
end

return lib;
