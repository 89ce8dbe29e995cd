local hashes = require "prosody.util.hashes";
local base32 = load_library("mfa_base32");
local totp = load_library("mfa_totp");

local seed = "12345678901234567890";

describe("one-time codes", function()
	it("have the vectors of RFC 4226 appendix D", function()
		local codes = {
			"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489";
		};
		for index, code in ipairs(codes) do
			assert.equal(code, totp.hotp(seed, index - 1));
		end
	end);

	it("have the vectors of RFC 6238 appendix B", function()
		local times = { 59, 1111111109, 1111111111, 1234567890, 2000000000, 20000000000 };
		local modes = {
			{ "hmac_sha1", seed, "94287082", "07081804", "14050471", "89005924", "69279037", "65353130" };
			{ "hmac_sha256", seed:rep(2):sub(1, 32),
				"46119246", "68084774", "67062674", "91819424", "90698825", "77737706" };
			{ "hmac_sha512", seed:rep(4):sub(1, 64),
				"90693936", "25091201", "99943326", "93441116", "38618901", "47863826" };
		};
		for _, mode in ipairs(modes) do
			for index, time in ipairs(times) do
				local code = totp.hotp(mode[2], totp.step_at(time), 8, hashes[mode[1]]);
				assert.equal(mode[2 + index], code);
			end
		end
	end);

	it("agree with oathtool", function()
		local secret = base32.encode("a secret of 20 bytes");
		for _, time in ipairs { 0, 1700000029, 1700000030, 4102444800 } do
			local output = assert(io.popen(("oathtool --totp --base32 --now=@%d %s"):format(time, secret)));
			local code = output:read("l");
			output:close();
			assert.equal(code, totp.hotp(base32.decode(secret), totp.step_at(time)));
		end
	end);

	it("match within one step", function()
		local now = 1700000000;
		local step = totp.step_at(now);
		for distance = -3, 3 do
			local found = totp.matching_step(seed, totp.hotp(seed, step + distance), now);
			assert.equal(math.abs(distance) <= 1 and step + distance or nil, found);
		end
	end);
end);
