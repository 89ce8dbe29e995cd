"""The verdict on its way to those who watch: metrics, mail, drift and the judges' words."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest

from cli import main
from cli.common import FAILED, GOOD, ROOT, WRONG
from verification import drift
from verification.probes import judges, lynis
from verification.report import mail, metrics

FINISHED = datetime.datetime(2026, 11, 22, 20, 0, tzinfo=datetime.timezone.utc)
DOCUMENT = {
    "summary": {"proven": 1, "failed": 1, "waived": 0},
    "seconds": 41.5,
    "hosts": {'odd"host': "odd.example at 192.0.2.1"},
    "problems": [],
    "controls": [
        {"id": "TLS-01", "title": "A promise", "host": 'odd"host', "status": "proven", "evidence": ["5222 -> good"]},
        {"id": "CERT-03", "title": "Another", "host": 'odd"host', "status": "failed", "evidence": ["ends tomorrow"]},
    ],
}
INVENTORY = str(ROOT / "inventories" / "example")


def test_metrics_tell_the_verdict():
    lines = metrics.text(DOCUMENT, 1, FINISHED).splitlines()
    assert "portcullis_verify_status 1" in lines
    assert "portcullis_verify_timestamp_seconds 1795377600" in lines
    assert 'portcullis_verify_controls{host="odd\\"host",status="proven"} 1' in lines
    assert 'portcullis_verify_failed{host="odd\\"host",control="CERT-03"} 1' in lines


def test_metrics_of_a_run_that_left_nothing_still_tell_its_status():
    lines = metrics.text(None, 2, FINISHED).splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("#")] == [
        "portcullis_verify_status",
        "portcullis_verify_timestamp_seconds",
    ]


def test_a_mail_names_what_is_not_kept_and_how_it_is_mended(tmp_path):
    page = tmp_path / "verify.html"
    page.write_text("<!doctype html>")
    letter = mail.message(DOCUMENT, ["ops@example.org"], page)
    assert letter["Subject"] == '[portcullis] 1 not kept, 1 proven: odd"host'
    (text, *_) = letter.iter_parts()
    body = str(text.get_payload())
    assert "CERT-03" in body
    assert "ends tomorrow" in body
    assert "Renew the certificate" in body
    assert "TLS-01" not in body
    assert [part.get_filename() for part in letter.iter_attachments()] == ["verify.html"]


@pytest.fixture
def sendmail(tmp_path, monkeypatch) -> Path:
    """A sendmail that keeps what it is given, and ends with what is in the file `status`."""
    program = tmp_path / "bin" / "sendmail"
    program.parent.mkdir()
    kept = tmp_path / "sent"
    program.write_text(f'#!/bin/sh\ncat >"{kept}"\necho "no such user" >&2\nexit $(cat "{tmp_path}/status")\n')
    program.chmod(0o755)
    (tmp_path / "status").write_text("0")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return kept


@pytest.mark.parametrize(("status", "mailed"), [(GOOD, False), (FAILED, True), (WRONG, True)])
def test_a_verdict_that_is_not_good_is_mailed(status, mailed, sendmail, tmp_path, monkeypatch):
    real = subprocess.run

    def run(command, **options):
        return subprocess.CompletedProcess(command, status) if "pytest" in command else real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    told = tmp_path / "portcullis.prom"
    assert main.main(["verify", "-i", INVENTORY, "--mail", "ops@example.org", "--metrics", str(told)]) == status
    assert f"portcullis_verify_status {status}" in told.read_text()
    assert sendmail.exists() == mailed
    assert not mailed or "To: ops@example.org" in sendmail.read_text()


def test_a_mail_that_is_not_taken_is_told(sendmail, tmp_path, monkeypatch):
    (tmp_path / "status").write_text("67")
    with pytest.raises(mail.NotSent, match="exit status 67: no such user"):
        mail.send(mail.message(None, ["ops@example.org"], tmp_path / "none"))


def test_drift_names_each_file_and_shows_what_differs():
    changed = {"before_header": "/etc/x", "after_header": "/etc/x", "before": "a\nb\n", "after": "a\nc\n"}
    mode = {"before_header": "/etc/x (attributes)", "after_header": "/etc/x (attributes)", "before": "1", "after": "2"}
    changes = [
        {"host": "one", "name": "Install", "actions": ["reload x"], "diff": [changed, mode]},
        {"host": "one", "name": "Update", "actions": [], "diff": []},
    ]
    failures = [{"host": "two", "name": "Check", "words": "no such variable"}]
    found = drift.read({"hosts": ["one", "two", "three"], "changes": changes, "failures": failures})
    assert found["one"].changes == ["/etc/x", "Update"]
    assert [line for line in found["one"].lines if line[:1] in "-+" and line[:3] not in ("---", "+++")] == [
        "-b",
        "+c",
        "-1",
        "+2",
    ]
    assert "Install: reload x" in found["one"].lines
    assert found["two"].failure == "Check: no such variable"
    assert found["three"] == drift.Drift()


def test_what_testssl_finds_counts_and_what_is_set_aside_is_named():
    entries = [
        {"id": "protocol_negotiated", "severity": "OK", "finding": "TLS 1.3"},
        {"id": "RC4", "severity": "HIGH", "finding": "offered"},
        {"id": "cert_revocation", "severity": "HIGH", "finding": "Neither CRL nor OCSP URI provided"},
        {"id": "overall_grade", "severity": "OK", "finding": "A+"},
    ]
    opinion = judges.read_testssl(entries)
    assert opinion.findings == ["HIGH RC4: offered"]
    assert "grade A+" in opinion.line
    assert "set aside cert_revocation" in opinion.line


def test_lynis_warnings_count_and_its_suggestions_are_told():
    report = """\
lynis_version=3.0.8
tests_executed=BOOT-1|SSH-1|
warning[]=SSH-1|Root may log in|-|-|
suggestion[]=BOOT-2|Set a password|-|-|
suggestion[]=BOOT-2|Set a password for that as well|-|-|
hardening_index=71
finish=true
"""
    opinion = lynis.read(report)
    assert opinion.findings == ["SSH-1: Root may log in"]
    assert opinion.line == "lynis 3.0.8: 2 tests -> 1 warnings, 1 suggestions, index 71; it suggests BOOT-2"


def test_the_names_that_sslyze_lists_have_an_order_and_an_end():
    told = judges._listed("Cipher suites {'D', 'B', 'A', 'C', 'E'} are supported, but should be rejected.")
    assert told == "Cipher suites A, B, C, 2 more are supported, but should be rejected."
    assert judges._listed("TLS versions {'TLSv1.1'} are supported") == "TLS versions TLSv1.1 are supported"
