"""What the hosts of this run have said of transactions that stand, for as long as nothing has changed there since.

The callback plugin `standing` notes it in Ansible's main process; the action plugin install_files asks in the workers,
which are forked from that process for each task. Where the callback is not enabled nothing is known, and everything is
asked of the host anew.
"""

from __future__ import annotations

import hashlib

_KNOWN: dict[str, dict[str, str]] = {}


def note(host: str, digests: dict[str, str]) -> None:
    """A host has said which plans stand: their digests by their manifest's name."""
    _KNOWN[host] = digests


def forget(host: str | None = None) -> None:
    """Something was changed on a host, or no one knows on which."""
    if host is None:
        _KNOWN.clear()
    else:
        _KNOWN.pop(host, None)


def is_standing(host: str, manifest: str, plan: bytes) -> bool:
    """Whether the host has said of exactly this plan that nothing is to be done."""
    return bool(manifest) and _KNOWN.get(host, {}).get(manifest) == hashlib.sha256(plan).hexdigest()
