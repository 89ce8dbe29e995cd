-- What an administrator can do about an account that misbehaves, in `prosodyctl shell`:
--
--   account status JID      whether it is suspended, and how many sessions it has
--   account suspend JID     nobody logs in to it any more, and its sessions end; nothing of it is lost
--   account resume JID      it may log in again
--   account disconnect JID  its sessions end; its clients may come back
--   account purge JID       what it sent is taken out of the archives of this server's rooms and people, and its
--                           uploads are deleted. What others have seen or fetched, or other servers keep, is out of
--                           reach
--
-- What changes something takes --actor=NAME, which goes into the log beside the event.
--
-- Items: shell-command. Events: none.
-- Stores: archive of virtual hosts and muc_log of rooms, of which what the account sent is deleted; uploads is read.
-- Source: XEP-0313, XEP-0421, XEP-0363.

local storagemanager = require "prosody.core.storagemanager";
local usermanager = require "prosody.core.usermanager";
local encodings = require "prosody.util.encodings";
local hashes = require "prosody.util.hashes";
local jid = require "prosody.util.jid";

local function sessions_of(username)
	local user = prosody.hosts[module.host].sessions[username];
	return user and user.sessions or {};
end

local function end_sessions(username, text)
	local number = 0;
	for _, session in pairs(sessions_of(username)) do
		session:close({ condition = "policy-violation", text = text });
		number = number + 1;
	end
	return number;
end

-- Deletes the items of an archive that match(item) picks, and returns how many. Raises what the storage says.
local function delete_from(archive, user, query, match)
	local keys = {};
	for key, item in assert(archive:find(user, query)) do
		if match(item) then table.insert(keys, key); end
	end
	for first = 1, #keys, 500 do -- SQLite takes so many values in a statement
		assert(archive:delete(user, { ids = table.move(keys, first, math.min(first + 499, #keys), 1, {}) }));
	end
	return #keys;
end

local function purge_people(host, address)
	local archive, number = storagemanager.open(host, "archive", "archive"), 0;
	for username in usermanager.users(host) do
		if jid.join(username, host) ~= address then
			number = number + delete_from(archive, username, { with = address }, function(message)
				return jid.bare(message.attr.from) == address;
			end);
		end
	end
	return number;
end

local function purge_rooms(host, address)
	local archive, number = storagemanager.open(host, "muc_log", "archive"), 0;
	for room in prosody.hosts[host].modules.muc.all_rooms() do
		local salt = room._data.occupant_id_salt; -- as Prosody makes the id that no occupant can forge
		local id = salt and encodings.base64.encode(hashes.hmac_sha256(address, salt));
		if id then
			number = number + delete_from(archive, jid.node(room.jid), nil, function(stanza)
				local occupant = stanza:get_child("occupant-id", "urn:xmpp:occupant-id:0");
				return occupant and occupant.attr.id == id;
			end);
		end
	end
	return number;
end

-- The entries stay until they expire, for Prosody counts by them what the quotas have left.
local function purge_uploads(host, address)
	local number = 0;
	for slot in assert(storagemanager.open(host, "uploads", "archive"):find(nil, { with = address })) do
		if os.remove(storagemanager.olddm.getpath(slot, host, "http_file_share", "bin")) then
			number = number + 1;
		end
	end
	return number;
end

local purgers = { muc = purge_rooms, http_file_share = purge_uploads };

local function purge(username)
	local address, numbers = jid.join(username, module.host), { archive = 0, muc = 0, http_file_share = 0 };
	for host, service in pairs(prosody.hosts) do
		if service.type == "local" then
			numbers.archive = numbers.archive + purge_people(host, address);
		end
		for name, run in pairs(purgers) do
			if service.modules and service.modules[name] then
				numbers[name] = numbers[name] + run(host, address);
			end
		end
	end
	return ("Gone are %d messages to people, %d in rooms, %d uploads"):format(
		numbers.archive, numbers.muc, numbers.http_file_share);
end

-- Adds a command on an account, which must exist. run(username, print) returns a message; or nil and a reason.
local function add_command(name, desc, run)
	module:add_item("shell-command", {
		section = "account", section_desc = "Act on an account that misbehaves", name = name, desc = desc;
		args = { { name = "jid", type = "string" } }, host_selector = "jid", flags = { value_params = { actor = true } };
		handler = function(self, address, options)
			local username = jid.prepped_split(address);
			if not username or not usermanager.user_exists(username, module.host) then
				return nil, "There is no account " .. address;
			end
			local message, problem = run(username, self.session.print);
			if message and name ~= "status" then
				module:log("warn", "account %s: %s@%s by %s: %s", name, username, module.host,
					options and options.actor or "shell", message);
			end
			return message and true, message or problem;
		end;
	});
end

add_command("status", "Show whether an account is suspended", function(username, print)
	local suspended = not usermanager.user_is_enabled(username, module.host);
	local number = 0;
	for _ in pairs(sessions_of(username)) do number = number + 1; end
	print("suspended: " .. (suspended and "yes" or "no"));
	print("sessions: " .. number);
	return suspended and "It is suspended" or "It may log in";
end);

add_command("suspend", "Let nobody log in to an account, and end its sessions", function(username)
	local ok, problem = usermanager.disable_user(username, module.host);
	if not ok then
		return nil, problem;
	end
	end_sessions(username, "The account is suspended.");
	return "It is suspended";
end);

add_command("resume", "Let a suspended account log in again", function(username)
	local ok, problem = usermanager.enable_user(username, module.host);
	return ok and "It may log in", problem;
end);

add_command("disconnect", "End the sessions of an account", function(username)
	return ("Ended are %d sessions"):format(end_sessions(username, "An administrator has ended the session."));
end);

add_command("purge", "Delete what an account has sent, as far as this server keeps it", function(username)
	local ok, message = pcall(purge, username);
	return ok and message or nil, message;
end);
