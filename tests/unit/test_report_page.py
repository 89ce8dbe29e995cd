"""The report: what counts as proof, and that nothing a server says can do more than be read."""

from __future__ import annotations

import datetime
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from verification import catalogue
from verification.catalogue import Control
from verification.report import junit, page
from verification.report.evidence import HIDDEN, clean
from verification.report.results import (
    FAILED,
    NOT_APPLICABLE,
    NOT_SHOWN,
    PLANNED,
    PROVEN,
    WAIVED,
    Outcome,
    Results,
    Run,
    write_json,
)
from verification.waivers import Waiver

BUILT = Control("TLS-01", "plaintext", "A promise", "RFC 7590 section 3.1, XEP-0368, CVE-2011-0411", "built")
COMING = Control("MFA-01", "second-factor", "Another promise", "RFC 6238", "planned", "the second factor")
PASSED = Outcome("passed", ["5222 -> good"], "", "test_tls_1_3_is_spoken")
BROKEN = Outcome("failed", ["5222 -> odd"], "5222 accepted AES256-SHA", "test_weak_suites_are_refused")
AWAY = Outcome("skipped", [], "not shown: a container", "test_the_clock_is_right")
APART = Outcome("skipped", [], "federation is off", "test_servers_must_encrypt_first")
WAIVER = Waiver("TLS-01", "a", "old phones", "Ada Lovelace", datetime.date(9999, 3, 1))
HOSTILE = (
    "<script>alert(1)</script>",
    "</pre><img src=x onerror=alert(2)>",
    "\" onmouseover='alert(3)'",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "[red]markup[/red]",
    "\x1b]0;owned\x07\x1b[2J",
    "\u202egnp.exe",
    "\x00\ud800",
)


def run(*outcomes: Outcome, waivers=(), controls=(BUILT, COMING), hosts=("a",), **changes) -> Run:
    """A run in which each host had these outcomes of the first control."""
    results = Results(controls, list(hosts), waivers)
    for outcome in outcomes:
        results.add([controls[0].id], "", outcome)
    finished = datetime.datetime(2026, 11, 22, 20, 0, tzinfo=datetime.timezone.utc)
    described = {host: f"{host}.example at 192.0.2.1" for host in hosts}
    return Run(list(results.verdicts()), described, finished, 12.3, **changes)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([PASSED], PROVEN),
        ([PASSED, BROKEN, AWAY], FAILED),
        ([PASSED, AWAY], NOT_SHOWN),
        ([PASSED, APART], PROVEN),
        ([APART], NOT_APPLICABLE),
        ([APART, AWAY], NOT_SHOWN),
        ([], NOT_SHOWN),
    ],
)
def test_proof_is_a_test_that_ran_and_passed(outcomes, status):
    assert [verdict.status for verdict in run(*outcomes).verdicts] == [status, PLANNED]


def test_a_waiver_excuses_a_failure_and_nothing_else():
    (waived, _) = run(BROKEN, waivers=[WAIVER]).verdicts
    assert (waived.status, waived.waiver) == (WAIVED, WAIVER)
    assert waived.evidence == [WAIVER.words, "5222 -> odd", "5222 accepted AES256-SHA"]
    assert run(PASSED, waivers=[WAIVER]).verdicts[0].status == PROVEN
    assert run(AWAY, waivers=[WAIVER]).verdicts[0].status == NOT_SHOWN
    ended = Waiver("TLS-01", "a", "old phones", "Ada", datetime.date(2020, 1, 1))
    assert run(BROKEN, waivers=[ended]).verdicts[0].status == FAILED


@pytest.mark.parametrize(
    ("outcomes", "changes", "status", "sentence"),
    [
        ([PASSED], {}, PROVEN, "The one promise tested is kept"),
        ([BROKEN], {}, FAILED, "One promise is not kept"),
        ([BROKEN], {"waivers": [WAIVER]}, WAIVED, "One promise is waived, 0 proven"),
        ([BROKEN], {"problems": ["a: unreachable"]}, NOT_SHOWN, "The verification is not complete"),
        ([AWAY], {}, NOT_SHOWN, "The verification is not complete"),
        ([], {}, NOT_SHOWN, "The verification is not complete"),
    ],
)
def test_the_headline_is_good_only_when_something_was_proven_and_nothing_is_wrong(outcomes, changes, status, sentence):
    headline = page.headline(run(*outcomes, **changes))
    assert (headline.status, headline.sentence) == (status, sentence)


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Keep the element."""
        self.names.append(tag)
        self.attributes += attrs


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["evidence", "reason", "problem", "host"])
def test_hostile_evidence_is_only_read(text, kind):
    harmless, hostile = clean("harmless"), clean(text)

    def rendered(said: str) -> tuple[str, Run]:
        lines, reason = ([said], "") if kind == "evidence" else ([], said)
        made = run(
            Outcome("failed", lines, reason, "test_x"),
            hosts=(said if kind == "host" else "a",),
            problems=[said] if kind == "problem" else [],
        )
        return page.render(made), made

    expected, (text_of_page, made) = Elements(rendered(harmless)[0]), rendered(hostile)
    found = Elements(text_of_page)
    assert found.names == expected.names
    assert [name for name, _ in found.attributes] == [name for name, _ in expected.attributes]
    assert ET.fromstring(ET.tostring(junit.document(made))) is not None


def test_the_page_asks_the_network_for_nothing_and_runs_nothing():
    elements = Elements(page.render(run(PASSED, BROKEN)))
    assert not {"script", "iframe", "img", "object", "embed", "form"} & set(elements.names)
    assert elements.names.count("link") == 1
    loading = [value for name, value in elements.attributes if name in ("src", "srcset", "action", "background")]
    assert not loading
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in [value for _, value in elements.attributes]
    style = (Path(page.__file__).with_name("page.html.j2")).read_text().partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|@font-face", style)


def test_what_is_not_proven_is_never_green():
    for outcomes in ([AWAY], [APART], [BROKEN], []):
        text = page.render(run(*outcomes)).partition("<main>")[2]
        assert 'class="mark proven"' not in text
        assert '<a class="proven"' not in text
    assert 'class="mark proven"' in page.render(run(PASSED)).partition("<main>")[2]


def test_the_page_says_what_was_tried_what_came_back_and_how_to_mend_it():
    text = page.render(run(PASSED, BROKEN, waivers=[WAIVER]))
    for expected in (
        "TLS 1.3 is spoken",
        "Weak suites are refused",
        "5222 -&gt; good",
        "5222 accepted AES256-SHA",
        "Waived until 1 March 9999.",
        "old phones",
        "Ada Lovelace answers for it",
        '<a href="https://www.rfc-editor.org/rfc/rfc7590" rel="noreferrer">RFC 7590</a>',
        "https://xmpp.org/extensions/xep-0368.html",
        "CVERecord?id=CVE-2011-0411",
        "<code>c2s_require_encryption = true</code>",
        "It is to come with the second factor.",
        "a.example at 192.0.2.1",
    ):
        assert expected in text


def test_each_host_has_its_own_word():
    text = page.render(run(PASSED, hosts=("a", "b")))
    assert text.count('class="host"') == 2
    assert "Servers" in text


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        ("test_tls_1_3_is_spoken", "TLS 1.3 is spoken"),
        ("test_keys_in_the_store_are_root_s", "Keys in the store are root's"),
        ("test_scram_sha_256_alone_is_offered", "SCRAM SHA 256 alone is offered"),
        ("test_prosodyctl_finds_nothing", "prosodyctl finds nothing"),
        ("test_prosody_has_no_privilege", "Prosody has no privilege"),
    ],
)
def test_a_test_s_name_is_a_sentence(test, sentence):
    assert page.sentence(test) == sentence


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("alice: hunter22 was taken", f"alice: {HIDDEN} was taken"),
        ("Authorization: Bearer abcdefgh12345", f"Authorization: Bearer {HIDDEN}"),
        ('{"password": "s3cret!x"}', f'{{"password": "{HIDDEN}"}}'),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", HIDDEN),
        ("password is asked for", "password is asked for"),
        ("a\x1b[2Jb\nc", r"a\x1b[2Jb\nc"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("x" * 3000, "x" * 2000 + " ... (1000 characters more)"),
        ("naïve → ✓ 日本", "naïve → ✓ 日本"),
    ],
)
def test_evidence_is_verbatim_but_for_secrets_and_what_acts(said, shown):
    assert clean(said, ["hunter22"]) == shown


def test_junit_passes_only_what_is_proven():
    root = junit.document(run(BROKEN, problems=["b: unreachable"]))
    failed, planned = root.findall("testsuite[@name='a']/testcase")
    assert failed.findtext("failure") == "5222 -> odd\n5222 accepted AES256-SHA"
    assert [skipped.get("message") for skipped in planned] == ["planned: the second factor"]
    counted = [[suite.get(name) for name in ("tests", "failures", "errors", "skipped")] for suite in root]
    assert counted == [["2", "1", "0", "1"], ["1", "0", "1", "0"]]
    assert root.findtext("testsuite/testcase/error") == "b: unreachable"
    (proven, _) = junit.document(run(PASSED)).findall("testsuite/testcase")
    assert [child.tag for child in proven] == ["system-out"]


def test_json_tells_the_same(tmp_path):
    write_json(run(BROKEN, waivers=[WAIVER]), tmp_path / "verify.json")
    document = json.loads((tmp_path / "verify.json").read_text())
    assert document["summary"] == {
        "proven": 0,
        "failed": 0,
        "waived": 1,
        "planned": 1,
        "not_shown": 0,
        "not_applicable": 0,
    }
    control = document["controls"][0]
    assert (control["id"], control["host"], control["status"]) == ("TLS-01", "a", "waived")
    assert control["waiver"] == {"reason": "old phones", "owner": "Ada Lovelace", "expires": "9999-03-01"}


def test_each_control_has_a_remedy_and_each_remedy_a_control():
    controls = {control.id: control for control in catalogue.load()}
    built = {name for name, control in controls.items() if not control.planned}
    assert built <= set(catalogue.remedies()) <= set(controls)
