"""JUnit XML, as build servers read it: a suite for each host, a case for each control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from .results import FAILED, PROVEN, Run, Verdict
from .terminal import WORDS


def document(run: Run) -> ET.Element:
    """The `testsuites` element. Only what was proven passes; what failed fails; all else is skipped and says why."""
    root = ET.Element("testsuites", name="portcullis verify")
    for host in run.hosts:
        _suite(root, host, [verdict for verdict in run.verdicts if verdict.host == host], run)
    if run.problems:
        suite = ET.SubElement(root, "testsuite", name="the run", tests="1", errors="1", failures="0", skipped="0")
        case = ET.SubElement(suite, "testcase", classname="verify", name="The verification is complete")
        ET.SubElement(case, "error", message=run.problems[0]).text = "\n".join(run.problems)
    return root


def write(run: Run, path: Path) -> None:
    """Write verify.junit.xml."""
    tree = ET.ElementTree(document(run))
    ET.indent(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _suite(root: ET.Element, host: str, verdicts: Sequence[Verdict], run: Run) -> None:
    failed = sum(verdict.status == FAILED for verdict in verdicts)
    skipped = sum(verdict.status not in (FAILED, PROVEN) for verdict in verdicts)
    suite = ET.SubElement(root, "testsuite", name=host, timestamp=run.finished.isoformat(timespec="seconds"))
    for name, count in (("tests", len(verdicts)), ("failures", failed), ("errors", 0), ("skipped", skipped)):
        suite.set(name, str(count))
    for verdict in verdicts:
        case = ET.SubElement(suite, "testcase", classname=f"{host}.{verdict.control.area}")
        case.set("name", f"{verdict.id} {verdict.title}")
        text = "\n".join(verdict.evidence)
        if verdict.status == FAILED:
            ET.SubElement(case, "failure", message=verdict.evidence[-1] if verdict.evidence else "failed").text = text
        elif verdict.status == PROVEN:
            ET.SubElement(case, "system-out").text = text
        else:
            reason = verdict.evidence[0] if verdict.evidence else ""
            ET.SubElement(case, "skipped", message=f"{WORDS[verdict.status]}: {reason}").text = text
