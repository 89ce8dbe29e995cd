-- Accepts only the SASL mechanisms that were offered in the stream's features.
--
-- Debian's mod_sasl2 leaves mechanisms in `disable_sasl_mechanisms` out of its offer and still accepts
-- them: PLAIN, disabled and unadvertised, logs in.
--
-- Options: none.
-- Events: stream-features, stanza/urn:ietf:params:xml:ns:xmpp-sasl:auth, stanza/urn:xmpp:sasl:2:authenticate.
-- Source: RFC 6120 section 6.4.2, XEP-0388, XEP-0484 (FAST has an offer of its own).

local sasl = module:require "sasl_negotiation";

local xmlns_fast = "urn:xmpp:fast:0";

local function names(offer)
	local set = {};
	for mechanism in offer:childtags("mechanism") do
		set[mechanism:get_text()] = true;
	end
	return set;
end

local function remember_offer(event)
	local session, features = event.origin, event.features;
	if session.type ~= "c2s_unauthed" then return; end
	local offered = {};
	local offer = features:get_child("mechanisms", sasl.xmlns_sasl);
	if offer then
		offered[sasl.xmlns_sasl] = names(offer);
	end
	offer = features:get_child("authentication", sasl.xmlns_sasl2);
	if offer then
		offered[sasl.xmlns_sasl2] = names(offer);
		local fast = offer:find("inline/{" .. xmlns_fast .. "}fast");
		offered[xmlns_fast] = fast and names(fast);
	end
	session.offered_mechanisms = offered;
end

local function is_offered(session, stanza)
	local offer = stanza:get_child("fast", xmlns_fast) and xmlns_fast or stanza.attr.xmlns;
	local mechanisms = session.offered_mechanisms and session.offered_mechanisms[offer];
	return mechanisms and mechanisms[stanza.attr.mechanism];
end

module:hook("stream-features", remember_offer, -1000); -- after every module has made its offer

sasl.hook_unauthenticated({ [sasl.xmlns_sasl] = "auth", [sasl.xmlns_sasl2] = "authenticate" }, function(session, stanza)
	if is_offered(session, stanza) then return; end
	session.log("debug", "Refused the SASL mechanism %q: not offered", stanza.attr.mechanism);
	return sasl.refuse(session, stanza, session.secure and "invalid-mechanism" or "encryption-required");
end, 1000);
