-- Draws text as a QR code: byte mode, error correction level M (15 %), versions 1 to 40.
--
-- No package of Debian fits: libqrencode has no Lua binding, and Prosody's sandbox starts no programs.
-- Source: ISO/IEC 18004:2015; the numbers in brackets are its sections.

local lib = {};

-- Of level M, by version (table 9): error correction codewords of each block, number of blocks.
local block_ecc = {
	10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26,
	26, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28,
};
local block_count = {
	1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16,
	17, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 33, 35, 37, 38, 40, 43, 45, 47, 49,
};

-- The field of 256 elements over x^8 + x^4 + x^3 + x^2 + 1 (7.5.2).
local exp, log = {}, {};
do
	local value = 1;
	for power = 0, 254 do
		exp[power], log[value] = value, power;
		value = value << 1;
		if value > 255 then
			value = value ~ 0x11d;
		end
	end
end

local function multiply(a, b)
	return a == 0 and 0 or b == 0 and 0 or exp[(log[a] + log[b]) % 255];
end

-- The coefficients of (x - 2^0)(x - 2^1)...(x - 2^(degree-1)), without the leading 1, the highest power first.
local function generator(degree)
	local coefficients = {};
	for i = 1, degree do
		coefficients[i] = i == degree and 1 or 0;
	end
	for power = 0, degree - 1 do
		for i = 1, degree do
			coefficients[i] = multiply(coefficients[i], exp[power]) ~ (coefficients[i + 1] or 0);
		end
	end
	return coefficients;
end

local function remainder(data, divisor)
	local rest = {};
	for i = 1, #divisor do
		rest[i] = 0;
	end
	for _, octet in ipairs(data) do
		local factor = octet ~ table.remove(rest, 1);
		rest[#divisor] = 0;
		for i, coefficient in ipairs(divisor) do
			rest[i] = rest[i] ~ multiply(coefficient, factor);
		end
	end
	return rest;
end

-- Where the centres of the alignment patterns lie, in both directions (annex E).
local function alignment(version)
	if version == 1 then return {}; end
	local count = version // 7 + 2;
	local step = (version * 8 + count * 3 + 5) // (count * 4 - 4) * 2;
	local positions = { 6 };
	for i = 2, count do
		positions[i] = version * 4 + 10 - (count - i) * step;
	end
	return positions;
end

-- How many codewords a symbol holds: its modules without the function patterns, in octets.
local function codewords(version)
	local modules = (16 * version + 128) * version + 64;
	if version >= 2 then
		local count = version // 7 + 2;
		modules = modules - (25 * count - 10) * count + 55;
	end
	if version >= 7 then
		modules = modules - 36;
	end
	return modules // 8;
end

local function capacity(version)
	return codewords(version) - block_ecc[version] * block_count[version];
end

local function length_bits(version)
	return version < 10 and 8 or 16;
end

local function smallest_version(text)
	for version = 1, 40 do
		if 4 + length_bits(version) + #text * 8 <= capacity(version) * 8 then
			return version;
		end
	end
end

-- The data codewords (7.4): mode, length, the octets, a terminator, then padding.
local function data_codewords(text, version)
	local wanted = capacity(version) * 8;
	local bits = {};
	local function append(value, count)
		for i = count - 1, 0, -1 do
			bits[#bits + 1] = value >> i & 1;
		end
	end
	append(4, 4);
	append(#text, length_bits(version));
	for i = 1, #text do
		append(text:byte(i), 8);
	end
	append(0, math.min(4, wanted - #bits));
	append(0, -#bits % 8);
	local data = {};
	for i = 1, #bits, 8 do
		local octet = 0;
		for j = i, i + 7 do
			octet = octet << 1 | bits[j];
		end
		data[#data + 1] = octet;
	end
	for i = 1, capacity(version) - #data do
		data[#data + 1] = i % 2 == 1 and 0xec or 0x11;
	end
	return data;
end

-- Splits the data into blocks, adds the error correction of each, and interleaves them (7.6).
local function all_codewords(data, version)
	local count = block_count[version];
	local short = codewords(version) // count - block_ecc[version];
	local longer = codewords(version) % count;
	local divisor = generator(block_ecc[version]);
	local blocks, corrections = {}, {};
	local position = 1;
	for i = 1, count do
		local length = i > count - longer and short + 1 or short;
		blocks[i] = table.move(data, position, position + length - 1, 1, {});
		corrections[i] = remainder(blocks[i], divisor);
		position = position + length;
	end
	local result = {};
	local function interleave(columns, height)
		for row = 1, height do
			for _, column in ipairs(columns) do
				result[#result + 1] = column[row];
			end
		end
	end
	interleave(blocks, short + 1);
	interleave(corrections, block_ecc[version]);
	return result;
end

-- A square of modules, 0 light and 1 dark, row by row from 0; `fixed` tells function patterns from data.
local function new_matrix(version)
	local size = version * 4 + 17;
	local matrix = { size = size, fixed = {} };
	for y = 0, size - 1 do
		matrix[y], matrix.fixed[y] = {}, {};
		for x = 0, size - 1 do
			matrix[y][x] = 0;
		end
	end
	return matrix;
end

local function set(matrix, x, y, dark)
	if matrix[y] and matrix[y][x] then
		matrix[y][x] = dark and 1 or 0;
		matrix.fixed[y][x] = true;
	end
end

-- Concentric squares around a module: dark and light by their distance from it.
local function square(matrix, x, y, radius, light)
	for dy = -radius, radius do
		for dx = -radius, radius do
			set(matrix, x + dx, y + dy, not light[math.max(math.abs(dx), math.abs(dy))]);
		end
	end
end

-- Level M and the mask, with a BCH code, twice (7.9).
local function draw_format(matrix, mask)
	local rest = mask;
	for _ = 1, 10 do
		rest = rest << 1 ~ (rest >> 9) * 0x537;
	end
	local bits = (mask << 10 | rest) ~ 0x5412;
	local size = matrix.size;
	for i = 0, 14 do
		local dark = bits >> i & 1 == 1;
		if i < 8 then
			set(matrix, 8, i < 6 and i or i + 1, dark);
			set(matrix, size - 1 - i, 8, dark);
		else
			set(matrix, i == 8 and 7 or 14 - i, 8, dark);
			set(matrix, 8, size - 15 + i, dark);
		end
	end
	set(matrix, 8, size - 8, true);
end

-- From version 7: the version, with a BCH code, twice (7.10).
local function draw_version(matrix, version)
	if version < 7 then return; end
	local rest = version;
	for _ = 1, 12 do
		rest = rest << 1 ~ (rest >> 11) * 0x1f25;
	end
	local bits = version << 12 | rest;
	for i = 0, 17 do
		local dark = bits >> i & 1 == 1;
		local far, near = matrix.size - 11 + i % 3, i // 3;
		set(matrix, far, near, dark);
		set(matrix, near, far, dark);
	end
end

local function draw_function_patterns(matrix, version)
	local last = matrix.size - 1;
	for i = 0, last do
		set(matrix, 6, i, i % 2 == 0);
		set(matrix, i, 6, i % 2 == 0);
	end
	for _, corner in ipairs { { 3, 3 }, { last - 3, 3 }, { 3, last - 3 } } do
		square(matrix, corner[1], corner[2], 4, { [2] = true, [4] = true });
	end
	local positions = alignment(version);
	for i, x in ipairs(positions) do
		for j, y in ipairs(positions) do
			local in_finder = i == 1 and (j == 1 or j == #positions) or i == #positions and j == 1;
			if not in_finder then
				square(matrix, x, y, 2, { true });
			end
		end
	end
	draw_format(matrix, 0);
	draw_version(matrix, version);
end

-- Fills what is not fixed, in columns two modules wide, up and down from the right (7.7.3).
local function draw_codewords(matrix, octets)
	local size = matrix.size;
	local index = 0;
	for right = size - 1, 1, -2 do
		if right <= 6 then
			right = right - 1; -- the column of the timing pattern
		end
		for step = 0, size - 1 do
			local upward = (right + 1) & 2 == 0;
			local y = upward and size - 1 - step or step;
			for x = right, right - 1, -1 do
				if not matrix.fixed[y][x] and index < #octets * 8 then
					matrix[y][x] = octets[index // 8 + 1] >> (7 - index % 8) & 1;
					index = index + 1;
				end
			end
		end
	end
end

-- Which modules a mask turns over (7.8.2).
local masks = {
	[0] = function(x, y) return (x + y) % 2 == 0; end;
	function(_, y) return y % 2 == 0; end;
	function(x) return x % 3 == 0; end;
	function(x, y) return (x + y) % 3 == 0; end;
	function(x, y) return (x // 3 + y // 2) % 2 == 0; end;
	function(x, y) return x * y % 2 + x * y % 3 == 0; end;
	function(x, y) return (x * y % 2 + x * y % 3) % 2 == 0; end;
	function(x, y) return ((x + y) % 2 + x * y % 3) % 2 == 0; end;
};

local function apply_mask(matrix, mask)
	local is_turned = masks[mask];
	for y = 0, matrix.size - 1 do
		for x = 0, matrix.size - 1 do
			if not matrix.fixed[y][x] and is_turned(x, y) then
				matrix[y][x] = 1 - matrix[y][x];
			end
		end
	end
end

-- How hard a symbol is to read (7.8.3): long runs, blocks, what looks like a finder pattern, uneven darkness.
local function line_penalty(line)
	local penalty = 0;
	for run in line:gmatch("0+") do
		penalty = penalty + (#run >= 5 and #run - 2 or 0);
	end
	for run in line:gmatch("1+") do
		penalty = penalty + (#run >= 5 and #run - 2 or 0);
	end
	local padded = "0000" .. line .. "0000"; -- the quiet zone counts
	for _, pattern in ipairs { "00001011101", "10111010000" } do
		local from = padded:find(pattern, 1, true);
		while from do
			penalty = penalty + 40;
			from = padded:find(pattern, from + 1, true);
		end
	end
	return penalty;
end

local function penalty(matrix)
	local last = matrix.size - 1;
	local total, dark = 0, 0;
	for i = 0, last do
		local row, column = {}, {};
		for j = 0, last do
			row[j + 1], column[j + 1] = matrix[i][j], matrix[j][i];
			dark = dark + matrix[i][j];
			if i > 0 and j > 0 then
				local sum = matrix[i][j] + matrix[i - 1][j] + matrix[i][j - 1] + matrix[i - 1][j - 1];
				total = total + (sum % 4 == 0 and 3 or 0);
			end
		end
		total = total + line_penalty(table.concat(row)) + line_penalty(table.concat(column));
	end
	local deviation = math.abs(dark * 20 - matrix.size ^ 2 * 10) / matrix.size ^ 2; -- in steps of 5 %
	return total + math.floor(deviation) * 10;
end

-- Returns the modules of the text's symbol: matrix[y][x], 0 or 1, both from 0 to matrix.size - 1.
-- Nil if the text is longer than 2331 octets.
function lib.encode(text)
	local version = smallest_version(text);
	if not version then return nil; end
	local matrix = new_matrix(version);
	draw_function_patterns(matrix, version);
	draw_codewords(matrix, all_codewords(data_codewords(text, version), version));
	local best, best_penalty;
	for mask = 0, 7 do
		apply_mask(matrix, mask);
		draw_format(matrix, mask);
		local found = penalty(matrix);
		if not best or found < best_penalty then
			best, best_penalty = mask, found;
		end
		apply_mask(matrix, mask); -- once more takes it off
	end
	apply_mask(matrix, best);
	draw_format(matrix, best);
	return matrix;
end

-- Returns the text's symbol as an SVG element with the quiet zone of 4 modules, black on white.
function lib.svg(text)
	local matrix = lib.encode(text);
	if not matrix then return nil; end
	local path = {};
	for y = 0, matrix.size - 1 do
		local row = table.concat(matrix[y], "", 0, matrix.size - 1);
		for from, to in row:gmatch("()1+()") do
			path[#path + 1] = ("M%d %dh%dv1h-%dz"):format(from + 3, y + 4, to - from, to - from);
		end
	end
	local side = matrix.size + 8;
	return ('<svg class="qr" viewBox="0 0 %d %d" shape-rendering="crispEdges" aria-hidden="true">'
		.. '<path fill="#fff" d="M0 0h%dv%dH0z"/><path d="%s"/></svg>'):format(side, side, side, side, table.concat(path));
end

return lib;
