-- Renders the account page: the templates of mfa_page/, with every value escaped unless the template says {name!}.
--
-- Source: Prosody's util.interpolation for the language of the templates.

local escape = require "prosody.util.stanza".xml_escape;
local interpolation = require "prosody.util.interpolation";

local lib = {};

local function read(name)
	local file = assert(module:load_resource("mfa_page/" .. name));
	local content = file:read("a");
	file:close();
	return content;
end

local units = { { 86400, "day" }, { 3600, "hour" }, { 60, "minute" } };

local function span(seconds)
	for _, unit in ipairs(units) do
		local count = seconds // unit[1];
		if count >= 1 then
			return ("%d %s%s"):format(count, unit[2], count > 1 and "s" or "");
		end
	end
end

local filters = {
	date = function(time) return os.date("!%d %B %Y", time):gsub("^0", ""); end;
	minute = function(time) return os.date("!%H:%M UTC", time); end;
	iso = function(time) return os.date("!%Y-%m-%dT%H:%M:%SZ", time); end;
	ago = function(time)
		local past = span(os.time() - time);
		return past and past .. " ago" or "just now";
	end;
};

-- A key in groups of four, to be read aloud and typed. The gaps are drawn, not copied.
function filters.grouped(text)
	return (escape(text):gsub("%w%w?%w?%w?", "<span>%0</span><wbr>"));
end

local render = interpolation.new("%b{}", escape, filters);
local templates = {};

-- Fills the template of a page, and puts it into the frame that all share.
function lib.page(name, values)
	templates[name] = templates[name] or read(name .. ".html");
	templates.frame = templates.frame or read("frame.html");
	values.main = render(templates[name], values);
	values.heading = values.main:match("<h1.->(.-)</h1>"):gsub("<.->", ""); -- escaped already
	return render(templates.frame, values);
end

function lib.text(name, values)
	templates[name] = templates[name] or read(name);
	return interpolation.new("%b{}", tostring)(templates[name], values);
end

lib.read = read;

return lib;
