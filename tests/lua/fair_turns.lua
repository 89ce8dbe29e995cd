os.clock = function() return clock; end -- luacheck: ignore 122/os

local served; -- names of connections, in the order in which they were read
local read_retry_delay = 1e-06;

-- Each read takes `cost` seconds; a connection has as much to say as anybody wants, and `buffered` octets of it are at
-- hand.
local function load_turns(options)
	served = {};
	function interface.onreadable(conn)
		table.insert(served, conn.name);
		clock = clock + conn.cost;
		conn.buffered = conn.buffered - conn.read_size;
		if conn.buffered > 0 then conn:pausefor(read_retry_delay); end
	end
	function interface.pausefor(conn, delay) conn.paused = delay; end
	function interface.tlshandshake(conn) interface.onreadable(conn); end
	function interface.set(conn, reads) conn.reads = reads; end
	function interface.set_mode(conn, size) conn.read_size = size; end
	function interface.close() error("nobody is to be closed"); end
	function interface.ip(conn) return conn.address; end
	function interface.error(_, format, problem) error(format:format(problem)); end
	function interface.destroy(conn) conn.conn = nil; end
	return load_module("fair_turns", options);
end

local function connect(name, fields)
	local conn = setmetatable({ name = name, conn = true, _server = true, sockport = 5222 }, { __index = interface });
	conn.cost, conn.address, conn.read_size, conn.buffered = 0.0001, "192.0.2.1", 4096, 0;
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

-- Runs what the timer was given, `count` times at most, each when its time has come; how often there was something.
local function let_time_pass(count)
	for i = 1, count do
		local task = table.remove(tasks, 1);
		if not task then return i - 1; end
		clock = clock + task.delay;
		local again = task.run();
		if again then table.insert(tasks, { delay = again, run = task.run }); end
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
	expect(#tasks, 0);
end);

test("whoever does not waits, and nobody else", function()
	load_turns();
	local mallory, alice = log_in(connect("mallory"), "mallory"), log_in(connect("alice"), "alice");
	for _ = 1, 200 do
		mallory:onreadable();
		if mallory.reads == false then break; end
	end
	expect(count_of("mallory") <= 12, true); -- the reserve: 1 ms
	expect(mallory.reads, false);
	alice:onreadable();
	expect(served[#served], "alice");
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
	local began, before = clock, count_of("mallory");
	while clock < began + 10 do
		expect(let_time_pass(1), 1);
		mallory:onreadable();
	end
	local worked = (count_of("mallory") - before) * 0.002;
	expect(worked > 0.9 and worked < 1.2, true);
end);

test("strangers queue by network, one turn each", function()
	load_turns { fair_turns_strangers_reserve = 0 };
	local crowd = {};
	for i = 1, 10 do
		crowd[i] = connect("crowd");
		crowd[i]:tlshandshake();
	end
	connect("guest", { address = "198.51.100.1" }):tlshandshake();
	expect(#served, 0);
	let_time_pass(1);
	expect(served[1], "crowd");
	expect(served[2], "guest");
	let_time_pass(20);
	expect(#served, 11);
end);

test("networks of IPv6 are those of /64", function()
	load_turns { fair_turns_strangers_reserve = 0 };
	connect("one", { address = "2001:0db8:0000:0001:0000:0000:0000:0001" }):onreadable();
	connect("two", { address = "2001:0db8:0000:0001:ffff:0000:0000:0002" }):onreadable();
	connect("other", { address = "2001:0db8:0000:0002:0000:0000:0000:0001" }):onreadable();
	let_time_pass(1);
	expect(table.concat(served, " "), "one other two");
end);

test("a large stanza is read in one turn, in pieces twice as large each time", function()
	load_turns();
	local alice = log_in(connect("alice", { buffered = 2000, cost = 0.00001 }), "alice");
	alice:onreadable();
	expect(#served, 5); -- 128, 256, 512, 1024, and the rest
	expect(alice.read_size, 2048);
	expect(alice.paused, nil);
end);

test("what comes with the end of a handshake is read, and no hands are shaken twice", function()
	load_turns();
	local shaken = 0;
	local read = interface.onreadable;
	function interface.tlshandshake(conn)
		shaken = shaken + 1;
		read(conn);
	end
	interface.onreadable = read;
	load_module("fair_turns", {});
	local guest = connect("guest", { buffered = 5000 });
	guest:tlshandshake();
	expect(shaken, 1);
	expect(#served, 2);
end);

test("a turn ends with what costs much", function()
	load_turns();
	local alice = log_in(connect("alice", { buffered = 2000, cost = 0.0005 }), "alice");
	alice:onreadable();
	expect(#served, 1);
	expect(alice.read_size, 128);
	expect(alice.paused, read_retry_delay);
end);

test("a pause that somebody else wants is kept", function()
	load_turns();
	local alice = log_in(connect("alice"), "alice");
	alice:pausefor(3);
	expect(alice.paused, 3);
end);

test("a connection that is closed loses its turn", function()
	load_turns { fair_turns_strangers_reserve = 0 };
	local gone = connect("gone");
	gone:onreadable();
	gone.conn = nil;
	expect(let_time_pass(5), 1);
	expect(#served, 0);
end);

test("who hangs up does not wait", function()
	load_turns { fair_turns_strangers_reserve = 0 };
	local gone = connect("gone");
	gone:onreadable();
	gone:onreadable(); -- the poller would say so again and again
	expect(#served, 1);
	let_time_pass(5);
	expect(#served, 1);
end);

test("connections of our own, and of the operator's shell, never wait", function()
	load_turns { fair_turns_strangers_reserve = 0 };
	connect("outgoing", { _server = false }):onreadable();
	connect("shell", { sockport = 0 }):onreadable();
	expect(#served, 2);
end);

test("unloading it lets everybody in", function()
	local handle = load_turns { fair_turns_strangers_reserve = 0 };
	connect("stranger"):onreadable();
	handle.unload();
	expect(#served, 1);
end);
