-- The second factor of accounts: what is kept of it, and who may do what with it.
--
-- An enrolled account has an authenticator app (TOTP), recovery codes and device passwords. Its primary password
-- opens nothing alone: together with a code it adds a device, and devices log in (mod_auth_mfa). An account that must
-- enrol and has not may do so, and nothing else, once its time has run out.
--
-- Whether an account is enrolled stands in its `accounts` record, the rest in the store `mfa`: if that is lost or
-- damaged the account is refused. Secrets are sealed under a master key outside the data. Without the key nobody
-- logs in.
--
-- Other modules get the functions at the end, those of `exports`, through module:depends("mfa"). User names are
-- prepared (nodeprep), times are Unix seconds, and what fails returns nil, a condition and at times a detail.
--
-- Options:
--   mfa_policy                    "off": nobody enrols; "optional" (default); "required": everybody must
--   mfa_admins_required           boolean, default true: administrators must, unless the policy is "off"
--   mfa_grace_period              period, default "14 days": to enrol, from the first sight of an account that must
--   mfa_master_key_file           path: at least 32 octets; readable by Prosody, outside its data
--   mfa_master_key_previous_file  path: the key before this one, or the same
--   mfa_devices_max               integer, default 20: devices of an account
--   mfa_issuer                    string, default the host: the name that authenticator apps show
--   mfa_common_passwords_file     path: passwords that are not taken, one on each line
--   password_policy               its `length`, default 12: the shortest password
-- Fires: second-factor-changed { username }, when an account has another authenticator app, or none any more.
-- Events: authentication-success, sasl2/c2s/success, stream resumption (XEP-0198), store-opened, user-deleted,
-- the jabber:iq:register requests.
-- Source: RFC 6238, RFC 4226, NIST SP 800-63B sections 3.1.3 to 3.1.5, OWASP ASVS 5.0 6.3 to 6.6.

local hashes = require "prosody.util.hashes";
local hex = require "prosody.util.hex";
local new_id = require "prosody.util.id".short;
local random_bytes = require "prosody.util.random".bytes;
local hashers = require "prosody.util.sasl.scram".hashers;
local st = require "prosody.util.stanza";
local usermanager = require "prosody.core.usermanager";
local uuid = require "prosody.util.uuid".generate;

local base32 = module:require "mfa_base32";
local codes = module:require "mfa_codes";
local new_records = module:require "mfa_records".new;
local tokens = module:require "mfa_tokens";
local totp = module:require "mfa_totp";
local vaults = module:require "mfa_vault";
local throttle = module:depends("login_throttle");

local policy = module:get_option_enum("mfa_policy", "optional", "off", "required");
local admins_required = module:get_option_boolean("mfa_admins_required", true);
local grace_period = module:get_option_period("mfa_grace_period", "14 days");
local key_file = module:get_option_path("mfa_master_key_file", nil, "config");
local previous_key_file = module:get_option_path("mfa_master_key_previous_file", nil, "config");
local max_devices = module:get_option_integer("mfa_devices_max", 20, 1);
local issuer = module:get_option_string("mfa_issuer", module.host);
local common_passwords_file = module:get_option_path("mfa_common_passwords_file", nil, "config");
local shortest_password = (module:get_option("password_policy") or {}).length or 12; -- characters
local iteration_count = module:get_option_integer("default_iteration_count", 10000, 4096);

local enrolment_time = 15 * 60; -- seconds, to confirm
local confirmation_attempts = 10;
local sudo_time = 10 * 60;
local last_use_kept_every = 60 * 60;
local review_every = 10;
local xmlns_register = "jabber:iq:register";
local xmlns_sm = "urn:xmpp:sm:3";

local exports = module.environment;
local accounts = module:open_store("accounts");
local store = module:open_store("mfa");
local counter = module:metric("counter", "events", "", "Events of the second factor", { "event" });

local shared = module:shared("state"); -- outlives a reload of the module
shared.sessions = shared.sessions or setmetatable({}, { __mode = "k" }); -- those logged in -> true
shared.token_policy = shared.token_policy or { device = false }; -- see mfa_tokens
local sessions, token_policy = shared.sessions, shared.token_policy;

local rotating = false; -- whether there is a previous master key

local function read_vault()
	if not key_file then
		return nil, "mfa_master_key_file is not set";
	end
	local key, problem = vaults.read_key(key_file);
	if not key then return nil, problem; end
	local previous = previous_key_file and vaults.read_key(previous_key_file);
	rotating = previous and previous ~= key;
	return vaults.new(key, rotating and previous);
end

local vault, vault_problem = read_vault();
if not vault then
	module:log("error", "No master key, so nobody can log in: %s", vault_problem);
end
local records = vault and new_records(store, vault, module.host);

local function read_common_passwords()
	local set = {};
	if not common_passwords_file then return set; end
	local file, problem = io.open(common_passwords_file);
	if not file then
		module:log("error", "Cannot read the common passwords: %s", problem);
		return set;
	end
	for line in file:lines() do
		set[line:lower()] = true;
	end
	file:close();
	return set;
end

local common_passwords = read_common_passwords();

-- One line for the log: key=value, quoted where a value holds more than a plain word.
local function field(name, value)
	value = tostring(value);
	if value:find("[^%w@._:/+-]") then
		value = '"' .. value:gsub('[%c"\\]', function(c) return ("\\x%02x"):format(c:byte()); end) .. '"';
	end
	return name .. "=" .. value;
end

-- Writes an event to the log and counts it. details: device, address and actor, each optional.
function exports.record(event, username, details)
	local line = { field("event", event), field("user", username .. "@" .. module.host) };
	for _, name in ipairs { "device", "address", "actor" } do
		if details and details[name] then
			table.insert(line, field(name, details[name]));
		end
	end
	module:log("info", "mfa %s", table.concat(line, " "));
	counter:with_labels(event):add(1);
end
local record_event = exports.record;

local function set_keys(account, password)
	local _, stored_key, server_key = hashers["SHA-256"](password, account.salt, account.iteration_count);
	account.stored_key, account.server_key = hex.encode(stored_key), hex.encode(server_key);
end

-- The record of an account. A password that an older server has kept in clear is hashed first.
local function read_account(username)
	local account = accounts:get(username);
	if account and account.password then
		account.salt, account.iteration_count = uuid(), iteration_count;
		set_keys(account, account.password);
		account.password = nil;
		accounts:set(username, account);
	end
	return account;
end

-- What the account's own record says: enrolled, required, seen (Unix time: first under the policy).
local function facts_of(account)
	return account.mfa or {};
end

local function change_facts(username, change)
	local account = accounts:get(username);
	account.mfa = facts_of(account);
	change(account.mfa, account);
	return accounts:set(username, account);
end

local function is_admin(username)
	local role = usermanager.get_user_role(username, module.host);
	return role and (role.name == "prosody:admin" or role.name == "prosody:operator");
end

local function is_required(username, account)
	if policy == "off" then return false; end
	return policy == "required" or facts_of(account).required or admins_required and is_admin(username) or false;
end

-- When an account that is not enrolled must be: nil for never.
local function deadline_of(username, account)
	if is_required(username, account) then
		return (facts_of(account).seen or os.time()) + grace_period;
	end
end

local function is_gated(username, account)
	local deadline = deadline_of(username, account);
	return deadline ~= nil and os.time() >= deadline;
end

-- Starts the time in which an account must enrol.
local function notice(username, account)
	if not facts_of(account).enrolled and not facts_of(account).seen and is_required(username, account) then
		change_facts(username, function(facts) facts.seen = os.time(); end);
	end
end

-- The record of an enrolled user; or nil, a condition and a detail.
local function load_enrolled(username, account)
	account = account or accounts:get(username);
	if not account then
		return nil, "item-not-found";
	elseif not facts_of(account).enrolled then
		return nil, "forbidden", "not enrolled";
	elseif not vault then
		return nil, "internal-server-error", "no master key";
	end
	local record, problem = records.load(username);
	if record and record.secret then
		return record;
	end
	module:log("error", "The second factor of %s is %s: the account is refused", username, problem or "lost");
	return nil, "internal-server-error", problem or "lost";
end

local function save(username, record)
	local ok, problem = records.save(username, record);
	if not ok then
		module:log("error", "Could not store the second factor of %s: %s", username, problem);
		return nil, "internal-server-error", problem;
	end
	return true;
end

local function is_valid(device)
	return device and (not device.expires or device.expires > os.time());
end

-- Sessions

local function has_sudo(session)
	return session.mfa_sudo_until ~= nil and os.time() < session.mfa_sudo_until;
end

-- Whether a session that was opened by the device, or by the primary password, may be open now.
local function may_be_open(username, device, session)
	local account = accounts:get(username);
	if not account or account.disabled or not vault then
		return false;
	elseif not facts_of(account).enrolled then
		return not device and not is_gated(username, account);
	end
	local record = load_enrolled(username);
	return record and (device and is_valid(record.devices[device]) or not device and session and has_sudo(session));
end

-- Closes the sessions of an account that may not be open any more.
local function review(username)
	local leaving = {};
	for session in pairs(sessions) do
		if session.username == username and session.host == module.host
			and not may_be_open(username, session.mfa_device, session) then
			table.insert(leaving, session);
		end
	end
	for _, session in ipairs(leaving) do
		session:close { condition = "not-authorized", text = "This device is not allowed any more" };
	end
end

-- When a session has to be looked at again: its device expires, or its account must enrol.
local function term_of(username, device)
	if not device then
		return deadline_of(username, accounts:get(username));
	end
	local record = load_enrolled(username);
	return record and record.devices[device] and record.devices[device].expires;
end

module:add_timer(review_every, function()
	local due = {};
	for session in pairs(sessions) do
		if session.mfa_term and session.mfa_term <= os.time() then
			due[session.username] = true;
		end
	end
	for username in pairs(due) do
		review(username);
	end
	return review_every;
end);

local function note_use(username, device_id, address)
	local record = records.load(username);
	local device = record.devices[device_id];
	local is_news = not device.last_used or os.time() - device.last_used >= last_use_kept_every;
	if is_news then
		device.last_used, device.last_address = os.time(), address;
		save(username, record);
	end
end

local function greet(event)
	local session = event.session;
	if sessions[session] then return; end
	sessions[session] = true;
	session.mfa_device = session.sasl_handler.mfa_device;
	if not session.mfa_device then
		notice(session.username, accounts:get(session.username));
	end
	session.mfa_term = term_of(session.username, session.mfa_device);
end

module:hook("sasl2/c2s/success", greet, 950); -- before anything is bound, resumed or given

module:hook("authentication-success", function(event)
	greet(event);
	local session = event.session;
	if session.mfa_device then
		note_use(session.username, session.mfa_device, session.ip);
	end
	record_event("login", session.username, { device = session.mfa_device }); -- where from is its own business
end);

-- Stream resumption: only of a session of the same device.
local resumable = module:shared("/*/smacks/resumption-tokens");

local function is_resumable(session, request)
	local former = resumable[("%s@%s/%s"):format(session.username, session.host, request.attr.previd)];
	return not former or former.mfa_device == session.mfa_device;
end

local function resumption_refused()
	return st.stanza("failed", { xmlns = xmlns_sm })
		:tag("item-not-found", { xmlns = "urn:ietf:params:xml:ns:xmpp-stanzas" }):up();
end

module:hook_tag(xmlns_sm, "resume", function(session, request)
	if session.username and not is_resumable(session, request) then
		session.send(resumption_refused());
		return true;
	end
end, 10);

module:hook("sasl2/c2s/success", function(event)
	local request = event.session.sasl2_sm_request;
	if request and request.name == "resume" and not is_resumable(event.session, request) then
		event.session.sasl2_sm_request = nil;
		event.success:add_child(resumption_refused());
	end
end, 150); -- before mod_sasl2_sm

-- Tokens of FAST

if vault then
	token_policy.seal, token_policy.open = records.seal, records.open;
end
function token_policy.may_use_token(username, device)
	return may_be_open(username, device or nil);
end

module:hook("store-opened", function(event)
	if event.store_name == "fast_tokens" and event.store_type == "map" then
		event.store = tokens.wrap(event.store, token_policy);
	end
end);

module:hook("sasl2/c2s/success", function(event)
	token_policy.device = event.session.mfa_device or false;
end, 76); -- before mod_sasl2_fast makes a token

module:hook("advertise-sasl-features", function(event)
	local handler = event.origin.fast_sasl_handler;
	if not handler then return; end
	local test = handler.profile.ht_sha_256;
	function handler.profile.ht_sha_256(...)
		if not vault then
			return nil, "temporary-auth-failure";
		end
		local ok, username, response, rotation_needed = test(...);
		if ok then
			handler.mfa_device = token_policy.used or nil;
		end
		return ok, username, response, rotation_needed;
	end
end, -1); -- after mod_sasl2_fast

-- What takes a while is done for some accounts at a time: the time to enrol starts for those that must, and what the
-- previous master key has sealed is sealed anew.
local token_store = module:open_store("fast_tokens");
local accounts_at_a_time = 20;

local function visit(username)
	local account = accounts:get(username);
	if not account then return; end
	notice(username, account);
	if rotating then
		records.load(username);
		tokens.renew(token_store, token_policy, username);
	end
end

local function visit_all()
	local usernames = {};
	for username in accounts:users() do
		table.insert(usernames, username);
	end
	module:add_timer(1, function()
		for _ = 1, accounts_at_a_time do
			local username = table.remove(usernames);
			if username then
				visit(username);
			end
		end
		if #usernames > 0 then
			return 0.1;
		elseif rotating then
			module:log("info", "All is sealed under the master key: the previous one is not needed any more");
		end
	end);
end

visit_all();
module:daily("Start the time to enrol", visit_all);

-- In-band changes of an account

-- The reason why a password is not taken, or nil.
local function weakness_of(username, password)
	if (utf8.len(password) or #password) < shortest_password then
		return ("The password is too short: %d characters at least"):format(shortest_password);
	elseif #username >= 4 and password:lower():find(username, 1, true) then
		return "The password contains the user name";
	elseif common_passwords[password:lower()] then
		return "This password is one of the most common ones";
	end
end
exports.weakness_of = weakness_of;

local function password_in(query)
	local form = query:get_child("x", "jabber:x:data");
	for field_ in form and form:childtags("field") or function() end do
		if field_.attr.var == "password" then
			return field_:get_child_text("value");
		end
	end
	return query:get_child_text("password");
end

local function check_registration(event)
	local session, stanza = event.origin, event.stanza;
	if stanza.attr.type ~= "set" then return; end
	local query = stanza.tags[1];
	local username = session.username;
	if username then
		local account = accounts:get(username);
		if account and facts_of(account).enrolled and not has_sudo(session) then
			session.send(st.error_reply(stanza, "auth", "forbidden", "This takes a fresh code"));
			return true;
		end
	end
	local password = password_in(query);
	local weakness = password and weakness_of(username or query:get_child_text("username") or "\0", password);
	if weakness then
		session.send(st.error_reply(stanza, "modify", "not-acceptable", weakness));
		return true;
	end
end

module:hook("iq/self/jabber:iq:register:query", check_registration, 20);
module:hook("iq/host/jabber:iq:register:query", check_registration, 20);
module:hook("stanza/iq/" .. xmlns_register .. ":query", check_registration, 20);

module:hook_global("user-deleted", function(event)
	if event.host == module.host and records then
		records.forget(event.username);
	end
end);

-- For mod_auth_mfa

exports.max_devices = max_devices;
exports.read_account = read_account;

-- Whether the master key is there.
function exports.is_available()
	return vault ~= nil;
end

-- The device keys of an enrolled account (see mfa_records), their salt and iteration count; nil if its record is of no
-- use.
function exports.login_keys(username, account)
	local record = load_enrolled(username, account);
	if record then
		return records.device_keys(record), record.salt, record.iteration_count;
	end
end

-- Whether an account may be opened now: by one of its devices, or without one by its primary password.
function exports.may_log_in(username, device)
	return may_be_open(username, device);
end

-- What others may call

-- { enrolled, required, deadline (time or nil), may_chat, recovery_left, devices (number), locked_until (time or nil) }
function exports.status(username)
	local account = accounts:get(username);
	if not account then
		return nil, "item-not-found";
	end
	notice(username, account);
	local enrolled = facts_of(account).enrolled or false;
	local status = {
		enrolled = enrolled, required = is_required(username, account);
		may_chat = vault ~= nil and not account.disabled, recovery_left = 0, devices = 0;
	};
	if not enrolled then
		status.deadline = deadline_of(username, accounts:get(username));
		status.may_chat = status.may_chat and not is_gated(username, accounts:get(username));
		return status;
	end
	local record, condition, detail = load_enrolled(username);
	if not record then
		return nil, condition, detail;
	end
	status.recovery_left = codes.recovery_left(record);
	status.locked_until = codes.locked_until(record, os.time());
	for _, device in pairs(record.devices) do
		status.devices = status.devices + (is_valid(device) and 1 or 0);
	end
	return status;
end

local hash_names = { [40] = "SHA-1", [64] = "SHA-256" }; -- by digits of the stored key

-- Checks the primary password, by the same limits as logins. An account that an older server has hashed with SHA-1,
-- for which no client can log in by SCRAM-SHA-256, is hashed anew.
function exports.verify_password(username, password, address)
	local source = { ip = address, log = module._log };
	if throttle.is_throttled(source, username) then
		throttle.report(source, username, "throttled");
		return nil, "throttled";
	elseif not vault then
		return nil, "internal-server-error", "no master key";
	end
	local account = read_account(username);
	local stored_key = account and account.stored_key or ("0"):rep(64);
	local hash_name = hash_names[#stored_key] or "SHA-256";
	local hashed, key = hashers[hash_name](password, account and account.salt or uuid(),
		account and account.iteration_count or iteration_count);
	local is_right = hashed and hashes.equals(hex.encode(key), stored_key);
	if not is_right or not account or account.disabled then
		throttle.count_failure(source, username);
		throttle.report(source, username, "not-authorized");
		return nil, "not-authorized";
	end
	throttle.count_success(source, username);
	if hash_name == "SHA-1" then
		set_keys(account, password);
		accounts:set(username, account);
	end
	return true;
end

-- Takes a code of an enrolled account, once: "totp" or "recovery"; or nil and "not-authorized" or "locked" (until).
-- The password comes first: a stranger must be able neither to use up codes nor to lock the factor.
function exports.verify_code(username, code, address)
	local record, condition, detail = load_enrolled(username);
	if not record then
		return nil, condition, detail;
	end
	local kind, until_;
	kind, condition, until_ = codes.take(record, records.open(username, "totp", record.secret),
		records.open(username, "key", record.key), code, os.time());
	local was_locked = condition == "locked";
	local saved, problem, reason = save(username, record);
	if not saved then
		return nil, problem, reason;
	elseif kind then
		record_event(kind .. "-code-taken", username, { address = address });
		return kind;
	end
	record_event(was_locked and "code-refused-locked" or record.locked_until and record.locked_until > os.time()
		and "factor-locked" or "code-wrong", username, { address = address });
	return nil, condition, until_;
end

-- Begins an enrolment, or the change of an enrolled account to another app: { secret (base32), uri (otpauth:) }.
-- What held before holds until the confirmation.
function exports.begin_enrolment(username)
	local account = accounts:get(username);
	if not account then
		return nil, "item-not-found";
	elseif not vault then
		return nil, "internal-server-error", "no master key";
	elseif policy == "off" then
		return nil, "forbidden", "the second factor is off";
	end
	local record;
	if facts_of(account).enrolled then
		local condition, detail;
		record, condition, detail = load_enrolled(username);
		if not record then
			return nil, condition, detail;
		end
	else
		record = {
			key = records.seal(username, "key", random_bytes(32)), salt = account.salt or uuid();
			iteration_count = account.iteration_count or iteration_count;
			devices = {}, retired = {}, steps = {}, wrong = {}, locks = 0, recovery = {};
		};
	end
	local secret = random_bytes(20);
	record.pending = { secret = records.seal(username, "totp", secret), expires = os.time() + enrolment_time };
	local saved, condition, detail = save(username, record);
	if not saved then
		return nil, condition, detail;
	end
	local function escape(text)
		return (text:gsub("[^%w._~-]", function(c) return ("%%%02X"):format(c:byte()); end));
	end
	local text = base32.encode(secret);
	return {
		secret = text;
		uri = ("otpauth://totp/%s:%s?secret=%s&issuer=%s&algorithm=SHA1&digits=%d&period=%d"):format(
			escape(issuer), escape(username .. "@" .. module.host), text, escape(issuer), totp.digits, totp.period);
	};
end

-- Completes an enrolment with a code of the new secret, and returns the recovery codes, to be shown once.
-- Sessions that the primary password has opened are closed; the one that has enrolled keeps its sudo.
function exports.confirm_enrolment(username, code)
	local account = accounts:get(username);
	if not account then
		return nil, "item-not-found";
	elseif not vault then
		return nil, "internal-server-error", "no master key";
	end
	local record = records.load(username);
	if not record or not record.pending or record.pending.expires <= os.time() then
		return nil, "unexpected-request", "no enrolment is pending";
	end
	local secret = record.pending.secret;
	if not codes.take_first(record, records.open(username, "totp", secret), code, os.time()) then
		record.pending.attempts = (record.pending.attempts or 0) + 1;
		if record.pending.attempts >= confirmation_attempts then
			record.pending = nil;
		end
		local saved, condition, detail = save(username, record);
		return nil, saved and "not-authorized" or condition, detail;
	end
	record.secret, record.pending = secret, nil;
	record.wrong, record.locks, record.locked_until = {}, 0, nil;
	local recovery = codes.new_recovery_codes(record, records.open(username, "key", record.key));
	local saved, condition, detail = save(username, record);
	if not saved then
		return nil, condition, detail;
	end
	-- Older tokens, of FAST and OAuth, die with the change.
	local ok, problem = change_facts(username, function(facts, changed)
		facts.enrolled, changed.updated = true, os.time();
	end);
	if not ok then
		return nil, "internal-server-error", problem;
	end
	record_event("enrolled", username);
	module:fire_event("second-factor-changed", { username = username });
	review(username);
	return recovery;
end

-- Replaces the recovery codes: the 8 new ones, to be shown once.
function exports.new_recovery_codes(username)
	local record, condition, detail = load_enrolled(username);
	if not record then
		return nil, condition, detail;
	end
	local recovery = codes.new_recovery_codes(record, records.open(username, "key", record.key));
	local saved;
	saved, condition, detail = save(username, record);
	if not saved then
		return nil, condition, detail;
	end
	record_event("recovery-codes-made", username);
	return recovery;
end

local function clean_name(name)
	name = type(name) == "string" and name:gsub("^%s+", ""):gsub("%s+$", "") or "";
	local length = utf8.len(name);
	return length and length > 0 and length <= 64 and not name:find("%c") and name or nil;
end

local function has_name(record, name)
	for _, device in pairs(record.devices) do
		if device.name == name then return true; end
	end
	return false;
end

-- Adds a device: { id, name, password }; the password, of 120 bits, is shown once and kept as SCRAM keys.
function exports.add_device(username, name, expires)
	local record, condition, detail = load_enrolled(username);
	if not record then
		return nil, condition, detail;
	end
	name = clean_name(name);
	if not name or expires and expires <= os.time() then
		return nil, "bad-request";
	elseif has_name(record, name) then
		return nil, "conflict";
	end
	local count = 0;
	for id, device in pairs(record.devices) do
		if is_valid(device) then
			count = count + 1;
		else
			record.devices[id] = nil;
		end
	end
	if count >= max_devices then
		return nil, "resource-constraint";
	end
	local password = base32.encode(random_bytes(15)):lower():gsub("....", "%0-"):sub(1, -2);
	local _, stored_key, server_key = hashers["SHA-256"](password, record.salt, record.iteration_count);
	local id = new_id();
	record.devices[id] = {
		name = name, created = os.time(), expires = expires;
		stored_key = hex.encode(stored_key), server_key = hex.encode(server_key);
	};
	local saved;
	saved, condition, detail = save(username, record);
	if not saved then
		return nil, condition, detail;
	end
	record_event("device-added", username, { device = id });
	return { id = id, name = name, password = password };
end

local function is_online(username, id)
	for session in pairs(sessions) do
		if session.username == username and session.host == module.host and session.mfa_device == id
			and session.full_jid and not session.hibernating then
			return true;
		end
	end
	return false;
end

-- The devices, oldest first: a list of { id, name, created, expires, last_used, last_address, online }.
function exports.devices(username)
	local record, condition, detail = load_enrolled(username);
	if not record then
		return nil, condition, detail;
	end
	local list = {};
	for id, device in pairs(record.devices) do
		table.insert(list, {
			id = id, name = device.name, created = device.created, expires = device.expires;
			last_used = device.last_used, last_address = device.last_address, online = is_online(username, id);
		});
	end
	table.sort(list, function(a, b)
		if a.created ~= b.created then return a.created < b.created; end
		return a.name < b.name;
	end);
	return list;
end

function exports.rename_device(username, id, name)
	local record, condition, detail = load_enrolled(username);
	if not record then
		return nil, condition, detail;
	end
	local device = record.devices[id];
	name = clean_name(name);
	if not device then
		return nil, "item-not-found";
	elseif not name then
		return nil, "bad-request";
	elseif device.name ~= name and has_name(record, name) then
		return nil, "conflict";
	end
	device.name = name;
	return save(username, record);
end

-- Revokes a device: its password, sessions and tokens end, those of others stay.
function exports.revoke_device(username, id)
	local record, condition, detail = load_enrolled(username);
	if not record then
		return nil, condition, detail;
	end
	local device = record.devices[id];
	if not device then
		return nil, "item-not-found";
	end
	record.devices[id] = nil;
	table.insert(record.retired, device.stored_key);
	if #record.retired > max_devices then
		table.remove(record.retired, 1);
	end
	local saved;
	saved, condition, detail = save(username, record);
	if not saved then
		return nil, condition, detail;
	end
	record_event("device-revoked", username, { device = id });
	review(username);
	return true;
end

-- Sets the primary password: true, or nil, "policy" and the reason.
function exports.set_password(username, password)
	local weakness = weakness_of(username, password);
	if weakness then
		return nil, "policy", weakness;
	end
	local ok, problem = usermanager.set_password(username, password, module.host);
	if not ok then
		return nil, "internal-server-error", problem;
	end
	record_event("password-changed", username);
	return true;
end

-- The device that has opened a session, or nil: the primary password has.
function exports.device_of(session)
	return session.mfa_device;
end

-- Lets a session change the account for ten minutes: it has just given a code.
function exports.grant_sudo(session)
	local username = session.username;
	session.mfa_sudo_until = os.time() + sudo_time;
	module:add_timer(sudo_time + 1, function() review(username); end);
end

exports.has_sudo = has_sudo;

-- Takes the second factor off an account whose owner has lost it, with all devices. If it must have one, the account
-- page is all that is open to it until it has enrolled again.
function exports.reset(username, actor)
	local account = accounts:get(username);
	if not account then
		return nil, "item-not-found";
	end
	local ok, problem = change_facts(username, function(facts, changed)
		facts.enrolled, changed.updated = nil, os.time();
	end);
	if ok then
		ok, problem = store:set(username, nil);
	end
	if records then
		records.forget(username);
	end
	if not ok then
		return nil, "internal-server-error", problem;
	end
	record_event("reset", username, { actor = actor });
	module:fire_event("second-factor-changed", { username = username });
	review(username);
	return true;
end

-- Says that an account must enrol, or need not as far as the account itself is concerned.
function exports.set_required(username, required, actor)
	local account = accounts:get(username);
	if not account then
		return nil, "item-not-found";
	end
	local ok, problem = change_facts(username, function(facts)
		facts.required = required or nil;
	end);
	if not ok then
		return nil, "internal-server-error", problem;
	end
	notice(username, accounts:get(username));
	for session in pairs(sessions) do
		if session.username == username and session.host == module.host then
			session.mfa_term = term_of(username, session.mfa_device);
		end
	end
	record_event(required and "required" or "not-required", username, { actor = actor });
	review(username);
	return true;
end

-- The names of accounts that have no second factor, disabled ones left out.
function exports.without_factor()
	local list = {};
	for username in accounts:users() do
		local account = accounts:get(username);
		if account and not account.disabled and not facts_of(account).enrolled then
			table.insert(list, username);
		end
	end
	table.sort(list);
	return list;
end

-- Seals anew, at once, what the previous master key has sealed. Returns the names of the accounts whose records no key
-- opens; they keep what they have.
function exports.reseal()
	local damaged = {};
	for username in accounts:users() do
		visit(username);
		if facts_of(accounts:get(username)).enrolled and not load_enrolled(username) then
			table.insert(damaged, username);
		end
	end
	table.sort(damaged);
	return damaged;
end
