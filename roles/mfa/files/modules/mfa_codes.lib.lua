-- Judges one-time and recovery codes against what the record of an account remembers of them.
--
-- A time step opens once. Five distinct wrong codes lock the factor, longer each time; the same wrong code again,
-- such as one that a client has saved, changes nothing. Nothing here is stored: the caller keeps the record before
-- it believes the answer.
--
-- The record's fields used here:
--   steps         time steps whose code has been taken, the latest at the end
--   wrong         marks of the wrong codes since the last right one or lock
--   locks         locks since the last right code
--   locked_until  Unix time
--   recovery      list of { mark, used }: the keyed hash of a code, and the Unix time it was taken

local base32 = module:require "mfa_base32";
local hashes = require "prosody.util.hashes";
local hex = require "prosody.util.hex";
local random_bytes = require "prosody.util.random".bytes;
local totp = module:require "mfa_totp";

local wrong_codes_to_lock = 5;
local shortest_lock, longest_lock = 15 * 60, 24 * 60 * 60; -- seconds
local remembered_steps = 10;
local recovery_codes = 8;

local lib = {};

-- The time until which no code is taken, or nil. One further away than any lock was set by a clock gone wrong.
function lib.locked_until(record, now)
	local until_ = record.locked_until;
	if until_ and now < until_ and until_ - now <= longest_lock then
		return until_;
	end
end

local function mark(key, kind, code)
	return hex.encode(hashes.hmac_sha256(key, kind .. "/" .. code));
end

-- Steps ahead of the clock were taken before it was set back: each is still spent, and later ones are not yet.
local function is_spent(steps, step, now)
	local present = totp.step_at(now) + 1;
	for _, taken in ipairs(steps) do
		if taken == step or taken > step and taken <= present then
			return true;
		end
	end
	return false;
end

local function take_step(record, secret, code, now)
	local step = totp.matching_step(secret, code, now);
	if not step or is_spent(record.steps, step, now) then
		return false;
	end
	table.insert(record.steps, step);
	if #record.steps > remembered_steps then
		table.remove(record.steps, 1);
	end
	return true;
end

local function take_recovery_code(record, key, code, now)
	local given = mark(key, "recovery", code);
	for _, entry in ipairs(record.recovery) do
		if hashes.equals(entry.mark, given) and not entry.used then
			entry.used = now;
			return true;
		end
	end
	return false;
end

local function note_wrong_code(record, key, code, now)
	local given = mark(key, "wrong", code);
	for _, known in ipairs(record.wrong) do
		if known == given then return; end
	end
	table.insert(record.wrong, given);
	if #record.wrong < wrong_codes_to_lock then return; end
	record.wrong = {};
	record.locks = record.locks + 1;
	record.locked_until = now + math.min(longest_lock, shortest_lock << math.min(record.locks - 1, 10));
end

-- Codes as people type them: digits in groups, letters in any case.
local function normal(code)
	return (code:gsub("[%s%-]", ""):upper());
end

-- Takes a code: "totp", "recovery", or nil and "not-authorized" or "locked" with the end of the lock.
-- secret is that of the authenticator app; key, the account's own, marks codes.
function lib.take(record, secret, key, code, now)
	local locked_until = lib.locked_until(record, now);
	if locked_until then
		return nil, "locked", locked_until;
	end
	code = normal(code);
	local kind = #code == totp.digits and take_step(record, secret, code, now) and "totp"
		or take_recovery_code(record, key, code, now) and "recovery";
	if not kind then
		note_wrong_code(record, key, code, now);
		return nil, "not-authorized";
	end
	record.wrong, record.locks, record.locked_until = {}, 0, nil;
	return kind;
end

-- Takes the code that confirms a new secret: its step is the first one spent. False if it is wrong.
function lib.take_first(record, secret, code, now)
	local step = totp.matching_step(secret, normal(code), now);
	if step then
		record.steps = { step };
	end
	return step ~= nil;
end

-- Replaces the recovery codes of a record and returns the new ones, of 60 bits each.
function lib.new_recovery_codes(record, key)
	local codes = {};
	record.recovery = {};
	for i = 1, recovery_codes do
		local code = base32.encode(random_bytes(10)):sub(1, 12);
		codes[i] = code:lower():gsub("....", "%0-"):sub(1, -2);
		record.recovery[i] = { mark = mark(key, "recovery", code) };
	end
	return codes;
end

-- How many recovery codes are left.
function lib.recovery_left(record)
	local left = 0;
	for _, entry in ipairs(record.recovery) do
		left = left + (entry.used and 0 or 1);
	end
	return left;
end

return lib;
