-- Keeps a crowd from making everybody else wait.
--
-- Prosody serves each connection that has something to say, up to 4 KiB of it, before it looks again who else has.
-- Twenty clients that never stop talking make everybody wait for a tenth of a second, two hundred strangers who guess
-- passwords for two. Here a connection is served at once as long as its account, or the server at its other end,
-- stays within an allowance of processor time. Those that do not, and whoever has not logged in, stand in a queue:
-- one turn for each account or network, then the next. A queue has a share of the processor, and a slice of time
-- after which everybody else is served; who has logged in is read from the less at once, the more that costs. Nothing
-- is refused and nothing lost: TCP makes the crowd wait. Without a crowd nobody does.
--
-- Options (global):
--   fair_turns_strangers_share  number, default 0.5: of the processor's time, for the queue before login
--   fair_turns_members_share    number, default 0.1: of the processor's time, for the queue after login
--   fair_turns_slice            number, default 0.001: seconds after which everybody else is served
--   fair_turns_burst            number, default 0.02: seconds of work for all strangers before they queue
--   fair_turns_allowance        number, default 0.01: of the processor's time, for an account or a server
--   fair_turns_reserve          number, default 0.01: seconds of work for it before it queues
-- Events: none. It wraps how net.server_epoll reads and shakes hands; nothing else sees a connection before its TLS.
-- Source: XEP-0205 section 3, CWE-400, CWE-770.

module:set_global();

local ip = require "prosody.util.ip";
local now = require "prosody.util.time".monotonic;
local server = require "prosody.net.server";
local timer = require "prosody.util.timer";

local strangers_share = module:get_option_number("fair_turns_strangers_share", 0.5, 0.01, 1);
local members_share = module:get_option_number("fair_turns_members_share", 0.1, 0.01, 1);
local slice = module:get_option_number("fair_turns_slice", 0.001, 0.0001);
local burst = module:get_option_number("fair_turns_burst", 0.02, 0);
local allowance = module:get_option_number("fair_turns_allowance", 0.01, 0.0001, 1);
local reserve = module:get_option_number("fair_turns_reserve", 0.01, 0.0001);

local shortest_wait = 0.001; -- seconds, of net.server_epoll's timers
local smallest_read, largest_read = 128, 4096; -- octets

local clients = module:shared("/*/c2s/sessions");
local servers = module:shared("/*/s2s/sessions");

assert(server.get_backend() == "epoll", "mod_fair_turns knows net.server_epoll only");
local nothing = { getfd = function() return -1; end };
local interface = getmetatable(server.wrapserver(nothing, "fair_turns", 0, {})).__index;
local read, shake_hands = interface.onreadable, interface.tlshandshake;

-- Seconds of work that may be done; `rate` of each second comes back.
local function new_budget(rate, most)
	return { rate = rate, most = most, left = most, at = now() };
end

local function left_of(budget)
	local time = now();
	budget.left = math.min(budget.most, budget.left + (time - budget.at) * budget.rate);
	budget.at = time;
	return budget.left;
end

local budgets = setmetatable({}, { __mode = "k" }); -- of those who have logged in

local function budget_of(who)
	budgets[who] = budgets[who] or new_budget(allowance, reserve);
	return budgets[who];
end

-- Who has logged in: what the user's sessions have in common, or the session of a server. Nil for a stranger.
local function who_is(conn)
	local session = clients[conn] or servers[conn];
	local kind = session and session.type;
	if kind == "c2s" then
		return prosody.hosts[session.host].sessions[session.username] or session;
	elseif kind == "c2s_unbound" or kind == "s2sin" then
		return session;
	end
end

-- The network of a stranger; behind the web front, which limits networks itself, the connection.
local function network_of(conn)
	local address = ip.new_ip(((conn:ip() or ""):gsub("^::ffff:(%d+%.)", "%1"))); -- RFC 4291 section 2.5.5.2
	if not address or address.normal == "127.0.0.1" then
		return conn;
	end
	return address.proto == "IPv6" and ip.truncate(address, 64).normal or address.normal;
end

-- `lines`: the turns of each account or network. `order`: whose turn it is.
local function new_queue(budget)
	return { budget = budget, lines = {}, order = {}, first = 1, last = 0 };
end

local strangers = new_queue(new_budget(strangers_share, burst));
local members = new_queue(new_budget(members_share, slice));
local turns = setmetatable({}, { __mode = "k" }); -- of each connection in a queue
local serving; -- a turn is being taken

local function append(queue, name)
	queue.last = queue.last + 1;
	queue.order[queue.last] = name;
end

local function next_turn(queue)
	local name = queue.order[queue.first];
	if not name then return; end
	queue.order[queue.first] = nil;
	queue.first = queue.first + 1;
	local turn = table.remove(queue.lines[name], 1);
	if queue.lines[name][1] then
		append(queue, name);
	else
		queue.lines[name] = nil;
	end
	return turn;
end

local fitted = setmetatable({}, { __mode = "k" }); -- connections whose reads have been made small

-- How much is read at once follows from what it cost before.
local function fit(conn, cost)
	local size = conn.read_size;
	if cost > slice and size > smallest_read then
		conn:set_mode(size // 2);
	elseif cost < slice / 4 and size < largest_read then
		conn:set_mode(size * 2);
	end
end

-- Does the work of a connection, and returns the seconds that it took.
local function work(conn, what, who)
	if who and not fitted[conn] then
		fitted[conn] = true;
		conn:set_mode(smallest_read);
	end
	local began = now();
	serving = true;
	local ok, problem = xpcall(what, debug.traceback, conn);
	serving = false;
	if not ok then
		conn:error("Closing due to an error in its turn: %s", problem);
		conn:destroy();
	end
	local cost = now() - began;
	if who then
		local budget = budget_of(who);
		budget.left = math.max(left_of(budget) - cost, -reserve);
		fit(conn, cost);
	end
	return cost;
end

local function take(turn)
	local conn = turn.conn;
	if turns[conn] ~= turn then return 0; end -- it hung up
	turns[conn] = nil;
	if not conn.conn or conn.onreadable == interface.close or conn.ondrain == interface.close then
		return 0; -- it is closed, or being closed
	end
	conn:set(true, turn.writes);
	return work(conn, turn.what, turn.who);
end

local function wait(queue)
	return math.max(-left_of(queue.budget) / queue.budget.rate, shortest_wait);
end

local function serve(queue)
	local spent = 0;
	while spent < slice do
		local turn = next_turn(queue);
		if not turn then
			queue.task = nil;
			break;
		end
		spent = spent + take(turn);
	end
	queue.budget.left = left_of(queue.budget) - spent;
	return queue.task and wait(queue);
end

local function join(queue, turn)
	local name = turn.who or network_of(turn.conn);
	if not queue.lines[name] then
		queue.lines[name] = {};
		append(queue, name);
	end
	table.insert(queue.lines[name], turn);
	turns[turn.conn] = turn;
	queue.task = queue.task or timer.add_task(wait(queue), function() return serve(queue); end);
end

-- Lets a connection do `what` it can, at once or in its turn.
local function admit(conn, what, shaking_hands)
	if serving or not conn._server or (conn.sockport or 0) == 0 then -- ours, or of the operator's shell
		return what(conn);
	elseif turns[conn] then -- a poller reports those who hang up whether it is asked or not
		return take(turns[conn]);
	end
	local who = who_is(conn);
	local budget = who and budget_of(who) or strangers.budget;
	if left_of(budget) > 0 and (who or not strangers.task) then
		local cost = work(conn, what, who);
		if not who then
			budget.left = budget.left - cost;
		end
		return;
	end
	local turn = { conn = conn, what = what, who = who };
	if shaking_hands then -- reads and writes alike
		turn.writes = conn._wantwrite;
		conn:set(false, false);
	else
		conn:set(false);
	end
	join(who and members or strangers, turn);
end

function interface.onreadable(conn)
	return admit(conn, read);
end

function interface.tlshandshake(conn)
	return admit(conn, shake_hands, true);
end

function module.unload()
	interface.onreadable, interface.tlshandshake = read, shake_hands;
	for _, queue in pairs { strangers, members } do
		if queue.task then
			timer.stop(queue.task);
		end
	end
	for _, turn in pairs(turns) do
		take(turn);
	end
end
