"""Compare Debian package versions on the control node, as dpkg does on the host."""

from __future__ import annotations

import re
from functools import total_ordering
from itertools import zip_longest
from typing import Any


def _weight(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _part_key(part: str) -> list[tuple[list[int], int]]:
    pairs = re.findall(r"([^0-9]*)([0-9]*)", part)
    return [([_weight(c) for c in text], int(number or 0)) for text, number in pairs if text or number]


def _compare_text(left: list[int], right: list[int]) -> int:
    for a, b in zip_longest(left, right, fillvalue=0):
        if a != b:
            return -1 if a < b else 1
    return 0


def _compare_part(left: str, right: str) -> int:
    for (a_text, a_number), (b_text, b_number) in zip_longest(_part_key(left), _part_key(right), fillvalue=([], 0)):
        order = _compare_text(a_text, b_text) or (a_number > b_number) - (a_number < b_number)
        if order:
            return order
    return 0


@total_ordering
class DebianVersion:
    """A package version, ordered as Debian Policy 5.6.12 says."""

    def __init__(self, version: str) -> None:
        """Split ``[epoch:]upstream[-revision]``; raise ValueError when *version* is none."""
        match = re.fullmatch(r"(?:([0-9]+):)?([0-9][A-Za-z0-9.+~:-]*?)(?:-([A-Za-z0-9.+~]+))?", version)
        if not match:
            raise ValueError(f"not a Debian package version: {version!r}")
        self.epoch = int(match[1] or 0)
        self.upstream: str = match[2]
        self.revision: str = match[3] or "0"

    def _order(self, other: DebianVersion) -> int:
        return (
            (self.epoch > other.epoch) - (self.epoch < other.epoch)
            or _compare_part(self.upstream, other.upstream)
            or _compare_part(self.revision, other.revision)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DebianVersion) and self._order(other) == 0

    def __lt__(self, other: DebianVersion) -> bool:
        return self._order(other) < 0

    def __hash__(self) -> int:
        return hash((self.epoch, self.upstream, self.revision))


def in_debian_ranges(version: str, ranges: list[dict[str, str]]) -> bool:
    """Say whether *version* lies in one of *ranges*; an empty one, of a package not installed, does not.

    Each range is ``{"from": lowest accepted version, "below": first version no longer in the range}``.
    """
    if not version:
        return False
    wanted = DebianVersion(version)
    return any(DebianVersion(r["from"]) <= wanted < DebianVersion(r["below"]) for r in ranges)


class FilterModule:
    """Ansible's entry."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"in_debian_ranges": in_debian_ranges}
