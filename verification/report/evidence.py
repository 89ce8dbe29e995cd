"""Evidence as it may be shown: what a server answered is its own, and may be meant to harm whoever reads the report."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "[redacted]"
LONGEST_LINE = 2000
# What OpenSSH, OpenSSL and PGP call a secret, and the values of fields that bear one.
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)
AUTHORIZATION = re.compile(r"(?i)\b((?:Basic|Bearer|Digest)\s+)[A-Za-z0-9+/=._~-]{8,}")
FIELD = re.compile(r"(?i)\b((?:password|passwd|passphrase|secret|token|api_?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{4,}")
# Controls, and what turns the direction of a text round (CVE-2021-42574), hides in it, or is no character at all.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\uffff]"
)


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """One line that no terminal, browser or XML parser acts on, without the given and the recognisable secrets."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = PRIVATE_KEY.sub(HIDDEN, text)
    text = AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    text = FIELD.sub(rf"\1{HIDDEN}", text)
    text = UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    more = len(text) - LONGEST_LINE
    return f"{text[:LONGEST_LINE]} ... ({more} characters more)" if more > 0 else text
