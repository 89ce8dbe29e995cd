-- What an operator can do about the second factor of accounts, in `prosodyctl shell`:
--
--   mfa status JID       what the account has
--   mfa devices JID      its devices
--   mfa require JID      the account must enrol, within the time to do so
--   mfa waive JID        it need not, as far as it alone is concerned
--   mfa reset JID        break-glass: takes the second factor and all devices off an account whose owner has lost it
--   mfa enrolled HOST    the accounts that have a second factor
--   mfa missing HOST     the accounts that have none
--   mfa reseal HOST      seals anew what an older master key has sealed
--
-- What changes something takes --actor=NAME, which goes into the log beside the event.
--
-- Items: shell-command.

local jid = require "prosody.util.jid";
local usermanager = require "prosody.core.usermanager";

local mfa = module:depends("mfa");

local section_desc = "Look after the second factor of accounts";
local with_actor = { value_params = { actor = true } };

local function day_of(time)
	return time and os.date("%Y-%m-%d %H:%M", time) or "never";
end

local function yes_or_no(value)
	return value and "yes" or "no";
end

-- Adds a command on an account, which must exist. run(print, username, actor) returns a message; or nil and a reason.
local function add_account_command(name, desc, flags, run)
	module:add_item("shell-command", {
		section = "mfa", section_desc = section_desc, name = name, desc = desc;
		args = { { name = "jid", type = "string" } }, host_selector = "jid", flags = flags;
		handler = function(self, address, options)
			local username = jid.prepped_split(address);
			if not username or not usermanager.user_exists(username, module.host) then
				return nil, "There is no account " .. address;
			end
			local message, problem, detail = run(self.session.print, username, options and options.actor or "shell");
			if not message then
				return nil, detail and ("%s: %s"):format(problem, detail) or problem;
			end
			return true, message;
		end;
	});
end

local function add_host_command(name, desc, run)
	module:add_item("shell-command", {
		section = "mfa", section_desc = section_desc, name = name, desc = desc;
		args = { { name = "host", type = "string" } }, host_selector = "host";
		handler = function(self)
			return run(self.session.print);
		end;
	});
end

add_account_command("status", "Show what an account has of a second factor", nil, function(print, username)
	local status, condition, detail = mfa.status(username);
	if not status then
		return nil, condition, detail;
	end
	print("enrolled: " .. yes_or_no(status.enrolled));
	print("required: " .. yes_or_no(status.required));
	print("required of this account: " .. yes_or_no((mfa.read_account(username).mfa or {}).required));
	print("may chat: " .. yes_or_no(status.may_chat));
	if status.enrolled then
		print("devices: " .. status.devices);
		print("recovery codes left: " .. status.recovery_left);
		print("locked until: " .. day_of(status.locked_until));
	elseif status.required then
		print("must enrol by: " .. day_of(status.deadline));
	end
	return status.enrolled and "It has a second factor" or "It has no second factor";
end);

add_account_command("devices", "List the devices of an account", nil, function(print, username)
	local devices, condition, detail = mfa.devices(username);
	if not devices then
		return nil, condition, detail;
	end
	for _, device in ipairs(devices) do
		print(("%s  %s, added %s, last used %s%s%s"):format(device.id, device.name, day_of(device.created),
			device.online and "now" or day_of(device.last_used),
			device.last_address and " from " .. device.last_address or "",
			device.expires and ", ends " .. day_of(device.expires) or ""));
	end
	return ("In all: %d"):format(#devices);
end);

add_account_command("require", "Let an account have to enrol", with_actor, function(_, username, actor)
	local ok, condition, detail = mfa.set_required(username, true, actor);
	if not ok then
		return nil, condition, detail;
	end
	local status = mfa.status(username);
	local deadline = status and status.deadline;
	return deadline and "It must enrol by " .. day_of(deadline) or "It must keep its second factor";
end);

add_account_command("waive", "Let an account not have to enrol", with_actor, function(_, username, actor)
	local ok, condition, detail = mfa.set_required(username, false, actor);
	if not ok then
		return nil, condition, detail;
	end
	local status = mfa.status(username);
	return status and status.required and "The policy of the host still asks for it" or "It need not enrol";
end);

add_account_command("reset", "Take a lost second factor, and all devices, off an account", with_actor,
	function(_, username, actor)
		local ok, condition, detail = mfa.reset(username, actor);
		return ok and "The second factor is gone: the password alone opens the account page", condition, detail;
	end);

-- The names of accounts whose record says that they are enrolled, damaged ones among them.
local function enrolled()
	local is_without = {};
	for _, username in ipairs(mfa.without_factor()) do
		is_without[username] = true;
	end
	local list = {};
	for username in usermanager.users(module.host) do
		local status = mfa.status(username);
		if not is_without[username] and (not status or status.enrolled) then
			table.insert(list, username);
		end
	end
	table.sort(list);
	return list;
end

local function print_addresses(print, usernames)
	for _, username in ipairs(usernames) do
		print(username .. "@" .. module.host);
	end
	return true, ("In all: %d"):format(#usernames);
end

add_host_command("enrolled", "List the accounts that have a second factor", function(print)
	return print_addresses(print, enrolled());
end);

add_host_command("missing", "List the accounts that have no second factor", function(print)
	return print_addresses(print, mfa.without_factor());
end);

add_host_command("reseal", "Seal anew what an older master key has sealed", function(print)
	local damaged = mfa.reseal();
	if #damaged > 0 then
		print_addresses(print, damaged);
		return nil, "No key opens the records of these accounts: restore or reset them, then try again";
	end
	return true, "All is sealed under the master key";
end);
