-- The account page: invitations, passwords, the second factor and the devices of an account, in a browser.
--
-- It is plain HTML and needs no script. A password alone opens nothing but the prompt for a code, which is bound to
-- the session and the account that gave the password. What matters takes a code that is at most `mfa_sudo_time` old.
-- Every form carries a token that no other site knows; no answer is stored. Secrets are shown once: the page that
-- follows forgets them. Limits on guessing are mod_mfa's, and the same as of every other login.
--
-- Options:
--   mfa_page_idle_timeout      period, default "10 minutes": a session ends when it is idle for so long
--   mfa_page_session_lifetime  period, default "1 hour": and then in any case
--   mfa_sudo_time              period, default "10 minutes": how long a code counts as fresh
-- Events: invite-created (its landing page becomes ours), user-registering, user-registered, user-password-reset,
--   user-password-changed, user-disabled, user-deleted, second-factor-changed (the account's sessions end).
-- Source: OWASP ASVS 5.0 V3 (browsers), V7 (sessions); WCAG 2.2.

local formdecode = require "prosody.util.http".formdecode;
local jid = require "prosody.util.jid";
local nodeprep = require "prosody.util.encodings".stringprep.nodeprep;
local usermanager = require "prosody.core.usermanager";
local valid_utf8 = require "prosody.util.encodings".utf8.valid;

module:depends("http");
local invites = module:depends("invites");
local mfa = module:depends("mfa");

local qr = module:require "mfa_qr";
local sessions = module:require "mfa_page_sessions";
local view = module:require "mfa_page_view";

local default_role = module:get_option_string("register_ibr_default_role", "prosody:registered");

local few_recovery_codes = 3;
local longest_field = 1024; -- octets
local expiries = { month = 30 * 86400, year = 365 * 86400 };

local policy = table.concat({
	"default-src 'none'", "style-src 'self'", "img-src 'self'", "form-action 'self'",
	"base-uri 'none'", "frame-ancestors 'none'",
}, "; ");

local headers = {
	cache_control = "no-store";
	content_security_policy = policy;
	cross_origin_opener_policy = "same-origin";
	cross_origin_resource_policy = "same-origin";
	permissions_policy = "camera=(), geolocation=(), microphone=(), publickey-credentials-get=()";
	x_robots_tag = "noindex";
};

-- A visit is one request: its session if it has one, its form if it brought one. These answer it.

local function send(visit, status, content_type, body)
	local response = visit.response;
	response.status_code = status;
	response.headers.content_type = content_type .. "; charset=utf-8";
	return body;
end

local function show(visit, page, values, status)
	values = values or {};
	values.domain = module.host;
	values.base = visit.base;
	values.session = visit.session;
	values.username = values.username or visit.session and visit.session.username;
	values.form_token = sessions.form_token(visit.cookie);
	values.notice = visit.notice;
	return send(visit, status or (values.problem and 400) or 200, "text/html", view.page(page, values));
end

local function go(visit, path)
	local response = visit.response;
	response.status_code = 303;
	response.headers.location = visit.base .. path;
	return "";
end

-- What the next page says first.
local function go_with_notice(visit, path, notice)
	visit.session.notice = notice;
	return go(visit, path);
end

local function use_cookie(visit, cookie)
	visit.cookie = cookie;
	sessions.set_cookie(visit.response, cookie);
end

local function begin_session(visit, username, open)
	if visit.session then
		sessions.finish(visit.session);
	end
	local session, cookie = sessions.begin(username, open);
	visit.session = session;
	use_cookie(visit, cookie);
end

local function step_up(visit)
	sessions.refresh(visit.session);
	use_cookie(visit, sessions.rotate(visit.session));
end

local function field(visit, name)
	local value = visit.form[name];
	if type(value) == "string" and #value <= longest_field and valid_utf8(value) then
		return value;
	end
	return "";
end

local function trimmed(visit, name)
	return (field(visit, name):gsub("^%s+", ""):gsub("%s+$", ""));
end

local function record(visit, event, device)
	mfa.record(event, visit.session.username, { address = visit.address, device = device });
end

-- Logging in

local wrong_login = "The user name or the password is wrong.";
local throttled = "Too many attempts. Wait a few minutes, then try again.";
local unavailable = "This is not possible now. Try again later, or tell the people who run this server.";

-- The account that somebody means by "alice" or "alice@this.server"; nil if it cannot be one of this server.
local function account_of(text)
	local username, host = jid.split(text:find("@", 1, true) and text or text .. "@" .. module.host);
	return host == module.host and username and nodeprep(username, true) or nil;
end

local function show_login(visit, values)
	return show(visit, "login", values or {}, values and values.status);
end

local function log_in(visit)
	local username = account_of(trimmed(visit, "username"));
	local values = { problem = wrong_login, given = trimmed(visit, "username"), status = 403 };
	if not username then return show_login(visit, values); end
	local right, condition = mfa.verify_password(username, field(visit, "password"), visit.address);
	local status = right and mfa.status(username);
	if condition == "throttled" then
		values.problem, values.status = throttled, 429;
	elseif not status and condition ~= "not-authorized" then
		values.problem, values.status = unavailable, 503;
	end
	if not status then return show_login(visit, values); end
	begin_session(visit, username, not status.enrolled);
	if status.enrolled then
		return go(visit, "code");
	end
	sessions.refresh(visit.session);
	record(visit, "page-login");
	return go(visit, "");
end

local function minutes_until(time)
	return math.max(1, math.ceil((time - os.time()) / 60));
end

-- Checks the code of the form against the account of the session, and no other. Returns what it was, or a problem.
local function check_code(visit)
	local code = field(visit, "code"):gsub("%s", "");
	local kind, condition, locked_until = mfa.verify_code(visit.session.username, code, visit.address);
	if kind then
		return kind;
	elseif condition == "locked" then
		return nil, locked_until and ("Too many wrong codes. Try again in %d min."):format(minutes_until(locked_until))
			or throttled;
	elseif condition == "not-authorized" then
		return nil, "This code is wrong, or it was used before. Wait for the next one.";
	end
	return nil, unavailable;
end

local function note_recovery(session, kind)
	if kind == "recovery" then
		session.notice = "That recovery code is spent. Make new ones before you run out.";
	end
end

local function give_code(visit)
	local session = visit.session;
	local kind, problem = check_code(visit);
	if not kind then return show(visit, "code", { problem = problem }, 403); end
	session.open, session.proven = true, true;
	step_up(visit);
	note_recovery(session, kind);
	record(visit, "page-login");
	return go(visit, "");
end

local function confirm(visit)
	local session = visit.session;
	local kind, problem;
	if session.proven then
		kind, problem = check_code(visit);
	else
		local condition;
		kind, condition = mfa.verify_password(session.username, field(visit, "password"), visit.address);
		problem = condition == "throttled" and throttled or "The password is wrong.";
	end
	if not kind then return show(visit, "confirm", { problem = problem }, 403); end
	step_up(visit);
	note_recovery(session, kind);
	return go(visit, session.wanted or "");
end

local function log_out(visit)
	sessions.finish(visit.session);
	visit.session = nil;
	use_cookie(visit, sessions.new_cookie());
	return go(visit, "login");
end

-- Invitations

local function read_invitation(visit)
	local invitation = invites.get(visit.argument);
	if not invitation or not (invitation.type == "register" or invitation.inviter) then return; end
	local reset = (invitation.additional_data or {}).allow_reset;
	local stored = invites.get_account_invite_info(visit.argument);
	return invitation, {
		token = visit.argument;
		reset = reset;
		reserved = reset or invitation.type == "register" and jid.node(stored.jid);
		inviter = invitation.inviter;
		uri = not reset and invitation.uri;
	};
end

local function show_invitation(visit, values)
	local invitation, details = read_invitation(visit);
	if not invitation then
		return show(visit, "message", { title = "This invitation is not valid",
			text = "It has been used already, or it has expired. Ask for a new one." }, 404);
	end
	for name, value in pairs(values or {}) do
		details[name] = value;
	end
	return show(visit, "invitation", details);
end

local function check_new_password(visit, username)
	local password = field(visit, "password");
	local weakness = mfa.weakness_of(username, password);
	if weakness then
		return nil, weakness .. ".";
	elseif password ~= field(visit, "repetition") then
		return nil, "The two passwords are not the same.";
	end
	return password;
end

-- As mod_register_ibr does it, so that every module that guards registration is asked. Returns a problem, or nil.
local function register(visit, invitation, username, password)
	local registering = {
		username = username, password = password, host = module.host, role = default_role;
		ip = visit.address, validated_invite = invitation, allowed = true;
	};
	module:fire_event("user-registering", registering);
	if not registering.allowed or usermanager.user_exists(username, module.host) then
		return "This user name is not to be had.";
	end
	if not usermanager.create_user_with_role(username, password, module.host, registering.role) then
		return unavailable;
	end
	module:fire_event("user-registered", {
		username = username, host = module.host, source = module.name;
		ip = visit.address, validated_invite = invitation;
	});
end

local function accept_invitation(visit)
	local invitation, details = read_invitation(visit);
	if not invitation then return show_invitation(visit); end
	local given = trimmed(visit, "username");
	local username = details.reserved or account_of(given);
	if not username then
		return show_invitation(visit, { problem = "This cannot be a user name. Use letters, digits, dots and dashes.",
			about_username = true, given = given });
	end
	local password, problem = check_new_password(visit, username);
	if not password then
		return show_invitation(visit, { problem = problem, given = given });
	end
	if details.reset then
		local changed, _, text = mfa.set_password(username, password);
		if not changed then
			return show_invitation(visit, { problem = text or unavailable });
		end
		module:fire_event("user-password-reset",
			{ username = username, host = module.host, ip = visit.address, validated_invite = invitation });
		return show_login(visit, { given = username, good_news = "Your password is changed. Log in with it." });
	end
	problem = register(visit, invitation, username, password);
	if problem then
		return show_invitation(visit, { problem = problem, about_username = true, given = given });
	end
	begin_session(visit, username, true);
	sessions.refresh(visit.session);
	record(visit, "page-register");
	return go(visit, "enrol");
end

module:hook("invite-created", function(invite)
	if invite.allow_registration and not invite.landing_page then
		invite.landing_page = module:http_url(nil, "/account") .. "/invitation/" .. invite.token;
	end
end);

-- The account

local function show_account(visit)
	local status = mfa.status(visit.session.username);
	local devices = mfa.devices(visit.session.username) or {};
	for _, device in ipairs(devices) do
		device.expired = device.expires and device.expires <= os.time();
	end
	table.sort(devices, function(a, b)
		if a.online ~= b.online then return a.online; end
		return (a.last_used or a.created) > (b.last_used or b.created);
	end);
	return show(visit, "account", {
		status = status;
		devices = devices;
		some = #devices > 0;
		several = #devices > 1;
		none = status.enrolled and #devices == 0;
		few_codes = status.enrolled and status.recovery_left < few_recovery_codes;
	});
end

-- Secrets are kept for the page that shows them and for nothing else.
local function show_once(visit, path, secret)
	visit.session.secret = { path = path, values = secret };
	return go(visit, path);
end

local function show_secret(visit, page)
	local secret = visit.session.secret;
	if not secret then return go(visit, ""); end
	return show(visit, page, setmetatable({}, { __index = secret.values }));
end

local function enrolment(visit)
	local session = visit.session;
	if not session.enrolment then
		local begun = mfa.begin_enrolment(session.username);
		session.enrolment = begun and { secret = begun.secret, uri = begun.uri, qr = qr.svg(begun.uri) };
	end
	return session.enrolment;
end

local function show_enrolment(visit, problem)
	local begun = enrolment(visit);
	if not begun then
		return show(visit, "message", { title = "Not possible now", text = unavailable }, 503);
	end
	return show(visit, "enrol", { secret = begun.secret, uri = begun.uri, qr = begun.qr, problem = problem });
end

local function confirm_enrolment(visit)
	local session = visit.session;
	if not session.enrolment then return go(visit, "enrol"); end
	local is_first = not session.proven;
	local codes, condition = mfa.confirm_enrolment(session.username, (field(visit, "code"):gsub("%s", "")));
	if condition == "unexpected-request" then -- begun anew elsewhere, or too long ago
		session.enrolment = nil;
		return go_with_notice(visit, "enrol", "It took too long. Scan this new code.");
	elseif not codes then
		return show_enrolment(visit, "This code is wrong. Check your phone's clock, and give the code that it shows now.");
	end
	session.enrolment, session.proven = nil, true;
	step_up(visit);
	return show_once(visit, "recovery-codes", { codes = codes, first = is_first });
end

local function make_recovery_codes(visit)
	local codes = mfa.new_recovery_codes(visit.session.username);
	if not codes then return go(visit, ""); end
	return show_once(visit, "recovery-codes", { codes = codes });
end

local function download_recovery_codes(visit)
	local secret = visit.session.secret;
	if not secret or not secret.values.codes then return go(visit, ""); end
	visit.response.headers.content_disposition = 'attachment; filename="recovery-codes.txt"';
	return send(visit, 200, "text/plain", view.text("recovery-codes.txt", {
		account = visit.session.username .. "@" .. module.host;
		codes = secret.values.codes;
		page = module:http_url(nil, "/account") .. "/";
	}));
end

local add_device_problems = {
	conflict = "You have a device of this name already. Choose another.";
	["resource-constraint"] = "You have as many devices as an account may have. Revoke one first.";
	["bad-request"] = "Give the device a name of at most 64 characters.";
};

local function add_device(visit)
	local name = trimmed(visit, "name");
	local expiry = expiries[field(visit, "expiry")];
	local device, condition = mfa.add_device(visit.session.username, name, expiry and os.time() + expiry);
	if not device then
		return show(visit, "add_device", { given = name,
			problem = add_device_problems[condition] or unavailable });
	end
	return show_once(visit, "device-password", {
		name = device.name, password = device.password, qr = qr.svg(device.password);
	});
end

local function find_device(visit)
	for _, device in ipairs(mfa.devices(visit.session.username) or {}) do
		if tostring(device.id) == visit.argument then return device; end
	end
end

local function show_device(visit, problem)
	local device = find_device(visit);
	if not device then return go(visit, ""); end
	return show(visit, "device", { device = device, problem = problem });
end

local function rename_device(visit)
	local device = find_device(visit);
	if not device then return go(visit, ""); end
	local renamed, condition = mfa.rename_device(visit.session.username, device.id, trimmed(visit, "name"));
	if not renamed then
		return show_device(visit, add_device_problems[condition] or add_device_problems["bad-request"]);
	end
	return go_with_notice(visit, "", "The device has its new name.");
end

local function revoke_device(visit)
	local device = find_device(visit);
	if device and mfa.revoke_device(visit.session.username, device.id) then
		return go_with_notice(visit, "", ("“%s” is revoked and logged out."):format(device.name));
	end
	return go(visit, "");
end

local function revoke_all(visit)
	for _, device in ipairs(mfa.devices(visit.session.username) or {}) do
		mfa.revoke_device(visit.session.username, device.id);
	end
	return go_with_notice(visit, "", "All devices are revoked and logged out.");
end

local function change_password(visit)
	local session = visit.session;
	local password, problem = check_new_password(visit, session.username);
	if password then
		local changed, _, text = mfa.set_password(session.username, password);
		problem = not changed and (text or unavailable);
	end
	if problem then return show(visit, "password", { problem = problem }); end
	sessions.finish_all(session.username, session);
	step_up(visit);
	return go_with_notice(visit, "", "Your password is changed.");
end

for _, event in ipairs { "user-password-changed", "user-disabled", "user-deleted" } do
	module:hook_global(event, function(data)
		if data.host == module.host then
			sessions.finish_all(data.username);
		end
	end);
end

module:hook("second-factor-changed", function(event)
	sessions.finish_all(event.username);
end);

-- Routes

local function page(name)
	return function(visit) return show(visit, name); end;
end

local function static(name, content_type)
	local content = view.read(name);
	return { get = function(visit) return send(visit, 200, content_type, content); end, secret = true };
end

-- needs: "code" a right password; "open" a login; "fresh" a login and a code that is not old. Without it: nothing.
-- factor: whether it is for accounts with a second factor alone.
-- secret: whether a secret that is to be shown once outlives this page.
local routes = {
	[""] = { needs = "open", get = show_account };
	["login"] = { get = show_login, post = log_in };
	["code"] = { needs = "code", get = page "code", post = give_code };
	["confirm"] = { needs = "open", get = page "confirm", post = confirm };
	["logout"] = { needs = "code", post = log_out };
	["invitation/"] = { get = show_invitation, post = accept_invitation };
	["enrol"] = { needs = "fresh", get = show_enrolment, post = confirm_enrolment };
	["recovery"] = { needs = "fresh", factor = true, get = page "recovery", post = make_recovery_codes };
	["recovery-codes"] = { needs = "open", secret = true,
		get = function(visit) return show_secret(visit, "recovery_codes"); end };
	["recovery-codes.txt"] = { needs = "open", secret = true, get = download_recovery_codes };
	["devices/add"] = { needs = "fresh", factor = true, get = page "add_device", post = add_device };
	["device-password"] = { needs = "open", secret = true,
		get = function(visit) return show_secret(visit, "device_password"); end };
	["devices/revoke"] = { needs = "fresh", factor = true, get = page "revoke_all", post = revoke_all };
	["device/"] = { needs = "open", get = show_device, post = rename_device };
	["revoke/"] = { needs = "open", post = revoke_device };
	["password"] = { needs = "fresh", get = page "password", post = change_password };
	["style.css"] = static("style.css", "text/css");
	["icon.svg"] = static("icon.svg", "image/svg+xml");
};

local function find_route(path)
	if routes[path] and path:sub(-1) ~= "/" then
		return routes[path];
	end
	local prefix, argument = path:match("^(%a+/)([%w_-]+)$");
	return routes[prefix], argument;
end

-- An account may have lost or gained its factor, or be gone, while somebody was logged in.
local function is_current(session)
	local status = mfa.status(session.username);
	return status and (not session.open or status.enrolled == (session.proven or false));
end

-- Where somebody must go before this route is theirs; nil if it is.
local function detour(visit, route, path)
	local session = visit.session;
	if not route.needs then
		return;
	elseif not session then
		return "login";
	elseif not session.open then
		return route.needs ~= "code" and "code" or nil;
	elseif path == "code" then
		return "";
	elseif route.factor and not session.proven then
		return "enrol";
	elseif route.needs == "fresh" and not sessions.is_fresh(session) then
		session.wanted = path;
		return "confirm";
	end
end

local function new_visit(event, base)
	local request, response = event.request, event.response;
	for name, value in pairs(headers) do
		response.headers[name] = value;
	end
	local visit = { response = response, base = base, address = request.ip, cookie = sessions.cookie(request) };
	visit.session = sessions.find(visit.cookie);
	if visit.session and not is_current(visit.session) then
		sessions.finish(visit.session);
		visit.session = nil;
	end
	return visit;
end

local function read_form(request)
	local is_form = (request.headers.content_type or ""):match("^application/x%-www%-form%-urlencoded");
	local form = is_form and formdecode(request.body or "");
	return type(form) == "table" and form or {};
end

-- Whether a form was sent from this page: by what it contains, and by what the browser says.
local function is_own_form(visit, request)
	local site = request.headers.sec_fetch_site;
	return (not site or site == "same-origin") and sessions.is_form_token(visit.cookie, field(visit, "form_token"));
end

local function refuse_form(visit)
	return show(visit, "message", { title = "This form has expired",
		text = "You were logged out, or it was sent from somewhere else. Nothing was changed." }, 403);
end

local function serve(event, path)
	local request = event.request;
	local visit = new_visit(event, request.path:sub(1, #request.path - #path));
	local route, argument = find_route(path);
	visit.argument = argument;
	if not visit.cookie and not (route and route.secret) then
		use_cookie(visit, sessions.new_cookie());
	end
	local is_post = request.method == "POST";
	local handler = route and route[is_post and "post" or "get"];
	if not handler then
		return show(visit, "message", { title = "There is no such page", text = "" }, route and 405 or 404);
	end
	if is_post then
		visit.form = read_form(request);
		if not is_own_form(visit, request) then return refuse_form(visit); end
	end
	local elsewhere = detour(visit, route, path);
	if elsewhere then return go(visit, elsewhere); end
	local session = visit.session;
	if session and not route.secret then
		session.secret = nil;
	end
	if session and not is_post and not route.secret then
		visit.notice, session.notice = session.notice, nil;
	end
	return handler(visit);
end

module:provides("http", {
	name = "account";
	cors = { enabled = false };
	route = { ["GET /*"] = serve, ["POST /*"] = serve };
});
