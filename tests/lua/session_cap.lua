local function account(sessions)
	for resource, session in pairs(sessions) do
		sessions[resource] = new_session(session);
	end
	prosody.hosts["xmpp.example"].sessions.alice = { sessions = sessions };
	return sessions;
end

local function bind(cap, resource)
	local event = { session = new_session { username = "alice" }, resource = resource };
	return cap.fire("pre-resource-bind", event), event.error;
end

test("one resource more than allowed is refused", function()
	local cap = load_module("session_cap", { session_cap_resources = 2 });
	expect(bind(cap), nil);
	account { a = { conntime = 1 } };
	expect(bind(cap), nil);
	account { a = { conntime = 1 }, b = { conntime = 2 } };
	local result, problem = bind(cap, "c");
	expect(result, false);
	expect(problem.condition, "resource-constraint");
end);

test("a resource may be taken over", function()
	local cap = load_module("session_cap", { session_cap_resources = 1 });
	account { a = { conntime = 1 } };
	expect(bind(cap, "a"), nil);
end);

test("the session longest asleep gives way", function()
	local cap = load_module("session_cap", { session_cap_resources = 3 });
	local sessions = account { a = { conntime = 1 }, b = { conntime = 2, hibernating = 9 }, c = { hibernating = 5 } };
	expect(bind(cap), nil);
	expect(sessions.c.closed ~= nil, true);
	expect(sessions.a.closed or sessions.b.closed, nil);
end);

test("or the oldest, if the operator says so", function()
	local cap = load_module("session_cap", { session_cap_resources = 2, session_cap_policy = "replace" });
	local sessions = account { a = { conntime = 7 }, b = { conntime = 3 } };
	expect(bind(cap), nil);
	expect(sessions.b.closed ~= nil, true);
	expect(sessions.a.closed, nil);
end);

test("a login has to bind a resource", function()
	local cap = load_module("session_cap");
	local idle, bound = new_session { type = "c2s_unbound" }, new_session { type = "c2s_unbound" };
	cap.fire("authentication-success", { session = idle });
	cap.fire("authentication-success", { session = bound });
	bound.type = "c2s";
	for _, callback in ipairs(cap.timers) do
		callback();
	end
	expect(idle.closed.condition, "connection-timeout");
	expect(bound.closed, nil);
end);
