"""The host's end of the certificates: what it keeps of domains that are withdrawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from plugins.modules import certificate_store


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """A host that serves two domains, and keeps something of its own beside them."""
    monkeypatch.setattr(certificate_store, "STORE", tmp_path / "certificates")
    monkeypatch.setattr(certificate_store, "ORDERS", [tmp_path / "issued", tmp_path / "state"])
    for domain in ("example.org", "second.example"):
        pair = tmp_path / "certificates" / domain / "pair.1"
        pair.mkdir(parents=True)
        (pair / "privkey.pem").write_text("secret")
        (pair.parent / "current").symlink_to("pair.1")
        for file in (f"issued/{domain}.json", f"state/{domain}.json", f"state/{domain}.tlsa.json"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
    (tmp_path / "certificates" / "deploy.d").mkdir()
    (tmp_path / "state" / "certificates.prom").touch()
    return tmp_path


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir() or file.name == "deploy.d"}


def test_what_is_kept_of_a_domain_that_is_not_served_is_removed_and_nothing_else(kept):
    before = files(kept)
    store = certificate_store.Store(SimpleNamespace())  # type: ignore[arg-type]
    others = store.kept_for_others(["example.org"])
    assert set(others) == {"second.example"}
    store.remove(others["second.example"])
    assert files(kept) == {file for file in before if "second.example" not in file}


def test_of_the_domains_that_are_served_everything_stays(kept):
    store = certificate_store.Store(SimpleNamespace())  # type: ignore[arg-type]
    assert store.kept_for_others(["second.example", "example.org"]) == {}
