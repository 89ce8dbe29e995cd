"""The verdict as a mail, through the machine's own sendmail."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Any

from verification import catalogue


class NotSent(Exception):
    """The mail was not taken; the text says why."""


def sendmail() -> str | None:
    """The machine's sendmail; None where there is none."""
    return shutil.which("sendmail", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib"]))


def message(document: Mapping[str, Any] | None, receivers: Sequence[str], page: Path) -> EmailMessage:
    """The mail about a run by its verify.json, None where it left none; its page is attached."""
    mail = EmailMessage()
    host = socket.getfqdn()
    mail["From"] = f"Portcullis <{getpass.getuser()}@{host}>"
    mail["To"] = ", ".join(receivers)
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=host)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834
    mail["Subject"] = f"[portcullis] {_verdict(document)}"
    mail.set_content("\n".join(_body(document)))
    if page.exists():
        mail.add_attachment(page.read_text(encoding="utf-8"), subtype="html", filename=page.name)
    return mail


def send(mail: EmailMessage) -> None:
    """Hand a mail to sendmail. Raises NotSent."""
    program = sendmail()
    if program is None:
        raise NotSent("there is no sendmail on this machine; dma, msmtp-mta and postfix have one")
    sent = subprocess.run([program, "-t", "-oi"], input=mail.as_bytes(), capture_output=True, check=False)
    if sent.returncode:
        said = sent.stderr.decode(errors="replace").strip()
        raise NotSent(f"sendmail: exit status {sent.returncode}: {said or 'no word'}")


def _verdict(document: Mapping[str, Any] | None) -> str:
    if document is None:
        return "the verification did not run"
    hosts = ", ".join(document["hosts"])
    if document["problems"]:
        return f"the verification is not complete: {hosts}"
    return f"{document['summary']['failed']} not kept, {document['summary']['proven']} proven: {hosts}"


def _body(document: Mapping[str, Any] | None) -> Iterator[str]:
    if document is None:
        yield "Its own words are in the journal: journalctl --unit portcullis-verify"
        return
    yield from document["problems"]
    for control in document["controls"]:
        if control["status"] == "failed":
            yield f"{control['id']} on {control['host']}: {control['title']}"
            yield from (f"    {line}" for line in control["evidence"][-1:])
            yield f"    {catalogue.remedies().get(control['id'], '')}"
    yield ""
    counts = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in document["summary"].items() if count)
    yield f"{counts}. What was tried and what came back is in the page attached."
