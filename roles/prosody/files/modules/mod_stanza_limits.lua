-- Limits how many elements one stanza may have, for clients and servers that have logged in.
--
-- An element costs Prosody about a hundred times its size on the wire, so 256 KiB of <a/>, well within the
-- limit on bytes, hold 24 MB. `c2s_max_child_elements` and `s2s_max_child_elements` do not bound it: Prosody
-- (13.0.1 to 13.0.6) loses the value before its parser sees it, though the parser can count. A stream above
-- the limit is closed as soon as the parser meets the element. BOSH needs no limit: it keeps nothing of an
-- unfinished stanza from one request to the next.
--
-- Options (global):
--   stanza_limits_elements  integer, default 4000: elements within one stanza
-- Events: stream-features (clients), s2sin-established, s2sout-established.
-- Source: XEP-0205 section 3.

module:set_global();

local max_elements = module:get_option_integer("stanza_limits_elements", 4000, 100);

local function limit(session)
	if session.stream and session.stanza_size_limit then
		session.stream:set_stanza_size_limit(session.stanza_size_limit, max_elements);
	end
end

module:hook("s2sin-established", function(event) limit(event.session); end);
module:hook("s2sout-established", function(event) limit(event.session); end);

function module.add_host(host_module)
	-- Opens every stream, again after login: the limit on bytes, set at login, resets the parser's.
	host_module:hook("stream-features", function(event) limit(event.origin); end);
end
