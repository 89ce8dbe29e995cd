-- Loads the libraries of the second factor outside Prosody. What they ask of Prosody is stood in for; the cryptography
-- is OpenSSL's, through its command.
-- usage: busted --helper=roles/mfa/tests/helper.lua roles/mfa/tests, from the root of the repository

local function to_hex(octets)
	return (octets:gsub(".", function(octet) return ("%02x"):format(octet:byte()); end));
end

local function hmac(digest)
	return function(key, text)
		local escaped = text:gsub(".", function(octet) return ("\\%03o"):format(octet:byte()); end);
		local command = "printf '%s' | openssl dgst -%s -mac HMAC -macopt hexkey:%s -binary";
		local output = assert(io.popen(command:format(escaped, digest, to_hex(key))));
		local mac = output:read("a");
		output:close();
		return mac;
	end
end

local counter = 0;

local libraries = {
	hashes = {
		hmac_sha1 = hmac("sha1"), hmac_sha256 = hmac("sha256"), hmac_sha512 = hmac("sha512");
		equals = function(a, b) return a == b; end;
	};
	hex = { encode = to_hex };
	random = {
		bytes = function(count)
			counter = counter + 1;
			return ("%03d"):format(counter):rep(count):sub(1, count);
		end;
	};
	cache = {
		new = function()
			local kept = {};
			return {
				get = function(_, key) return kept[key]; end;
				set = function(_, key, value) kept[key] = value; end;
			};
		end;
	};
};
for name, library in pairs(libraries) do
	package.loaded["prosody.util." .. name] = library;
end

local module = {};

function load_library(name)
	local environment = setmetatable({ module = module }, { __index = _G });
	return assert(loadfile("roles/mfa/files/modules/" .. name .. ".lib.lua", "t", environment))();
end

function module.require(_, name)
	return load_library(name);
end
