"""lynis, as Debian packages it: a judge of whole hosts. The host under test needs no copy of its own."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from testinfra.host import Host

from .judges import Opinion, Speechless

# Where Debian's package has what lynis calls, in the one directory that it is carried about in, by these names.
PARTS = {
    "/usr/sbin/lynis": "lynis",
    "/usr/share/lynis/include": "include",
    "/usr/share/lynis/db": "db",
    "/etc/lynis/default.prf": "default.prf",
}
TIME = 600  # seconds for one host
AUDIT = f"""cd %s && mkdir -p plugins && timeout {TIME} sh ./lynis audit system --usecwd --quiet --no-colors \
    --profile default.prf --logfile log --report-file report </dev/null"""
# What lynis warns of and is set aside, in the open, with the reason.
SET_ASIDE: dict[str, str] = {}


def installed() -> bool:
    """Whether this machine has it to carry to others."""
    return all(Path(part).exists() for part in PARTS)


def opinion(host: Host) -> Opinion:
    """What lynis says of a host. It takes a minute, in a directory that is removed afterwards. Raises Speechless."""
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
        with tarfile.open(archive.name, "w:gz") as tar:
            for path, name in PARTS.items():
                tar.add(path, name)
        directory = host.check_output("mktemp --directory /var/tmp/portcullis-lynis.XXXXXX")
        try:
            host.ansible("unarchive", f"src={archive.name} dest={directory} owner=root group=root", check=False)
            run = host.run(AUDIT, directory)
            report = host.run("cat %s/report", directory)
        finally:
            host.check_output("rm -r %s", directory)
    if "finish=true" not in report.stdout.splitlines():
        said = run.stderr.strip() or run.stdout.strip()
        raise Speechless(f"lynis: exit status {run.rc}: {said[-300:] or 'no word'}")
    return read(report.stdout)


def read(report: str) -> Opinion:
    """An opinion by lynis' report of KEY=VALUE lines: its warnings count, its suggestions are told."""
    lines = [line.partition("=") for line in report.splitlines()]
    said = {key: value for key, _, value in lines}
    warned = [value.split("|") for key, _, value in lines if key == "warning[]"]
    suggested = sorted({value.split("|")[0] for key, _, value in lines if key == "suggestion[]"})
    aside = [f"set aside {test}: {SET_ASIDE[test]}" for test, *_ in warned if test in SET_ASIDE]
    findings = [f"{test}: {text}" for test, text, *_ in warned if test not in SET_ASIDE]
    done = len([test for test in said.get("tests_executed", "").split("|") if test])
    verdict = (
        f"{len(findings) or 'no'} warnings, {len(suggested)} suggestions, index {said.get('hardening_index', '?')}"
    )
    words = [f"lynis {said.get('lynis_version', '?')}: {done} tests -> {verdict}", *aside]
    if suggested:
        words.append(f"it suggests {', '.join(suggested)}")
    return Opinion("; ".join(words), findings)
