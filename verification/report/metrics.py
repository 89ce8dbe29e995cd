"""The verdict as metrics, in the text format of Prometheus, for node_exporter's textfile collector."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def text(document: Mapping[str, Any] | None, status: int, finished: datetime.datetime) -> str:
    """The metrics of a run by its verify.json, None where it left none, and its exit status."""
    return "".join(f"{line}\n" for line in _lines(document, status, finished))


def write(path: Path, document: Mapping[str, Any] | None, status: int) -> None:
    """Write the metrics, readable by everybody, in one step."""
    half = path.with_name(f".{path.name}")
    half.write_text(text(document, status, datetime.datetime.now(datetime.timezone.utc)), encoding="utf-8")
    half.chmod(0o644)
    half.replace(path)


def _lines(document: Mapping[str, Any] | None, status: int, finished: datetime.datetime) -> Iterator[str]:
    yield from _head("status", "Exit status of the last run: 0 all kept, 1 a promise is not kept, 2 not complete.")
    yield f"portcullis_verify_status {status}"
    yield from _head("timestamp_seconds", "When the last run ended.")
    yield f"portcullis_verify_timestamp_seconds {finished.timestamp():.0f}"
    if document is None:
        return
    yield from _head("duration_seconds", "How long the last run took.")
    yield f"portcullis_verify_duration_seconds {document['seconds']}"
    yield from _head("controls", "Promises of each host by what became of them.")
    counted = Counter((control["host"], control["status"]) for control in document["controls"])
    for host in document["hosts"]:
        for word in document["summary"]:
            yield f"portcullis_verify_controls{_labels(host=host, status=word)} {counted[host, word]}"
    yield from _head("failed", "The promises that are not kept.")
    for control in document["controls"]:
        if control["status"] == "failed":
            yield f"portcullis_verify_failed{_labels(host=control['host'], control=control['id'])} 1"


def _head(name: str, meaning: str) -> Iterator[str]:
    yield f"# HELP portcullis_verify_{name} {meaning}"
    yield f"# TYPE portcullis_verify_{name} gauge"


def _labels(**labels: str) -> str:
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
