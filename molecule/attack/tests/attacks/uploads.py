"""File upload"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from verification.probes import http
from verification.probes.services import Slot, slot
from verification.probes.xmpp import StanzaError

from .catalogue import WITHSTANDS, Succeeded, attack, judge, refusal
from .stage import Victim

SMALL = b"portcullis"
MEBI = 1024**2


def place_for(victim: Victim, name: str, body: bytes, who: str = "bob", kind: str = "text/plain") -> Slot:
    """A slot for a file."""
    with victim.log_in(who) as member:
        return slot(member, victim.upload, name, len(body), kind)


def send(victim: Victim, method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None):
    """An HTTPS request to the upload service."""
    parts = urlsplit(url)
    place = (*victim.target.at(victim.web), parts.hostname or "", parts.path)
    return http.request(*place, method=method, headers=headers, body=body, ca_file=victim.target.ca_file)


def put(victim: Victim, place: Slot, body: bytes = SMALL, **changed: str) -> str:
    """How a file is refused. Raises Succeeded when it is stored."""
    answer = send(victim, "PUT", changed.get("put", place.put), place.headers, body)
    return judge(400 <= answer.status < 500, f"PUT: {answer.status}")


@attack("Upload without leave", "UPL-03", stock=WITHSTANDS)
def upload_without_token(victim: Victim) -> str:
    place = place_for(victim, "a.txt", SMALL)
    del place.headers["Authorization"]
    return put(victim, place)


@attack("Upload with forged leave", "UPL-03", stock=WITHSTANDS)
def upload_forged_token(victim: Victim) -> str:
    place = place_for(victim, "a.txt", SMALL)
    place.headers["Authorization"] = place.headers["Authorization"][:-8] + "AAAAAAAA"
    return put(victim, place)


@attack("Upload more than was said", "UPL-03", stock=WITHSTANDS)
def upload_other_size(victim: Victim) -> str:
    return put(victim, place_for(victim, "a.txt", SMALL), SMALL * 2)


@attack("Upload out of the directory", "UPL-03", stock=WITHSTANDS)
def upload_traversal(victim: Victim) -> str:
    place = place_for(victim, "a.txt", SMALL)
    outside = urlunsplit(urlsplit(place.put)._replace(path="/file_share/../../etc/cron.d/attack"))
    return put(victim, place, put=outside)


@attack("Put one's own file where another's belongs", "UPL-03", stock=WITHSTANDS)
def upload_others_slot(victim: Victim) -> str:
    mine, theirs = place_for(victim, "a.txt", SMALL), place_for(victim, "b.txt", SMALL, "carol")
    return put(victim, mine, put=theirs.put)


@attack("Replace a file that is there", "UPL-03", stock=WITHSTANDS)
def upload_twice(victim: Victim) -> str:
    place = place_for(victim, "a.txt", SMALL)
    assert send(victim, "PUT", place.put, place.headers, SMALL).status == 201
    return put(victim, place, b"PORTCULLIS")


@attack("A file name that leads elsewhere", "UPL-03", stock=WITHSTANDS)
def upload_file_name(victim: Victim) -> str:
    try:
        place = place_for(victim, "../../../etc/passwd", SMALL)
    except StanzaError as refused:
        return str(refused)
    return judge(".." not in urlsplit(place.put).path, f"slot at {urlsplit(place.put).path.rpartition('/')[2]}")


@attack("A page with a script, to be run under the server's name", "UPL-04", stock=None)
def upload_script(victim: Victim) -> str:
    body = b"<script>alert(1)</script>"
    place = place_for(victim, "page.html", body, kind="text/html")
    assert send(victim, "PUT", place.put, place.headers, body).status == 201
    headers = send(victim, "GET", place.get).headers
    kind = headers.get("content-disposition", "inline").partition(";")[0]
    policy, sniffing = headers.get("content-security-policy", ""), headers.get("x-content-type-options", "")
    safe = kind == "attachment" and "default-src 'none'" in policy and sniffing == "nosniff"
    return judge(safe, f"{headers.get('content-type')}, {kind}, {sniffing or 'may be sniffed'}")


@attack("A file of a gigabyte", "UPL-02", stock=WITHSTANDS)
def upload_too_large(victim: Victim) -> str:
    with victim.log_in("bob") as bob:
        return refusal(lambda: slot(bob, victim.upload, "large.bin", 1024 * MEBI), "a slot is given")


@attack("A thousand files in a day", "UPL-05", stock=WITHSTANDS)
def upload_quota(victim: Victim) -> str:
    size = 9 * MEBI  # what every server takes
    with victim.log_in("carol") as carol:
        for given in range(1_000):
            try:
                slot(carol, victim.upload, "a.bin", size)
            except StanzaError as refused:
                return f"{refused}, after {given} of 9 MiB"
    raise Succeeded("a slot for each")
