local function new_stream()
	local stream = {};
	function stream.set_stanza_size_limit(_, bytes, elements)
		stream.limits = ("%d bytes, %s elements"):format(bytes, elements);
	end
	return stream;
end

test("every stream of a client has the limit", function()
	local limits = load_module("stanza_limits", { stanza_limits_elements = 500 });
	local session = new_session { stream = new_stream(), stanza_size_limit = 10000 };
	limits.host.fire("stream-features", { origin = session });
	expect(session.stream.limits, "10000 bytes, 500 elements");
end);

test("servers have it once they are known", function()
	local limits = load_module("stanza_limits");
	for _, event in ipairs { "s2sin-established", "s2sout-established" } do
		local session = new_session { stream = new_stream(), stanza_size_limit = 524288 };
		limits.fire(event, { session = session });
		expect(session.stream.limits, "524288 bytes, 4000 elements");
	end
end);

test("sessions without an XML stream are passed over", function()
	load_module("stanza_limits").host.fire("stream-features", { origin = new_session() });
end);
