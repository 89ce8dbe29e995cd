"""The program that orders certificates: when it does, when it waits, what it tells, and what it never does."""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib.util
import json
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PROGRAM = Path(__file__).parents[2] / "roles/certificates/files/usr/local/lib/portcullis/certificate-order"
NAMES = ["example.org", "conference.example.org"]
NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)
SETTINGS = {
    "provider": "acme",
    "directory": "https://ca.example/dir",
    "challenge": "http-01",
    "dane": None,
    "preferred_chain": "",
    "profile": "",
    "contact": "",
    "key_type": "ecdsa-p256",
    "hosts": {"example.org": NAMES},
}


@pytest.fixture
def program(tmp_path, monkeypatch) -> ModuleType:
    """The program, with directories and a clock of its own."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.syspath_prepend(PROGRAM.parent)
    loader = SourceFileLoader("certificate_order", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    for name in ("ACME", "STORE", "STATE"):
        directory = tmp_path / name.lower()
        directory.mkdir()
        monkeypatch.setattr(module, name, directory)
    monkeypatch.setattr(module, "now", lambda: NOW)
    monkeypatch.setattr(module.time, "time", NOW.timestamp)
    return module


def pair(lifetime=90 * DAY, age=0 * DAY, key=None, names=NAMES) -> tuple[str, str]:
    """A certificate (self-signed) and its key, PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - age)
        .not_valid_after(NOW - age + lifetime)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


@pytest.fixture
def issued(program):
    """A function that returns a certificate as the CA issued it."""

    def issue(**arguments):
        return program.Issued(*pair(**arguments), program.wishes(SETTINGS))

    return issue


@pytest.fixture
def use(program):
    """A function that brings a certificate into use."""

    def put(domain: str = "example.org", **arguments) -> None:
        (program.STORE / domain).mkdir(exist_ok=True)
        (program.STORE / domain / "fullchain.pem").write_text(pair(**arguments)[0])

    return put


@pytest.mark.parametrize(
    ("lifetime", "age", "due"),
    [
        (90 * DAY, 59 * DAY, False),
        (90 * DAY, 61 * DAY, True),
        (45 * DAY, 29 * DAY, False),
        (45 * DAY, 31 * DAY, True),
        (6 * DAY, 2.9 * DAY, False),
        (6 * DAY, 3.1 * DAY, True),
        (HOUR, 0.4 * HOUR, False),
        (HOUR, 0.6 * HOUR, True),
        (90 * DAY, 91 * DAY, True),
    ],
)
def test_what_counts_is_the_fraction_of_the_lifetime_that_is_left(issued, lifetime, age, due):
    assert bool(issued(lifetime=lifetime, age=age).reason_to_replace(NAMES, SETTINGS)) == due


@pytest.mark.parametrize(
    ("names", "settings", "reason"),
    [
        (NAMES[::-1], {}, None),
        ([*NAMES, "upload.example.org"], {}, "the names differ"),
        (NAMES[:1], {}, "the names differ"),
        (NAMES, {"key_type": "ecdsa-p384"}, "the type of key differs"),
        (NAMES, {"directory": "https://other.example/dir"}, "another CA, chain or profile is wanted"),
        (NAMES, {"preferred_chain": "Root"}, "another CA, chain or profile is wanted"),
        (NAMES, {"profile": "shortlived"}, "another CA, chain or profile is wanted"),
        (NAMES, {"contact": "admin@example.org"}, None),
    ],
)
def test_each_difference_from_the_order_is_a_reason(issued, names, settings, reason):
    assert issued().reason_to_replace(names, {**SETTINGS, **settings}) == reason


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ecdsa-p256"),
        (ec.generate_private_key(ec.SECP384R1()), "ecdsa-p384"),
        (rsa.generate_private_key(65537, 2048), "rsa-2048"),
    ],
)
def test_the_type_of_a_key_is_recognised(program, key, name):
    assert program.key_type_of(pair(key=key)[1]) == name
    assert name in program.KEY_OPTIONS


def test_what_was_issued_is_kept_for_root_alone(program, issued, tmp_path):
    file = tmp_path / "issued" / "example.org.json"
    one = issued()
    one.save(file)
    assert file.stat().st_mode & 0o777 == 0o600
    kept = program.Issued.load(file)
    assert (kept.chain, kept.key, kept.wishes) == (one.chain, one.key, one.wishes)


@pytest.mark.parametrize("content", [None, "", "{", '{"chain": "none"}', '{"chain": "", "key": "", "wishes": {}}'])
def test_a_record_that_cannot_be_read_counts_as_none(program, tmp_path, content):
    file = tmp_path / "example.org.json"
    if content is not None:
        file.write_text(content)
    assert program.Issued.load(file) is None


def test_the_pauses_double_up_to_a_day(program):
    pauses = []
    for _ in range(7):
        program.Attempts("example.org").failed("the CA is down", 30 * DAY)
        pauses.append((program.Attempts("example.org").next - NOW.timestamp()) / 3600)
    assert pauses == [1, 2, 4, 8, 16, 24, 24]


def test_no_pause_uses_up_what_is_left(program):
    program.Attempts("example.org").failed("the CA is down", HOUR)
    assert program.Attempts("example.org").next - NOW.timestamp() == 3600 / 8
    program.Attempts("example.org").failed("the CA is down", -DAY)
    assert program.Attempts("example.org").next - NOW.timestamp() == 1


def test_after_a_failure_it_waits_unless_asked_and_a_success_forgets_it(program, use, capsys):
    use()
    calls = []

    def fulfil() -> None:
        calls.append(1)
        program.run("false")

    failing = SimpleNamespace(domain="example.org", fulfil=fulfil)
    assert not program.attend(failing, patient=True)
    assert "example.org: false failed with 1" in capsys.readouterr().err
    assert not program.attend(failing, patient=True)
    assert len(calls) == 1
    assert "next attempt after 2026-11-22 13:00 UTC; the last failed: false failed" in capsys.readouterr().err
    assert not program.attend(failing, patient=False)
    assert len(calls) == 2
    assert program.attend(SimpleNamespace(domain="example.org", fulfil=lambda: ""), patient=False)
    assert program.Attempts("example.org").failures == 0


def test_a_pause_from_when_the_clock_was_wrong_is_not_kept(program, use, monkeypatch):
    use()
    monkeypatch.setattr(program.time, "time", (NOW + 365 * DAY).timestamp)
    program.Attempts("example.org").failed("the clock is wrong", 30 * DAY)
    monkeypatch.setattr(program.time, "time", NOW.timestamp)
    assert program.attend(SimpleNamespace(domain="example.org", fulfil=lambda: ""), patient=True)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("no PEM")])
def test_any_trouble_of_one_domain_is_told_and_leaves_the_others_alone(program, use, capsys, error):
    use()

    def fulfil() -> str:
        raise error

    assert not program.attend(SimpleNamespace(domain="example.org", fulfil=fulfil), patient=True)
    errors = capsys.readouterr().err
    assert str(error) in errors
    assert "the certificate in use stays; it ends on 2027-02-20 12:00 UTC" in errors


@pytest.mark.parametrize(
    ("lifetime", "age", "alarm"),
    [
        (365 * DAY, 343 * DAY, False),
        (365 * DAY, 345 * DAY, True),
        (40 * DAY, 29 * DAY, False),
        (40 * DAY, 31 * DAY, True),
    ],
)
def test_one_that_somebody_else_has_to_replace_raises_the_alarm(program, use, lifetime, age, alarm):
    use(lifetime=lifetime, age=age)
    watch = program.Watch("example.org", "bring another")
    if alarm:
        with pytest.raises(program.Trouble, match="ends soon: bring another"):
            watch.fulfil()
    else:
        assert watch.fulfil() == ""


def test_one_that_is_missing_raises_the_alarm(program):
    with pytest.raises(program.Trouble, match="no certificate: deploy again"):
        program.Watch("example.org", program.REMEDIES["own_ca"]).fulfil()


@pytest.mark.parametrize("skew", [-2 * DAY, -2 * HOUR, 2 * HOUR, 400 * DAY])
def test_a_wrong_clock_is_found_before_an_order(program, skew):
    with pytest.raises(program.Trouble, match="this host's clock says 2026-11-22 12:00 UTC, the CA's"):
        program.check_clock((NOW + skew).strftime("%a, %d %b %Y %H:%M:%S GMT"))


@pytest.mark.parametrize("date", [None, "Sun, 22 Nov 2026 12:10:00 GMT", "Sun, 22 Nov 2026 11:10:00 GMT"])
def test_a_clock_that_is_right_enough_is_none_of_its_business(program, date):
    program.check_clock(date)


def test_a_file_is_written_whole_or_not_at_all(program, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(program.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        program.write(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.glob("tmp*")) == []


def test_the_contact_is_told_to_the_ca_when_it_changes_and_only_then(program, monkeypatch):
    account = "https://ca.example/account/1"
    told = []
    monkeypatch.setattr(program, "account", lambda _directory: account)
    monkeypatch.setattr(program, "certbot", lambda *arguments: told.append(arguments))
    assert program.tell_contact({**SETTINGS, "contact": "a@example.org"}) == ""
    assert not told, "the account was made with it"
    assert program.tell_contact({**SETTINGS, "contact": "b@example.org"}) == "the CA has a new contact: b@example.org"
    assert told == [("update_account", "--server", SETTINGS["directory"])]
    assert program.tell_contact({**SETTINGS, "contact": "b@example.org"}) == ""
    account = "https://ca.example/account/2"
    assert program.tell_contact({**SETTINGS, "contact": "c@example.org"}) == ""
    assert len(told) == 1, "another account was made with it"


@pytest.mark.parametrize(("refusals", "good"), [(0, True), (9, True), (10, False)])
def test_a_refused_nonce_is_no_reason_to_give_up(program, monkeypatch, refusals, good):
    refused = SimpleNamespace(returncode=1, stdout="", stderr="The client sent an unacceptable anti-replay nonce\n")
    answers = [refused] * refusals + [SimpleNamespace(returncode=0, stdout="", stderr="")]
    monkeypatch.setattr(program, "run", lambda *_, **__: answers.pop(0))
    if good:
        program.certbot("certonly")
        assert answers == []
    else:
        with pytest.raises(program.Trouble, match="anti-replay nonce"):
            program.certbot("certonly")


def test_any_other_refusal_is_not_tried_again_at_once(program, monkeypatch):
    answers = [SimpleNamespace(returncode=1, stdout="", stderr="too many certificates already issued\n")]
    monkeypatch.setattr(program, "run", lambda *_, **__: answers.pop(0))
    with pytest.raises(program.Trouble, match="too many certificates"):
        program.certbot("certonly")


def test_a_program_that_does_not_end_is_ended_with_what_it_has_started(program, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "PATIENCE", 0.5)
    child = tmp_path / "child"
    began = time.monotonic()
    with pytest.raises(program.Trouble, match="sh had not ended after"):
        program.run("sh", "-c", f"sleep 60 & echo $! > {child}; wait")
    assert time.monotonic() - began < 30
    assert ends(child.read_text().strip())


def ends(process: str) -> bool:
    """Whether a process that was sent a signal is gone soon, or waits for its parent to notice."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if state.read_text().split()[2] != "Z":
                time.sleep(0.1)
                continue
        return True
    return False


ACCOUNT = "https://ca.example/account/1"


@pytest.mark.parametrize(
    ("records", "allowed"),
    [
        ([], True),
        (["0 issue ca.example"], True),
        (["0 issue other.example"], False),
        (["0 issue other.example", "0 issue ca.example"], True),
        (["0 issue ;"], False),
        (["0 ISSUE ca.example"], True),
        (["0 issuewild ;"], True),
        ([f"0 issue ca.example; accounturi={ACCOUNT}"], True),
        (["0 issue ca.example; accounturi=https://ca.example/account/2"], False),
        (["0 issue ca.example; validationmethods=dns-01"], False),
        (["0 issue ca.example; validationmethods=dns-01,http-01"], True),
        (["0 iodef mailto:a@example.org"], True),
        (["128 iodef mailto:a@example.org"], True),
        (["128 tomorrow x"], False),
        (["0 tomorrow x"], True),
    ],
)
def test_the_caa_records_are_read_as_the_ca_reads_them(program, monkeypatch, records, allowed):
    found = [
        SimpleNamespace(flags=int(flags), tag=tag.encode(), value=value.encode())
        for flags, tag, value in (record.split(" ", 2) for record in records)
    ]
    monkeypatch.setattr(program, "caa_records", lambda _name: found)
    assert program.allowed_by_caa("example.org", ["ca.example"], ACCOUNT, "http-01") is allowed


@pytest.mark.parametrize(
    ("records", "allowed"),
    [([b"ca.example"], True), ([b";"], False), ([b"other.example"], False)],
)
def test_a_wildcard_has_caa_records_of_its_own(program, monkeypatch, records, allowed):
    found = [SimpleNamespace(flags=0, tag=b"issue", value=b"ca.example")]
    found += [SimpleNamespace(flags=0, tag=b"issuewild", value=value) for value in records]
    monkeypatch.setattr(program, "caa_records", lambda _name: found)
    assert program.allowed_by_caa("*.example.org", ["ca.example"], ACCOUNT, "dns-01") is allowed


def test_the_metrics_tell_the_ends_and_the_failures(program, use):
    use()
    program.Attempts("second.example").failed("the CA is down", DAY)
    program.write_metrics(["example.org", "second.example"])
    file = program.STATE / "certificates.prom"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    end = int((NOW + 90 * DAY).timestamp())
    assert lines == [
        f"portcullis_certificates_checked_seconds {int(NOW.timestamp())}",
        f'portcullis_certificate_not_after_seconds{{domain="example.org"}} {end}',
        'portcullis_certificate_failed_attempts{domain="example.org"} 0',
        'portcullis_certificate_failed_attempts{domain="second.example"} 1',
    ]
    assert file.stat().st_mode & 0o777 == 0o644, "the exporter is another user"


def test_an_unknown_domain_is_refused(program, monkeypatch, capsys):
    (program.ACME / "order.json").write_text(json.dumps(SETTINGS))
    monkeypatch.setattr("sys.argv", ["certificate-order", "exampel.org"])
    with pytest.raises(SystemExit):
        program.main()
    assert "no such domain: exampel.org; there are example.org" in capsys.readouterr().err
