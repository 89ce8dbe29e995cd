"""The filter orders versions as dpkg does, and the package gate refuses what it must."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from plugins.filter.debian import DebianVersion, in_debian_ranges

VERSIONS = [
    "13.0.1-1",
    "13.0.1-1+deb131u",
    "13.0.1-1+deb13u2",
    "13.0.1-1~bpo12+1",
    "13.0.6-1~bpo13+1",
    "13.0.6",
    "0.12.3-1+deb12u1",
    "1:0.9",
    "1.0~rc1-1",
    "1.0-1",
    "1.0a-1",
    "1.0+b-1",
    "1.00-1",
    "1.0-1.1",
]


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg is the judge, and this machine has none")
@pytest.mark.parametrize(("left", "right"), list(itertools.product(VERSIONS, repeat=2)))
def test_order_is_that_of_dpkg(left: str, right: str) -> None:
    dpkg = subprocess.run(["dpkg", "--compare-versions", left, "lt", right], check=False).returncode == 0
    assert (DebianVersion(left) < DebianVersion(right)) == dpkg


@pytest.mark.parametrize("text", ["", "-", "a b", "1.0_1"])
def test_refuses_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="not a Debian package version"):
        DebianVersion(text)


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("", False),
        ("13.0.1-1+deb131u", True),
        ("13.0.6-1~bpo13+1", True),
        ("13.0.1-1", False),
        ("13.0.1-1~bpo12+1", False),
        ("13.0.4-1~bpo13+1", False),
        ("13.0.5-1~bpo13+1", True),
        ("0.12.3-1+deb12u1", False),
        ("14.0.0-1", False),
    ],
)
def test_package_gate(version: str, accepted: bool) -> None:
    ranges = yaml.safe_load(Path("roles/prosody/vars/main.yml").read_text(encoding="utf-8"))["__prosody_fixed_versions"]
    assert in_debian_ranges(version, ranges) is accepted
