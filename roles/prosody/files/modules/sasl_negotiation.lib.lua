-- What mod_sasl_guard and mod_login_throttle share: one view of SASL (RFC 6120) and of the
-- Extensible SASL Profile (XEP-0388), which mod_saslauth and mod_sasl2 negotiate apart.

local st = require "prosody.util.stanza";

local xmlns_sasl = "urn:ietf:params:xml:ns:xmpp-sasl";
local xmlns_sasl2 = "urn:xmpp:sasl:2";

local lib = { xmlns_sasl = xmlns_sasl, xmlns_sasl2 = xmlns_sasl2 };

-- Calls handler(session, stanza) for elements with these names, a mapping of namespace to name.
-- Only clients that have not logged in are of interest; a true result ends the handling.
function lib.hook_unauthenticated(names, handler, priority)
	for xmlns, name in pairs(names) do
		module:hook("stanza/" .. xmlns .. ":" .. name, function(event)
			local session = event.origin;
			if session.type == "c2s_unauthed" then
				return handler(session, event.stanza);
			end
		end, priority);
	end
end

-- Answers a negotiation with a SASL error condition (RFC 6120 section 6.5) and forgets its state.
function lib.refuse(session, stanza, condition, text)
	local failure = st.stanza("failure", { xmlns = stanza.attr.xmlns })
		:tag(condition, { xmlns = xmlns_sasl }):up();
	if text then
		failure:text_tag("text", text);
	end
	session.sasl_handler = session.sasl_handler and session.sasl_handler:clean_clone();
	session.send(failure);
	return true;
end

return lib;
