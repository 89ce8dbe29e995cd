-- The second factor in the client: ad-hoc commands to set it up, and to add, list, rename and revoke devices.
--
-- What a thief of an open client could use to stay, or to shut the owner out, takes the password and a fresh code: to
-- set up or change the authenticator app, to add a device, to revoke another device. A code holds for the session for
-- ten minutes. A command that has begun belongs to the session that began it: mod_adhoc itself would take its next
-- step from anybody who knows its id.
--
-- Items: adhoc. Nodes: portcullis:mfa#set-up, #add-device, #devices, #rename-device, #revoke-device.
-- Source: XEP-0050, OWASP ASVS 5.0 7.5.1 and 7.5.2 (re-authentication).

local new_command = module:require "adhoc".new;
local dataforms = require "prosody.util.dataforms";
local st = require "prosody.util.stanza";

local mfa = module:depends("mfa");
module:depends("adhoc");

local wrong_password = {
	["not-authorized"] = "The password is wrong";
	throttled = "There were too many wrong passwords; try again later";
};
local wrong_code = {
	["not-authorized"] = "The code is wrong, or was used before";
	locked = "There were too many wrong codes; try again later";
};
local wrong_device = {
	["bad-request"] = "A name of 1 to 64 characters is wanted";
	conflict = "Another device has this name";
	["item-not-found"] = "There is no such device";
	["resource-constraint"] = "There are as many devices as an account may have; revoke one first";
};

local function refused(reasons, condition)
	return { status = "completed", error = { message = reasons[condition] or "That is not possible: " .. condition } };
end

local function asked(form)
	return { status = "executing", actions = { "complete", default = "complete" }, form = form };
end

local function told(form, values)
	return { status = "completed", result = { layout = dataforms.new(form), values = values } };
end

local function is_enrolled(visit)
	local status = mfa.status(visit.username);
	return status and status.enrolled;
end

-- The fields that prove who asks; a code is left out where none can be had, or while a former one is fresh.
local function proof_fields(visit, ...)
	local fields = { { name = "password", type = "text-private", label = "Password of your account", required = true } };
	if is_enrolled(visit) and not mfa.has_sudo(visit.session) then
		table.insert(fields, { name = "code", type = "text-single", label = "Code, or recovery code", required = true });
	end
	for _, field in ipairs { ... } do
		table.insert(fields, field);
	end
	return fields;
end

-- Checks what the fields of proof_fields hold: true; or nil and the answer.
local function check_proof(visit, values)
	local username, session = visit.username, visit.session;
	local ok, condition = mfa.verify_password(username, values.password or "", session.ip);
	if not ok then
		return nil, refused(wrong_password, condition);
	end
	if is_enrolled(visit) and not mfa.has_sudo(session) then
		if not values.code then
			return nil, refused({}, "the code of before is too old now, begin again");
		end
		ok, condition = mfa.verify_code(username, values.code, session.ip);
		if not ok then
			return nil, refused(wrong_code, condition);
		end
	end
	mfa.grant_sudo(session);
	return true;
end

-- Each step answers a visit, { session, username, form (submitted) }, and names the next step unless it was the last.

local function add_command(name, node, first_step)
	local function handle(_, request, state)
		local session = request.origin;
		if session.type ~= "c2s" or request.from ~= session.full_jid or state and state.owner ~= session then
			return { status = "error", error = { type = "auth", condition = "forbidden" } };
		elseif request.action == "cancel" then
			return { status = "canceled" };
		end
		local step = state and state.step or first_step;
		local answer, next_step = step { session = session, username = session.username, form = request.form };
		return answer, next_step and { owner = session, step = next_step };
	end
	module:provides("adhoc", new_command(name, "portcullis:mfa#" .. node, handle, "local_user"));
end

-- Asks with a form that make_form(visit) returns, or answers with what it returns in its second place; then
-- act(visit, values) with what was filled in.
local function asking(make_form, act)
	return function(visit)
		local fields, answer = make_form(visit);
		if not fields then return answer; end
		local form = dataforms.new(fields);
		return asked(form), function(next_visit)
			local values, problems = form:data(next_visit.form or st.stanza("x"));
			local _, problem = next(problems or {});
			if problem then
				return { status = "completed", error = { message = "Something is missing: " .. problem } };
			end
			return act(next_visit, values);
		end;
	end
end

-- Set up, or change to another app

local function recovery_codes_of(codes)
	return told({
		title = "Your recovery codes";
		instructions = "Each opens your account once when the app is lost. They are not shown again.";
		{ name = "recovery_codes", type = "text-multi", label = "Recovery codes" };
	}, { recovery_codes = table.concat(codes, "\n") });
end

local function confirming(form)
	local confirm;
	function confirm(visit)
		local values = visit.form and form:data(visit.form) or {};
		local codes, condition = mfa.confirm_enrolment(visit.username, values.code or "");
		if codes then
			return recovery_codes_of(codes);
		elseif condition ~= "not-authorized" then
			return refused({ ["unexpected-request"] = "That took too long: begin again" }, condition);
		end
		local answer = asked(form);
		answer.error = { message = wrong_code[condition] };
		return answer, confirm;
	end
	return confirm;
end

add_command("Set up the second factor", "set-up", asking(function(visit)
	local fields = proof_fields(visit);
	fields.title = is_enrolled(visit) and "Change to another app" or "Set up the second factor";
	fields.instructions = "An app for one-time codes then guards your account.";
	return fields;
end, function(visit, values)
	local ok, answer = check_proof(visit, values);
	if not ok then
		return answer;
	end
	local enrolment, condition = mfa.begin_enrolment(visit.username);
	if not enrolment then
		return refused({ forbidden = "The second factor is off here" }, condition);
	end
	local form = dataforms.new {
		title = "Add the account to your app";
		instructions = "Give your app this key, or open the link with it. Then enter the code that it shows.";
		{ name = "secret", type = "text-single", label = "Key", value = enrolment.secret };
		{ name = "uri", type = "text-single", label = "Link", value = enrolment.uri };
		{ name = "code", type = "text-single", label = "Code", required = true };
	};
	return asked(form), confirming(form);
end));

-- Devices

local function no_factor()
	return { status = "completed", error = { message = "There is no second factor: set it up first" } };
end

local function devices_as_options(visit)
	local devices = mfa.devices(visit.username);
	local options = {};
	for _, device in ipairs(devices or {}) do
		table.insert(options, { label = device.name, value = device.id });
	end
	return devices and options;
end

add_command("Add a device", "add-device", asking(function(visit)
	if not is_enrolled(visit) then
		return nil, no_factor();
	end
	local name = { name = "name", type = "text-single", label = "Name of the device", required = true };
	local fields = proof_fields(visit, name);
	fields.title = "Add a device";
	return fields;
end, function(visit, values)
	local ok, answer = check_proof(visit, values);
	if not ok then
		return answer;
	end
	local device, condition = mfa.add_device(visit.username, values.name);
	if not device then
		return refused(wrong_device, condition);
	end
	return told({
		title = "The password of this device";
		instructions = "Log in on the device with it. It is not shown again.";
		{ name = "address", type = "text-single", label = "Address" };
		{ name = "password", type = "text-single", label = "Password" };
	}, { address = visit.username .. "@" .. module.host, password = device.password });
end));

local function day_of(time)
	return time and os.date("!%Y-%m-%d", time) or "never";
end

add_command("List the devices", "devices", function(visit)
	local devices, condition = mfa.devices(visit.username);
	if not devices then
		return condition == "forbidden" and no_factor() or refused({}, condition);
	end
	local form = { title = "Devices" };
	for _, device in ipairs(devices) do
		table.insert(form, {
			name = device.id, type = "text-single", label = device.name;
			value = ("added %s, last used %s"):format(day_of(device.created),
				device.online and "now" or day_of(device.last_used));
		});
	end
	return told(form);
end);

local function device_field(options)
	return { name = "device", type = "list-single", label = "Device", options = options, required = true };
end

add_command("Rename a device", "rename-device", asking(function(visit)
	local options = devices_as_options(visit);
	if not options then
		return nil, no_factor();
	end
	return {
		title = "Rename a device";
		device_field(options);
		{ name = "name", type = "text-single", label = "New name", required = true };
	};
end, function(visit, values)
	local ok, condition = mfa.rename_device(visit.username, values.device, values.name);
	return ok and { status = "completed", info = "Done" } or refused(wrong_device, condition);
end));

add_command("Revoke a device", "revoke-device", asking(function(visit)
	local options = devices_as_options(visit);
	if not options then
		return nil, no_factor();
	end
	local fields = proof_fields(visit, device_field(options));
	fields.title = "Revoke a device";
	fields.instructions = "Its password opens nothing any more, and it is logged out.";
	return fields;
end, function(visit, values)
	local ok, answer = check_proof(visit, values);
	if not ok then
		return answer;
	end
	local condition;
	ok, condition = mfa.revoke_device(visit.username, values.device);
	return ok and { status = "completed", info = "It is revoked" } or refused(wrong_device, condition);
end));
