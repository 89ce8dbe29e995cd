os.clock = function() return clock; end -- luacheck: ignore 122/os

local served; -- names of connections, in the order in which they were read
local handed_on; -- what reached the parser, piece by piece

-- Each read, and each piece of what is read, takes `cost` seconds; a connection has as much to say as anybody wants.
local function load_turns(options)
	served, handed_on = {}, {};
	function interface.onreadable(conn)
		table.insert(served, conn.name);
		clock = clock + conn.cost;
		local says = conn.says;
		conn.says = nil;
		if says then conn:onincoming(says, conn.problem); end
	end
	function interface.onincoming(conn, data)
		table.insert(handed_on, data);
		clock = clock + conn.cost;
	end
	function interface.tlshandshake(conn) interface.onreadable(conn); end
	function interface.set(conn, reads)
		if reads == nil then reads = conn._wantread; end
		conn.reads, conn._wantread = reads, reads;
	end
	function interface.del(conn) conn.polled, conn._wantread, conn._wantwrite = false, nil, nil; end
	function interface.add(conn, reads, writes) conn.polled, conn._wantread, conn._wantwrite = true, reads, writes; end
	function interface.pausefor(conn, delay) conn.paused = delay; end
	function interface.close() error("nobody is to be closed"); end
	function interface.ip(conn) return conn.address; end
	function interface.error(_, format, problem) error(format:format(problem)); end
	function interface.destroy(conn) conn.conn = nil; end
	return load_module("fair_turns", options);
end

local function connect(name, fields)
	local socket = { dirty = function() return false; end };
	local conn = setmetatable({ name = name, conn = socket, _server = true, sockport = 5222 }, { __index = interface });
	conn.cost, conn.address = 0.0001, "192.0.2.1";
	for key, value in pairs(fields or {}) do conn[key] = value; end
	return conn;
end

local function log_in(conn, username)
	local user = prosody.hosts["xmpp.example"].sessions;
	user[username] = user[username] or {};
	local session = new_session { type = "c2s", host = "xmpp.example", username = username };
	shared["/*/c2s/sessions"][conn] = session;
	return conn;
end

-- Lets the loop go round, `count` times at most: to the turnstile while it is open, else to the end of the next rest.
-- How often there was something.
local function go_round(count)
	for i = 1, count do
		if watched.open then
			watched.run(); -- first the loop looks around
			watched.run();
		else
			table.sort(tasks, function(one, other) return one.at < other.at; end);
			local task = table.remove(tasks, 1);
			if not task then return i - 1; end
			clock = math.max(clock, task.at);
			task.run();
		end
	end
	return count;
end

local function count_of(name)
	local count = 0;
	for _, other in ipairs(served) do
		if other == name then count = count + 1; end
	end
	return count;
end

test("whoever keeps within the allowance is served at once", function()
	load_turns();
	local alice = log_in(connect("alice"), "alice");
	for _ = 1, 50 do
		alice:onreadable();
		clock = clock + 0.1;
	end
	expect(#served, 50);
	expect(go_round(1), 0);
end);

test("whoever does not waits, and nobody else", function()
	load_turns();
	local mallory, alice = log_in(connect("mallory"), "mallory"), log_in(connect("alice"), "alice");
	for _ = 1, 200 do
		mallory:onreadable();
		if mallory.reads == false then break; end
	end
	expect(count_of("mallory") <= 32, true); -- the reserve: 3 ms
	expect(mallory.reads, false);
	alice:onreadable();
	expect(served[#served], "alice");
end);

test("of many who begin at once each gets little, and who has done little is served first", function()
	load_turns();
	local crowd, alice = {}, log_in(connect("alice"), "alice");
	for i = 1, 50 do crowd[i] = log_in(connect("crowd", { _wantread = true }), "crowd" .. i); end
	for _ = 1, 5 do
		for _, conn in ipairs(crowd) do
			if conn.reads ~= false then conn:onreadable(); end
		end
	end
	expect(#served < 50 * 5, true); -- the reserves of all would be 30 each
	alice:onreadable();
	expect(served[#served], "alice");
	expect(go_round(1000) < 1000, true);
	for _, conn in ipairs(crowd) do expect(conn.reads ~= false, true); end
end);

test("sessions of one account share its allowance", function()
	load_turns();
	local one, two = log_in(connect("one"), "mallory"), log_in(connect("two"), "mallory");
	while one.reads ~= false do one:onreadable(); end
	two:onreadable();
	expect(two.reads, false);
end);

test("the queue keeps to its share of the processor", function()
	load_turns { fair_turns_members_share = 0.1 };
	local mallory = log_in(connect("mallory", { cost = 0.002 }), "mallory");
	while mallory.reads ~= false do mallory:onreadable(); end
	local began, before, rests = clock, count_of("mallory"), 0;
	while clock < began + 10 do
		local closed, at = not watched.open, clock;
		expect(go_round(1), 1);
		if closed and watched.open and clock > at then rests = rests + 1; end
		mallory:onreadable();
	end
	local worked = (count_of("mallory") - before) * 0.002;
	expect(worked > 0.9 and worked < 1.2, true);
	expect(rests <= 50, true); -- one after each burst of 20 ms, not one after each turn
end);

test("a queue that rests keeps the other from nothing", function()
	load_turns();
	local crowd = connect("crowd", { cost = 0.025 });
	crowd:onreadable();
	expect(go_round(1), 1);
	expect(watched.open, false);
	crowd:onreadable();
	expect(watched.open, false);
	local mallory = log_in(connect("mallory", { cost = 0.005 }), "mallory");
	for _ = 1, 3 do mallory:onreadable(); end
	expect(count_of("mallory"), 1);
	expect(go_round(2), 2);
	expect(count_of("mallory"), 2);
	expect(count_of("crowd"), 1);
end);

test("the queues take turns", function()
	load_turns();
	for i = 1, 3 do connect("stranger", { address = "192.0.2." .. i, cost = 0.001 }):onreadable(); end
	for i = 1, 3 do
		local member = log_in(connect("member", { cost = 0.004 }), "member" .. i);
		member:onreadable();
		member:onreadable();
	end
	served = {};
	expect(go_round(7) >= 6, true);
	expect(table.concat(served, " "), "stranger member stranger member stranger member");
end);

test("strangers queue by network, one turn each", function()
	load_turns();
	local crowd = {};
	for i = 1, 10 do
		crowd[i] = connect("crowd");
		crowd[i]:tlshandshake();
	end
	connect("guest", { address = "198.51.100.1" }):tlshandshake();
	expect(#served, 0);
	go_round(2);
	expect(served[1], "crowd");
	expect(served[2], "guest");
	go_round(20);
	expect(#served, 11);
end);

test("networks of IPv6 are those of /64", function()
	load_turns();
	connect("one", { address = "2001:0db8:0000:0001:0000:0000:0000:0001" }):onreadable();
	connect("two", { address = "2001:0db8:0000:0001:ffff:0000:0000:0002" }):onreadable();
	connect("other", { address = "2001:0db8:0000:0002:0000:0000:0000:0001" }):onreadable();
	go_round(3);
	expect(table.concat(served, " "), "one other two");
end);

local function message(text)
	return ("<message to='a' type='chat'><body>%s</body></message>"):format(text);
end

-- What is handed on of such data, at once and in the turns that follow.
local function pieces_of(says, cost)
	load_turns();
	local alice = log_in(connect("alice", { says = says, cost = cost }), "alice");
	alice:onreadable();
	local at_once = #handed_on;
	go_round(100);
	expect(table.concat(handed_on), says);
	return at_once;
end

test("a turn ends with a stanza that costs much, and the next begins with the rest", function()
	local one = message(("x"):rep(80));
	expect(pieces_of(one:rep(3), 0.001), 1);
	expect(#handed_on, 3);
	expect(handed_on[2], one);
end);

test("what costs little is handed on in one turn", function()
	expect(pieces_of(message(("x"):rep(80)):rep(3), 0), 3);
end);

test("a piece ends with a tag, and not within one", function()
	local long = ("x"):rep(200);
	for _, says in ipairs {
		message(long), message("1 > 2" .. long), ("<a b='%s>%s' c=\"'>\"/>"):format(long, long), long, "<iq", "";
	} do
		pieces_of(says .. message(long), 0.001);
		for i = 1, #handed_on - 1 do expect(handed_on[i]:match("<[^<]*>$") ~= nil, true); end
		expect(handed_on[#handed_on]:sub(-#"</message>"), "</message>");
	end
end);

test("a tag of which the first part came before ends the piece all the same", function()
	load_turns { fair_turns_reserve = 1 };
	local alice = log_in(connect("alice", { cost = 0 }), "alice");
	local says = ("<a b='%s>"):format(("x"):rep(150)) .. "' c='d'/>" .. message(("y"):rep(150));
	for _, part in ipairs { says:sub(1, 20), says:sub(21, 160), says:sub(161) } do
		alice.says = part;
		alice:onreadable();
	end
	go_round(10);
	expect(table.concat(handed_on), says);
end);

test("what somebody says before hanging up is handed on whole", function()
	load_turns();
	local says = message(("x"):rep(80)):rep(3);
	local alice = log_in(connect("alice", { says = says, cost = 0.001, problem = "closed" }), "alice");
	alice:onreadable();
	expect(#handed_on, 1);
	expect(handed_on[1], says);
end);

test("after the rest it is read on in what OpenSSL has at hand", function()
	load_turns();
	local alice = log_in(connect("alice", { says = message(("x"):rep(80)):rep(2), cost = 0.001 }), "alice");
	function alice.conn.dirty() return true; end
	alice._wantread = true;
	alice:onreadable();
	expect(alice.paused, nil);
	go_round(10);
	expect(#handed_on, 2);
	expect(alice.paused, 1e-06);
end);

test("a pause that ends during the wait for a turn has ended", function()
	load_turns();
	local alice = log_in(connect("alice", { says = message(("x"):rep(80)):rep(2), cost = 0.001 }), "alice");
	alice._wantread = false;
	alice:onreadable();
	alice:set(true);
	alice:onreadable();
	expect(#handed_on, 1); -- not before its turn
	go_round(10);
	expect(#handed_on, 2);
	expect(alice.reads, true);
end);

test("whoever had stopped reading from a connection finds it so after a turn", function()
	load_turns();
	local alice = log_in(connect("alice", { says = message(("x"):rep(80)):rep(2), cost = 0.001 }), "alice");
	alice._wantread = false;
	alice:onreadable();
	go_round(10);
	expect(#handed_on, 2);
	expect(alice.reads, false);
end);

test("a connection that is closed loses its turn", function()
	load_turns();
	local gone = connect("gone");
	gone:onreadable();
	gone.conn = nil;
	go_round(5);
	expect(watched.open, false);
	expect(#served, 0);
end);

test("who hangs up keeps its turn, and the poller tells of it no more", function()
	load_turns();
	local gone = connect("gone", { _wantread = true });
	gone:onreadable();
	gone:onreadable(); -- the poller would say so again and again
	expect(#served, 0);
	expect(gone.polled, false);
	go_round(5);
	expect(#served, 1);
	expect(gone.polled, true);
	expect(gone._wantread, true);
end);

test("who is being closed and hangs up does not wait, and is asked no more", function()
	load_turns();
	local gone = log_in(connect("gone", { cost = 0.004, _wantread = true }), "gone");
	gone:onreadable(); -- and owes for it
	gone:onreadable();
	gone.ondrain = interface.close;
	gone:onreadable(); -- the poller says that it hung up, and would again and again
	expect(#served, 2);
	expect(gone.polled, nil);
	go_round(5);
	expect(#served, 2);
end);

test("what somebody is sent after hanging up goes out with its turn", function()
	load_turns();
	local gone = connect("gone", { _wantread = true });
	gone:onreadable();
	gone:onreadable();
	gone.writebuffer = "see you"; -- as it is not polled, Prosody cannot ask for it to be written
	go_round(5);
	expect(gone.polled, true);
	expect(gone._wantwrite, true);
end);

test("of accounts, who has used least has the next turn", function()
	load_turns();
	for i = 1, 5 do
		local crowd = log_in(connect("crowd", { cost = 0.004, _wantread = true }), "crowd" .. i);
		crowd:onreadable(); -- and owes for it
		crowd:onreadable();
	end
	local alice = log_in(connect("alice", { cost = 0.0031, _wantread = true }), "alice");
	alice:onreadable(); -- owes little
	alice.cost = 0.0001;
	alice:onreadable();
	expect(count_of("alice"), 1);
	local before = #served;
	while #served == before do expect(go_round(1), 1); end
	expect(served[before + 1], "alice");
end);

test("between two turns the loop looks around, and answers who was served at once, but no more than once", function()
	load_turns();
	local turns = 0;
	for i = 1, 2 do connect("stranger", { address = "192.0.2." .. i }):onreadable(); end
	local alice = log_in(connect("alice"), "alice");
	for _ = 1, 2 do
		watched.run(); -- the loop looks around
		alice:onreadable();
		watched.run(); -- it writes what she is answered
		alice:onreadable();
		expect(count_of("stranger"), turns);
		watched.run();
		turns = turns + 1;
		expect(count_of("stranger"), turns);
	end
end);

-- A listening socket, and how many it has let in; each has something to say at once.
local function listen()
	local listener = connect("listener", { cost = 0.0002, address = "*", _wantread = true });
	listener.let_in = 0;
	function interface.onacceptable(conn)
		conn.let_in = conn.let_in + 1;
		clock = clock + conn.cost;
		connect("newcomer", { address = "192.0.2." .. (100 + conn.let_in) }):onreadable();
	end
	return listener;
end

test("newcomers are let in at once while nobody waits, else one a turn", function()
	local listener = listen();
	load_turns();
	interface.onacceptable(listener);
	expect(listener.let_in, 1);
	expect(#served, 0); -- it waits for a turn of its own
	interface.onacceptable(listener);
	expect(listener.let_in, 1);
	expect(listener.reads, false);
	go_round(1);
	expect(listener.let_in + #served, 2);
	go_round(1);
	expect(listener.let_in + #served, 3);
	expect(listener.let_in, 2);
	expect(listener.reads, true);
end);

test("an error while somebody is let in does not close the port", function()
	local listener = listen();
	load_turns();
	connect("stranger"):onreadable();
	interface.onacceptable(listener);
	listener.cost = nil; -- which its arithmetic takes amiss
	function listener.error(_, format, problem) listener.told = format:format(problem); end
	go_round(3);
	expect(listener.told ~= nil, true);
	expect(listener.conn ~= nil, true);
	expect(listener.reads, true);
end);

test("a turn of little work has the next one with it, one of much has not", function()
	load_turns();
	for i = 1, 4 do connect("stranger", { address = "192.0.2." .. i, cost = 0.00006 }):onreadable(); end
	go_round(1);
	expect(#served, 2);
	load_turns();
	for i = 1, 4 do connect("stranger", { address = "192.0.2." .. i, cost = 0.00012 }):onreadable(); end
	go_round(1);
	expect(#served, 1);
end);

test("timers are late by no more than a moment, though the queue is never empty", function()
	load_turns { fair_turns_strangers_share = 1, fair_turns_strangers_burst = 1 };
	local crowd = connect("crowd");
	local began = clock;
	crowd:onreadable();
	while watched.open and clock < began + 1 do
		go_round(1);
		crowd:onreadable();
	end
	expect(clock - began < 0.021, true);
	expect(#tasks, 1);
	expect(tasks[1].at <= clock, true);
	go_round(1); -- to the timers
	expect(watched.open, true);
end);

test("connections of our own, and of the operator's shell, never wait", function()
	load_turns();
	connect("outgoing", { _server = false }):onreadable();
	connect("shell", { sockport = 0 }):onreadable();
	expect(#served, 2);
end);

test("unloading it lets everybody in", function()
	local handle = load_turns();
	connect("stranger"):onreadable();
	handle.unload();
	expect(#served, 1);
	function watched.set() error("it is closed"); end
	for _, task in ipairs(tasks) do task.run(); end
end);

test("after it is unloaded newcomers are let in at once", function()
	local listener = listen();
	local handle = load_turns();
	local onacceptable = interface.onacceptable; -- Prosody's listening sockets keep what they were made with
	connect("stranger"):onreadable();
	handle.unload();
	onacceptable(listener);
	expect(listener.let_in, 1);
end);
