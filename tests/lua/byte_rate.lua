local hook;
local function add_filter(session, kind, filter)
	session[kind] = filter;
end
package.loaded["prosody.util.filters"] = {
	add_filter = add_filter, add_filter_hook = function(handler) hook = handler; end;
	remove_filter_hook = function(handler) if hook == handler then hook = nil; end end;
};

local function connect(kind)
	local session = { type = kind, conn = {} };
	function session.conn.pausefor(_, seconds) session.paused = seconds; end
	function session.say(bytes)
		session.paused = nil;
		expect(session["bytes/in"](("x"):rep(bytes), session), ("x"):rep(bytes));
		return session.paused;
	end
	hook(session);
	return session;
end

local function start()
	local handle = load_module("byte_rate", { limits = { c2s = { rate = "50kb/s" } } });
	handle.module.load();
	return handle;
end

test("what was saved up may be said at once", function()
	start();
	local client = connect "c2s_unauthed";
	expect(client.say(5000), nil);
	expect(client.say(20000), nil);
end);

test("whoever owes sleeps until it is paid", function()
	start();
	local client = connect "c2s_unauthed";
	expect(client.say(25000), nil);
	expect(client.say(5000), 0.1);
	clock = clock + 0.1;
	expect(client.say(500), 0.01);
end);

test("in the long run nobody is faster than the rate", function()
	start();
	local client, began, said = connect "c2s_unauthed", clock, 0;
	while said < 500000 do
		clock = clock + (client.say(4096) or 0);
		said = said + 4096;
	end
	expect(clock - began > 9.4, true);
end);

test("silence is saved up for half a second and no longer", function()
	start();
	local client = connect "c2s_unauthed";
	clock = clock + 1000;
	expect(client.say(30000), 0.1);
end);

test("each connection has a rate of its own", function()
	start();
	connect("c2s_unauthed").say(100000);
	expect(connect("c2s_unauthed").say(5000), nil);
end);

test("kinds without a rate are not limited", function()
	start();
	expect(connect("s2sin_unauthed")["bytes/in"], nil);
end);

test("a connection that has gone is not put to sleep", function()
	start();
	local client = connect "c2s_unauthed";
	client.conn = nil;
	expect(client.say(100000), nil);
end);

test("a rate that means nothing is refused", function()
	expect(pcall(load_module, "byte_rate", { limits = { c2s = { rate = "fast" } } }), false);
end);

test("unloaded, it limits nobody", function()
	local handle = start();
	handle.unload();
	expect(hook, nil);
end);
