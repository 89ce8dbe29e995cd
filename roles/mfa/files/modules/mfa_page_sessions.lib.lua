-- The sessions of the account page: kept in memory, found by a random cookie that is only stored as a hash.
--
-- A session begins with a right password and not before, so strangers can neither fill the memory nor prepare a
-- cookie for somebody else. Its cookie changes with every step up in privilege. It ends when it is idle or old, when
-- its user logs out, and when Prosody restarts.

local hashes = require "prosody.util.hashes";
local hex = require "prosody.util.hex".encode;
local now = require "prosody.util.time".monotonic;
local random_bytes = require "prosody.util.random".bytes;

local idle_timeout = module:get_option_period("mfa_page_idle_timeout", "10 minutes");
local lifetime = module:get_option_period("mfa_page_session_lifetime", "1 hour");
local sudo_time = module:get_option_period("mfa_sudo_time", "10 minutes");
local per_account = 8; -- the oldest gives way

local cookie_name = "__Host-account"; -- RFC 6265bis: Secure, of this host alone, for its every path
local key = random_bytes(32);
local sessions = {}; -- hash of the cookie -> session

local lib = {};

local function new_cookie()
	return hex(random_bytes(32));
end

local function is_over(session)
	return now() - session.seen > idle_timeout or now() - session.began > lifetime;
end

-- The cookie that a request brought. What does not look like one of ours is as good as none.
function lib.cookie(request)
	for name, value in (request.headers.cookie or ""):gmatch("([^=;%s]+)=([^;%s]*)") do
		if name == cookie_name and value:match("^%x+$") and #value == 64 then
			return value;
		end
	end
end

function lib.set_cookie(response, cookie)
	response.headers.set_cookie = ("%s=%s; Path=/; Secure; HttpOnly; SameSite=Strict"):format(cookie_name, cookie);
end

lib.new_cookie = new_cookie;

-- What a form of the page that was sent with this cookie contains. No other site can know it.
function lib.form_token(cookie)
	return hashes.hmac_sha256(key, cookie, true);
end

function lib.is_form_token(cookie, token)
	return cookie and token and hashes.equals(lib.form_token(cookie), token);
end

function lib.find(cookie)
	local session = cookie and sessions[hashes.sha256(cookie)];
	if session and is_over(session) then
		lib.finish(session);
	elseif session then
		session.seen = now();
		return session;
	end
end

function lib.finish(session)
	sessions[session.id] = nil;
end

-- Ends the sessions of an account, but not `spared`.
function lib.finish_all(username, spared)
	for _, session in pairs(sessions) do
		if session.username == username and session ~= spared then
			lib.finish(session);
		end
	end
end

-- Keeps a session under a new cookie, and returns that.
local function keep(session)
	local cookie = new_cookie();
	session.id = hashes.sha256(cookie);
	sessions[session.id] = session;
	return cookie;
end

-- Gives a session a new cookie, and returns it. The old one opens nothing any more.
function lib.rotate(session)
	lib.finish(session);
	return keep(session);
end

local function make_room(username)
	local count, oldest = 0, nil;
	for _, session in pairs(sessions) do
		if is_over(session) then
			lib.finish(session);
		elseif session.username == username then
			count = count + 1;
			oldest = oldest and oldest.seen < session.seen and oldest or session;
		end
	end
	if count >= per_account then
		lib.finish(oldest);
	end
end

-- Begins the session of an account whose password was right, and returns it with its cookie.
-- Without `open` it is good for the prompt for a code, and for nothing else.
function lib.begin(username, open)
	make_room(username);
	local session = { username = username, open = open, began = now(), seen = now() };
	return session, keep(session);
end

-- "sudo": who has just proved to be there may do what matters.
function lib.refresh(session)
	session.fresh_until = now() + sudo_time;
end

function lib.is_fresh(session)
	return session.fresh_until ~= nil and now() < session.fresh_until;
end

return lib;
