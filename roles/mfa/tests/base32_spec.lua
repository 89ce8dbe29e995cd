local base32 = load_library("mfa_base32");

describe("base32", function()
	-- RFC 4648 section 10
	local vectors = {
		[""] = "", f = "MY======", fo = "MZXQ====", foo = "MZXW6===";
		foob = "MZXW6YQ=", fooba = "MZXW6YTB", foobar = "MZXW6YTBOI======";
	};
	for octets, text in pairs(vectors) do
		it(("has the vector %q of RFC 4648"):format(octets), function()
			assert.equal(text, base32.encode(octets));
			assert.equal(octets, base32.decode(text));
		end);
	end

	it("reads what people type: lower case, without padding", function()
		assert.equal("foob", base32.decode("mzxw6yq"));
	end);

	it("does not read other characters", function()
		assert.is_nil(base32.decode("MZXW0==="));
	end);

	it("brings every octet back", function()
		local octets = {};
		for octet = 0, 255 do
			octets[octet + 1] = string.char(octet);
		end
		octets = table.concat(octets);
		assert.equal(octets, base32.decode(base32.encode(octets)));
	end);
end);
