"""The HTML page: one file that asks the network for nothing, runs no script, and prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from verification import catalogue

from .results import FAILED, NOT_APPLICABLE, NOT_SHOWN, PLANNED, PROVEN, WAIVED, Outcome, Run, Verdict
from .terminal import MARKS, WORDS

# The worst first: what one host of several lacks, the control lacks.
GRAVITY = (FAILED, WAIVED, NOT_SHOWN, PROVEN, NOT_APPLICABLE, PLANNED)
MEANINGS = {
    PROVEN: "tried on this server, and it held",
    FAILED: "tried, and it did not hold: to be mended",
    WAIVED: "did not hold; somebody answers for it until a stated day",
    NOT_SHOWN: "could not be tried here, or not all of it",
    NOT_APPLICABLE: "there is nothing here that it is about",
    PLANNED: "announced; nothing tests it yet",
}
STATUS_OF = {"passed": PROVEN, "failed": FAILED, "skipped": NOT_SHOWN}
STANDARD = re.compile(r"RFC (?P<rfc>\d{3,5})|XEP-(?P<xep>\d{4})|(?P<cve>CVE-\d{4}-\d{4,})|CWE-(?P<cwe>\d+)")
ACRONYMS = re.compile(r"\b(bosh|https?|icmp|omemo|os|sasl2?|scram|sha|ssh|ssl3?|tls|udp|xmpp)\b")
PROPER = {"icmp": "ICMP", "nginx": "nginx", "prosody": "Prosody", "prosodyctl": "prosodyctl", "websocket": "WebSocket"}


@dataclass(frozen=True)
class Check:
    """What was tried, under one name, and what came back."""

    name: str
    status: str
    lines: list[str]


@dataclass(frozen=True)
class Headline:
    """The verdict: a sentence, what it means, and the status that gives it its colour."""

    status: str
    sentence: str
    meaning: str


def render(run: Run) -> str:
    """The page. Everything that comes from a host is escaped; the page's own policy forbids scripts and requests."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"linked": linked, "prose": prose, "checks": checks, "worst": worst}
    several = len(run.hosts) > 1
    by_control = [list(group) for _, group in groupby(run.verdicts, lambda verdict: verdict.id)]
    return environment.get_template("page.html.j2").render(
        run=run,
        several=several,
        headline=headline(run),
        marks=MARKS,
        words=WORDS,
        meanings=MEANINGS,
        summary=run.summary,
        failed=[verdict for verdict in run.verdicts if verdict.status == FAILED],
        threats=[
            (threat, [group for group in by_control if group[0].control.threat == threat.id])
            for threat in catalogue.threats()
        ],
        areas=[
            (title, [group for group in by_control if group[0].control.area == area])
            for area, title in catalogue.areas().items()
        ],
        remedies=catalogue.remedies(),
    )


def write(run: Run, path: Path) -> None:
    """Write verify.html."""
    path.write_text(render(run), encoding="utf-8")


def headline(run: Run) -> Headline:
    """The verdict over the whole run. Only a run that is complete and proved something is good."""
    counts = run.summary
    failed, proven, waived = counts[FAILED], counts[PROVEN], counts[WAIVED]
    if run.problems or not proven + failed + waived:
        meaning = (
            f"What was tried so far: {_promises(failed)} not kept." if failed else "Nothing can be concluded from it."
        )
        return Headline(NOT_SHOWN, "The verification is not complete", meaning)
    if failed:
        return Headline(FAILED, f"{_promises(failed)} not kept", "What is wrong, and how to mend it, stands below.")
    left = counts[NOT_SHOWN] + counts[PLANNED]
    rest = f" {left} more could not be shown or are only planned, and count for nothing." if left else ""
    if waived:
        sentence = f"{_promises(waived)} waived, {proven} proven"
        return Headline(WAIVED, sentence, f"Each exception has an owner and ends on a stated day.{rest}")
    sentence = f"All {proven} promises that were tested are kept" if proven > 1 else "The one promise tested is kept"
    return Headline(PROVEN, sentence, f"What is proven was tried on the server.{rest}")


def worst(verdicts: Sequence[Verdict]) -> str:
    """The status that speaks for a control on several hosts."""
    return min((verdict.status for verdict in verdicts), key=GRAVITY.index)


def checks(verdict: Verdict) -> list[Check]:
    """What was tried for a verdict, each name once; a name with a failure shows it."""
    order = ("failed", "skipped", "passed")
    found = []
    for name, outcomes in _by_name(verdict.outcomes).items():
        worst_outcome = min((outcome.outcome for outcome in outcomes), key=order.index)
        applies = any(outcome.applies for outcome in outcomes)
        status = STATUS_OF[worst_outcome] if applies else NOT_APPLICABLE
        reasons = [outcome.reason for outcome in outcomes if outcome.reason]
        lines = [line for outcome in outcomes for line in outcome.evidence]
        found.append(Check(sentence(name), status, list(dict.fromkeys([*lines, *reasons]))))
    return found


def sentence(test: str) -> str:
    """A test's name as a sentence: "test_tls_1_3_is_spoken" -> "TLS 1.3 is spoken"."""
    words = test.removeprefix("test_").replace("_", " ")
    words = re.sub(r"(?<=\d) (?=\d\b)", ".", words)
    words = re.sub(r"(\w) s\b", r"\1's", words)
    words = ACRONYMS.sub(lambda found: found[0].upper(), words)
    words = re.sub(r"\b[a-z]+\b", lambda found: PROPER.get(found[0], found[0]), words)
    return words if words.startswith(("nginx", "prosodyctl")) else words[:1].upper() + words[1:]


def linked(standard: str) -> Markup:
    """The name of a standard, with a link to each document that has a well-known address."""
    text = str(escape(standard))

    def link(found: re.Match[str]) -> str:
        if found["rfc"]:
            address = f"https://www.rfc-editor.org/rfc/rfc{found['rfc']}"
        elif found["xep"]:
            address = f"https://xmpp.org/extensions/xep-{found['xep']}.html"
        elif found["cve"]:
            address = f"https://www.cve.org/CVERecord?id={found['cve']}"
        else:
            address = f"https://cwe.mitre.org/data/definitions/{found['cwe']}.html"
        return f'<a href="{address}" rel="noreferrer">{found[0]}</a>'

    return Markup(STANDARD.sub(link, text))


def prose(text: str) -> Markup:
    """Text of the catalogue, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _by_name(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    named: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        named.setdefault(outcome.tried, []).append(outcome)
    return named


def _promises(count: int) -> str:
    return "One promise is" if count == 1 else f"{count} promises are"
