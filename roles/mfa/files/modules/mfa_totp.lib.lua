-- One-time codes by counter (HOTP, RFC 4226) and by time (TOTP, RFC 6238), as authenticator apps show them:
-- SHA-1, six digits, steps of 30 seconds.

local hashes = require "prosody.util.hashes";

local lib = { digits = 6, period = 30 }; -- period in seconds

-- The code for a counter, as a string of digits. hmac(key, text) defaults to HMAC-SHA-1.
function lib.hotp(secret, counter, digits, hmac)
	local mac = (hmac or hashes.hmac_sha1)(secret, (">I8"):pack(counter));
	local offset = mac:byte(-1) & 15;
	local number = (">I4"):unpack(mac, offset + 1) & 0x7fffffff;
	digits = digits or lib.digits;
	return ("%0" .. digits .. "d"):format(number % 10 ^ digits // 1);
end

-- The time step that a time belongs to.
function lib.step_at(time)
	return time // lib.period;
end

-- The step within one of now whose code this is, or nil.
function lib.matching_step(secret, code, time)
	local now = lib.step_at(time);
	local found;
	for step = math.max(0, now - 1), now + 1 do
		if hashes.equals(lib.hotp(secret, step), code) then
			found = step;
		end
	end
	return found;
end

return lib;
