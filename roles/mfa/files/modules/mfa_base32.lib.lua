-- Base32 (RFC 4648 section 6), which Prosody lacks: authenticator apps take their secret in it.

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

local values = {};
for i = 1, #alphabet do
	values[alphabet:sub(i, i)] = i - 1;
end

local lib = {};

-- Octets to base32, padded with "=".
function lib.encode(octets)
	local digits, buffer, bits = {}, 0, 0;
	for octet in octets:gmatch(".") do
		buffer, bits = (buffer << 8 | octet:byte()) & 0xfff, bits + 8;
		while bits >= 5 do
			bits = bits - 5;
			local value = buffer >> bits & 31;
			table.insert(digits, alphabet:sub(value + 1, value + 1));
		end
	end
	if bits > 0 then
		local value = buffer << 5 - bits & 31;
		table.insert(digits, alphabet:sub(value + 1, value + 1));
	end
	return table.concat(digits) .. ("="):rep(-#digits % 8);
end

-- Base32 to octets; nil if it is none. Case and padding do not matter.
function lib.decode(text)
	local octets, buffer, bits = {}, 0, 0;
	for digit in text:upper():gsub("=+$", ""):gmatch(".") do
		local value = values[digit];
		if not value then return nil; end
		buffer, bits = (buffer << 5 | value) & 0xfff, bits + 5;
		if bits >= 8 then
			bits = bits - 8;
			table.insert(octets, string.char(buffer >> bits & 255));
		end
	end
	return table.concat(octets);
end

return lib;
