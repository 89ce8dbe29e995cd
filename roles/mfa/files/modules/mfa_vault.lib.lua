-- Seals secrets under a master key that lies outside the data.
--
-- Each secret has a key of its own, HMAC-SHA-256(master, purpose "/" owner): one that is copied to another
-- account, or to another place of the same account, does not open. Sealed with AES-256-GCM under a random nonce.
-- A previous master key still opens what was sealed under it.

local base64 = require "prosody.util.encodings".base64;
local crypto = require "prosody.util.crypto";
local hashes = require "prosody.util.hashes";
local random_bytes = require "prosody.util.random".bytes;

local nonce_length, tag_length = 12, 16; -- octets
local shortest_key = 32; -- octets

local lib = {};

-- Reads a master key: all octets of a file, at least 32. Returns nil and the reason if there is none.
function lib.read_key(path)
	local file, problem = io.open(path);
	if not file then return nil, problem; end
	local key = file:read("a");
	file:close();
	if not key or #key < shortest_key then
		return nil, ("%s: fewer than %d octets"):format(path, shortest_key);
	end
	return key;
end

-- A vault under a master key; what the previous one sealed is opened as well.
function lib.new(master, previous)
	local vault = {};

	-- Seals text for a purpose and an owner; returns printable text.
	function vault.seal(purpose, owner, text)
		local key = hashes.hmac_sha256(master, purpose .. "/" .. owner);
		local nonce = random_bytes(nonce_length);
		return base64.encode(nonce .. crypto.aes_256_gcm_encrypt(key, nonce, text));
	end

	local function open_under(some_master, purpose, owner, sealed)
		local key = hashes.hmac_sha256(some_master, purpose .. "/" .. owner);
		return crypto.aes_256_gcm_decrypt(key, sealed:sub(1, nonce_length), sealed:sub(nonce_length + 1));
	end

	-- The text that was sealed, or nil; then whether it was sealed under the previous master key.
	function vault.open(purpose, owner, sealed)
		sealed = type(sealed) == "string" and base64.decode(sealed);
		if not sealed or #sealed < nonce_length + tag_length then return nil; end
		local text = open_under(master, purpose, owner, sealed);
		if text or not previous then
			return text, false;
		end
		return open_under(previous, purpose, owner, sealed), true;
	end

	return vault;
end

return lib;
