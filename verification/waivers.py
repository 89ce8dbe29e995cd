"""Exceptions: a control that is known not to hold on a host, why, who answers for it, and until when.

They are written down beside the inventory, in waivers.yml:

    - control: WEB-03
      host: example.org
      reason: The website at the same name is not ready for HSTS; ticket 4711
      owner: Ada Lovelace
      expires: 2027-03-31
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

NAME = "waivers.yml"
EVERY_HOST = "all"


class Malformed(Exception):
    """A file of waivers that cannot be understood; the text says where and what is wrong."""


@dataclass(frozen=True)
class Waiver:
    """One exception. It holds up to and including the day `expires`; `host` "all" means each host."""

    control: str
    host: str
    reason: str
    owner: str
    expires: datetime.date

    def holds(self, control: str, host: str, today: datetime.date | None = None) -> bool:
        """Whether it excuses that control on that host, today."""
        return self.control == control and self.host in (host, EVERY_HOST) and not self.expired(today)

    def expired(self, today: datetime.date | None = None) -> bool:
        """Whether its last day is over."""
        return (today or datetime.date.today()) > self.expires

    @property
    def words(self) -> str:
        """The exception in one line."""
        return f"waived until {self.expires} by {self.owner}: {self.reason}"

    def document(self) -> dict[str, str]:
        """As verify.json has it."""
        return {name: str(value) for name, value in asdict(self).items() if name not in ("control", "host")}


def beside(inventory: str | None) -> Path | None:
    """The file of waivers that belongs to an inventory; None where there is none."""
    if not inventory or "," in inventory:
        return None
    path = Path(inventory)
    file = (path if path.is_dir() else path.parent) / NAME
    return file if file.exists() else None


def load(path: Path | None) -> tuple[Waiver, ...]:
    """The waivers of a file; none without one. Raises Malformed."""
    if path is None:
        return ()
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Malformed(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise Malformed(f"{path}: a list of waivers is wanted, this is a {type(entries).__name__}")
    return tuple(_waiver(entry, f"{path}: waiver {number}") for number, entry in enumerate(entries, 1))


def faults(waivers: Sequence[Waiver], host: str, hosts: Iterable[str], controls: Iterable[str]) -> list[str]:
    """What is wrong with the waivers that concern a host; one for a host that does not exist concerns every host."""
    known, ids = set(hosts), set(controls)
    found = []
    for waiver in waivers:
        name = f"{waiver.control} on {waiver.host}"
        if waiver.host not in known | {EVERY_HOST}:
            found.append(f"{name}: there is no such host")
        elif waiver.host in (host, EVERY_HOST):
            if waiver.control not in ids:
                found.append(f"{name}: there is no such control")
            if waiver.expired():
                found.append(f"{name}: ended on {waiver.expires}; {waiver.owner} answers for it")
    return found


def _waiver(entry: Any, place: str) -> Waiver:
    names = [field.name for field in fields(Waiver)]
    if not isinstance(entry, dict):
        raise Malformed(f"{place}: {', '.join(names)} are wanted, this is a {type(entry).__name__}")
    unknown = [str(name) for name in entry if name not in names]
    missing = [name for name in names if entry.get(name) in (None, "")]
    if unknown or missing:
        wrong = [f"{name} is missing" for name in missing] + [f"{name} is not known" for name in unknown]
        raise Malformed(f"{place}: {', '.join(wrong)}")
    expires = entry["expires"]
    if isinstance(expires, datetime.datetime) or not isinstance(expires, datetime.date):
        raise Malformed(f"{place}: expires is wanted as a date such as 2027-03-31, not {expires!r}")
    texts = {name: " ".join(str(entry[name]).split()) for name in names if name != "expires"}
    if not all(texts.values()):
        raise Malformed(f"{place}: {', '.join(name for name, text in texts.items() if not text)} must say something")
    return Waiver(**texts, expires=expires)
