local codes = load_library("mfa_codes");
local totp = load_library("mfa_totp");

local now, key, secret = 1700000000, "the key of the account", "12345678901234567890";

local function new_record()
	return { steps = {}, wrong = {}, locks = 0, recovery = {} };
end

local function code_at(time)
	return totp.hotp(secret, totp.step_at(time));
end

local function take(record, code, time)
	return codes.take(record, secret, key, code, time or now);
end

local function guess(record, from, to, time)
	for number = from, to do
		take(record, ("guess %d"):format(number), time);
	end
end

describe("the codes of an account", function()
	it("are good once", function()
		local record = new_record();
		assert.equal("totp", (take(record, code_at(now))));
		assert.same({ nil, "not-authorized" }, { take(record, code_at(now)) });
	end);

	it("are not good once a later one has been taken", function()
		local record = new_record();
		assert.equal("totp", (take(record, code_at(now))));
		assert.is_nil((take(record, code_at(now - 30))));
		assert.equal("totp", (take(record, code_at(now + 30))));
	end);

	it("begin anew with a new secret, once it is confirmed", function()
		local record = new_record();
		take(record, code_at(now));
		assert.is_false(codes.take_first(record, "another secret", "000000", now));
		assert.is_nil((take(record, code_at(now))));
		assert.is_true(codes.take_first(record, secret, code_at(now), now));
		assert.is_nil((take(record, code_at(now))));
	end);

	it("are read with spaces, as apps show them", function()
		assert.equal("totp", (take(new_record(), (code_at(now):gsub("^...", "%0 ")))));
	end);

	it("lock the factor after five distinct wrong ones, longer each time, up to a day", function()
		local record, time = new_record(), now;
		for _, minutes in ipairs { 15, 30, 60, 120, 240, 480, 960, 1440, 1440 } do
			guess(record, 1, 4, time);
			assert.is_nil(codes.locked_until(record, time));
			guess(record, 5, 5, time);
			assert.equal(time + minutes * 60, codes.locked_until(record, time));
			assert.same({ nil, "locked", record.locked_until }, { take(record, code_at(time), time) });
			time = record.locked_until;
		end
		assert.equal("totp", (take(record, code_at(time), time)));
		guess(record, 1, 5, time);
		assert.equal(time + 15 * 60, record.locked_until);
	end);

	it("do not lock it when one wrong code is tried again and again", function()
		local record = new_record();
		for _ = 1, 50 do
			take(record, "000000");
		end
		assert.equal("totp", (take(record, code_at(now))));
	end);

	it("stay spent when the clock is set back, and later ones stay good", function()
		local record = new_record();
		local ahead = now + 400 * 86400;
		assert.equal("totp", (take(record, code_at(now))));
		assert.equal("totp", (take(record, code_at(ahead), ahead)));
		assert.is_nil((take(record, code_at(now))));
		assert.equal("totp", (take(record, code_at(now + 30))));
	end);

	it("are not locked by a clock that was ahead", function()
		local record = new_record();
		guess(record, 1, 5, now + 400 * 86400);
		assert.equal("totp", (take(record, code_at(now))));
	end);

	it("for recovery are eight, good once, in any spelling", function()
		local record = new_record();
		local recovery = codes.new_recovery_codes(record, key);
		assert.equal(8, #recovery);
		assert.equal("recovery", (take(record, recovery[1])));
		assert.is_nil((take(record, recovery[1])));
		assert.equal("recovery", (take(record, recovery[2]:upper():gsub("-", " "))));
		assert.equal(6, codes.recovery_left(record));
	end);

	it("for recovery die with new ones", function()
		local record = new_record();
		local old = codes.new_recovery_codes(record, key);
		codes.new_recovery_codes(record, key);
		assert.is_nil((take(record, old[1])));
	end);
end);
