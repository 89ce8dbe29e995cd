-- Keeps a crowd from making everybody else wait.
--
-- Prosody serves each connection that has something to say, up to 4 KiB of it, before it looks again who else has.
-- Twenty clients that never stop talking make everybody wait for a tenth of a second, two hundred strangers who guess
-- passwords for two. Here a connection is served at once as long as its account, or the server at its other end, stays
-- within an allowance of processor time. Those that do not, and whoever has not logged in, stand in a queue: one turn
-- for each network, then the next; of the accounts, whoever has used least comes first. While somebody waits,
-- newcomers are let in by turns as well. A turn ends with the stanza that uses it up, then everybody else is served
-- and answered, before the next. A queue has a share of the processor: after a burst of work it rests. When so many
-- keep to their allowances that they would fill the processor together, only who has hardly used it is served at
-- once. Nothing is refused and nothing lost: what a connection has to say waits for its next turn, also of who has
-- hung up meanwhile, and is not acknowledged before (XEP-0198). Without a crowd a turn comes when Prosody's loop has
-- looked around once.
--
-- What is read goes to the parser in pieces that end with a tag. Expat (since 2.6) lets the rest of a tag wait until
-- there is as much again as it had of it, so a piece that ends within one might never be looked at.
--
-- Options (global):
--   fair_turns_strangers_share  number, default 0.5: of the processor's time, for the queue before login
--   fair_turns_members_share    number, default 0.25: of the processor's time, for the queue after login
--   fair_turns_strangers_burst  number, default 0.005: seconds of work above that share, after which this queue rests
--   fair_turns_members_burst    number, default 0.02: the same for the other; the longer, the less a message costs
--   fair_turns_allowance        number, default 0.005: of the processor's time, for an account or a server
--   fair_turns_reserve          number, default 0.003: seconds of work for it before it queues
-- Events: none. It wraps how net.server_epoll accepts, reads and shakes hands, for there is no event before TLS.
-- Source: XEP-0205 section 3, CWE-400, CWE-770.

module:set_global();

local heap = require "prosody.util.indexedbheap";
local ip = require "prosody.util.ip";
local now = require "prosody.util.time".monotonic;
local processor_time = os.clock; -- what the kernel gives to others meanwhile is nobody's work
local server = require "prosody.net.server";
local socket = require "socket";
local timer = require "prosody.util.timer";

local strangers_share = module:get_option_number("fair_turns_strangers_share", 0.5, 0.01, 1);
local members_share = module:get_option_number("fair_turns_members_share", 0.25, 0.01, 1);
local strangers_burst = module:get_option_number("fair_turns_strangers_burst", 0.005, 0.0001);
local members_burst = module:get_option_number("fair_turns_members_burst", 0.02, 0.0001);
local allowance = module:get_option_number("fair_turns_allowance", 0.005, 0.0001, 1);
local reserve = module:get_option_number("fair_turns_reserve", 0.003, 0.0001);

local turn_length = 0.0002; -- seconds: a message that is archived takes more, a read that completes no stanza less
local little_work = 0.0001; -- seconds: a turn that takes less has the next one with it
local most_debt = 0.001; -- seconds of work, which an account waits for before it is served at once again
local timers_delay = 0.02; -- seconds: what Prosody's timers may be late by because of turns
local rush_share, rush_reserve = 0.5, 0.003; -- for all who keep to their allowances: of the processor, and seconds
local hardly_used = 0.9; -- of a reserve is left
local smallest_piece = 128; -- octets, for the parser
local read_retry_delay = 1e-06; -- seconds, after which net.server_epoll reads on in what OpenSSL has at hand

local clients = module:shared("/*/c2s/sessions");
local servers = module:shared("/*/s2s/sessions");

assert(server.get_backend() == "epoll", "mod_fair_turns knows net.server_epoll only");
local nothing = { getfd = function() return -1; end };
local interface = getmetatable(server.wrapserver(nothing, "fair_turns", 0, {})).__index;
local accept, read, shake_hands = interface.onacceptable, interface.onreadable, interface.tlshandshake;
local hand_on = interface.onincoming;

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

-- How much an account has used, to compare: as all get back the same while they wait, the order of two stays as it is.
local function used_by(who)
	local budget = budget_of(who);
	return budget.at * budget.rate - budget.left;
end

-- `lines`: the turns of each account or network. `order`: whose line is next. `rest`: the timer that ends its rest.
local function new_queue(budget)
	return { budget = budget, lines = {}, order = heap.create(), arrivals = 0 };
end

local strangers = new_queue(new_budget(strangers_share, strangers_burst));
local members = new_queue(new_budget(members_share, members_burst));
local newcomers = new_queue(strangers.budget); -- of listening sockets, which let one in at a time
local queues = { strangers, members, newcomers }; -- whose turn it was last is the last
local at_once = new_budget(rush_share, rush_reserve);
local turns = setmetatable({}, { __mode = "k" }); -- of each connection in a queue
local rests = setmetatable({}, { __mode = "k" }); -- of each connection, what was read and not handed on yet
local places = setmetatable({}, { __mode = "k" }); -- of each connection, where in the XML its rest begins; see cut
local attended = 0; -- how often somebody was served at once
local serving, serving_who, turn_began; -- the connection whose turn it is, its account, and since when

-- Gives a line its place: that of a network is the last, that of an account goes by what it has used.
local function line_up(queue, name, who)
	queue.arrivals = queue.arrivals + 1;
	queue.order:insert(name, who and used_by(who) or queue.arrivals);
end

-- Where a piece of XML ends: with the first tag that ends after so many octets, or with the data. The place is nil in
-- text, "tag" in a tag, and a quotation mark in the value of an attribute.
local function cut(data, least, place)
	local at = 1;
	while true do
		local found;
		if not place then
			found = data:find("<", at, true);
			place = found and "tag";
		elseif place == "tag" then
			found = data:find("[\"'>]", at);
			local mark = found and data:sub(found, found);
			if mark == ">" then
				place = nil;
				if found >= least then return found; end
			elseif mark then
				place = mark;
			end
		else
			found = data:find(place, at, true);
			place = found and "tag" or place;
		end
		if not found then return #data, place; end
		at = found + 1;
	end
end

local function is_over()
	return processor_time() - turn_began > turn_length;
end

-- Hands on what was read from the connection whose turn it is, until the turn is over.
local function hand_on_pieces(conn, data)
	local at = 1;
	repeat
		local rest = data:sub(at);
		local stop, place = cut(rest, smallest_piece, places[conn]);
		places[conn] = place;
		hand_on(conn, rest:sub(1, stop));
		at = at + stop;
	until at > #data or is_over() or not conn.conn
	rests[conn] = at <= #data and conn.conn and data:sub(at) or nil;
end

-- What a connection does whose turn has come while something of what it said is left.
local function go_on(conn)
	local data = rests[conn];
	rests[conn] = nil;
	hand_on_pieces(conn, data);
	if not rests[conn] and conn.conn and conn._wantread and conn.conn:dirty() then
		conn:pausefor(read_retry_delay);
	end
end

local join;

-- Does the work of a connection for a turn, and returns the seconds of processor time that it took.
local function work(conn, what, who)
	serving, serving_who, turn_began = conn, who, processor_time();
	local ok, problem = xpcall(what, debug.traceback, conn);
	local cost = processor_time() - turn_began;
	serving, serving_who = nil, nil;
	if not ok then
		conn:error("Closing due to an error in its turn: %s", problem);
		conn:destroy();
	end
	if who then
		local budget = budget_of(who);
		budget.left = math.max(left_of(budget) - cost, -most_debt);
	end
	if rests[conn] then
		join(members, { conn = conn, what = go_on, who = who });
	end
	return cost;
end

local function is_being_closed(conn)
	return conn.onreadable == interface.close or conn.ondrain == interface.close;
end

local function take(turn)
	local conn = turn.conn;
	turns[conn] = nil;
	if turn.hung_up and conn.conn then
		local unsent = conn.writebuffer and #conn.writebuffer > 0; -- perhaps since it hung up
		conn:add(turn.reads, turn.writes or unsent);
	end
	if not conn.conn or is_being_closed(conn) then
		return 0;
	end
	if not turn.hung_up then
		conn:set(turn.reads or nil, turn.writes or nil); -- whoever had stopped it may let it go on meanwhile
	end
	return work(conn, turn.what, turn.who);
end

-- A socket that can always be written to, and nothing ever is: while it is open, the loop comes to it once a round. A
-- timer would put the process to sleep between any two turns, and what follows a sleep takes half as long again.
local turnstile;

local function has_lines(queue)
	return next(queue.lines) ~= nil;
end

local function is_up(queue)
	return has_lines(queue) and not queue.rest;
end

local function is_any(what)
	for _, queue in ipairs(queues) do
		if what(queue) then return true; end
	end
	return false;
end

-- Prosody's loop comes to its timers when nothing else is to be done, and with an open turnstile something always is.
-- So there is a timer to tell whether they are late; as long as they are, nobody has a turn.
local tick, tick_due;

local function set_turnstile()
	local is_open = is_any(is_up);
	if is_open and not tick then
		tick_due = now() + timers_delay;
		tick = timer.add_task(timers_delay, function()
			tick = nil;
			set_turnstile();
		end);
	end
	turnstile:set(nil, is_open and now() < tick_due);
end

-- Serves the next of a queue for a turn, and more while that is little work. A queue whose budget is used up rests
-- until it is full again.
local function serve(queue)
	local spent = 0;
	while spent < little_work and has_lines(queue) do
		local _, name = queue.order:pop();
		local line = queue.lines[name];
		local turn = table.remove(line, 1);
		spent = spent + take(turn);
		if line[1] then
			line_up(queue, name, turn.who);
		else
			queue.lines[name] = nil;
		end
	end
	local budget = queue.budget;
	budget.left = left_of(budget) - spent;
	if budget.left <= 0 then
		queue.rest = timer.add_task((budget.most - budget.left) / budget.rate, function()
			queue.rest = nil;
			set_turnstile();
		end);
	end
end

local attended_before, looked_around = 0, 0; -- as of the turnstile; how often since the last turn

-- Between two turns the loop comes to whoever had something to say during the first, and then writes the answers.
local function give_turn()
	local is_to_answer = attended ~= attended_before;
	attended_before = attended;
	if looked_around == 0 or is_to_answer and looked_around == 1 then
		looked_around = looked_around + 1;
		return;
	end
	looked_around = 0;
	for at, queue in ipairs(queues) do
		if is_up(queue) then
			table.insert(queues, table.remove(queues, at));
			serve(queue);
			break;
		end
	end
	set_turnstile();
end

turnstile = server.watchfd(socket.udp4(), nil, give_turn);
set_turnstile();

function join(queue, turn)
	local conn = turn.conn;
	local name = turn.who or network_of(conn);
	if not queue.lines[name] then
		queue.lines[name] = {};
		line_up(queue, name, turn.who);
	end
	table.insert(queue.lines[name], turn);
	turns[conn] = turn;
	turn.reads = conn._wantread;
	if turn.what == shake_hands then -- it reads and writes alike
		turn.writes = conn._wantwrite;
		conn:set(false, false);
	else
		conn:set(false);
	end
	set_turnstile();
end

local function need_not_wait(who)
	if not who then return false; end
	local left = left_of(budget_of(who));
	return left > 0 and (left_of(at_once) > 0 or left >= reserve * hardly_used);
end

-- Lets a connection do `what` it can, at once or in its turn.
local function admit(conn, what)
	if serving or not conn._server or (conn.sockport or 0) == 0 then -- ours, or of the operator's shell
		return what(conn);
	elseif is_being_closed(conn) then -- and it hung up, which the poller reports until all is read that it had said
		return what(conn);
	elseif turns[conn] and conn._wantread then -- a pause of somebody else's has ended
		turns[conn].reads = true;
		conn:set(false);
		return;
	elseif turns[conn] then -- it hung up, which the poller would report without end, whether it is asked or not
		local turn = turns[conn];
		turn.hung_up, turn.writes = true, turn.writes or conn._wantwrite;
		conn:del();
		return;
	end
	local who = who_is(conn);
	if need_not_wait(who) then
		attended = attended + 1;
		at_once.left = left_of(at_once) - work(conn, what, who);
		return;
	end
	join(who and members or strangers, { conn = conn, what = what, who = who });
end

function interface.onreadable(conn)
	return admit(conn, read);
end

function interface.tlshandshake(conn)
	return admit(conn, shake_hands);
end

local function let_in(listener)
	serving = nil; -- what a newcomer has to say is for a turn of its own
	local ok, problem = xpcall(accept, debug.traceback, listener);
	if not ok then
		listener:error("Nobody is let in due to an error: %s", problem);
	end
end

-- Lets somebody in at once, or in a turn while others wait for theirs.
function interface.onacceptable(listener)
	if (listener.sockport or 0) == 0 or not is_any(has_lines) then
		return accept(listener);
	end
	join(newcomers, { conn = listener, what = let_in });
end

function interface.onincoming(conn, data, problem)
	if conn == serving and serving_who and (not problem or problem == "timeout") then
		return hand_on_pieces(conn, data);
	end
	return hand_on(conn, data, problem); -- of who has hung up all at once
end

-- A session that is resumed (XEP-0198) goes on with the parser of its new connection. Prosody 13.0.1 would go on with
-- that of the old one: where this was cut within a stanza, and turns end within some, it takes all that follows for a
-- part of it, and nothing is ever handled or acknowledged again.
module:hook("c2s-session-updated", function(event)
	local session = event.session;
	function session.data(data)
		data = data and session.filter("bytes/in", data);
		if not data then return; end
		local ok, problem = session.stream:feed(data);
		if ok then return; end
		if problem == "stanza-too-large" then
			session:close({ condition = "policy-violation", text = "XML stanza is too big" });
		else
			session:close("not-well-formed");
		end
	end
end);

function module.unload()
	interface.onacceptable, interface.onreadable, interface.tlshandshake = accept, read, shake_hands;
	interface.onincoming = hand_on;
	turn_length = math.huge;
	for _, queue in ipairs(queues) do
		if queue.rest then
			timer.stop(queue.rest);
		end
	end
	if tick then
		timer.stop(tick);
	end
	turnstile:close();
	for _, turn in pairs(turns) do
		take(turn);
	end
	for _, queue in ipairs(queues) do
		queue.lines = {}; -- Prosody's listening sockets keep what they were made with, and find that nobody waits
	end
end
