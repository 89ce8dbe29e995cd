"""The facts of debian_facts are those of os-release and dpkg."""

import shutil
import subprocess
from pathlib import Path

import pytest

from plugins.modules.debian_facts import installed_packages, os_release

STATUS = """\
Package: prosody
Status: install ok installed
Version: 13.0.1-1+deb131u
Description: XMPP server
 Package: not a field

Package: exim4
Status: deinstall ok config-files
Version: 4.98-1

Package: nginx
Status: install ok half-configured
Version: 1.26.3-3
"""


def test_only_what_is_fully_installed_counts() -> None:
    assert installed_packages(STATUS) == {"prosody": [{"version": "13.0.1-1+deb131u"}]}


def test_os_release_is_unquoted() -> None:
    assert os_release('# comment\nID=debian\nVERSION_ID="13"\n') == {"ID": "debian", "VERSION_ID": "13"}


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="dpkg is the judge, and this machine has none")
def test_dpkg_agrees() -> None:
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = {name: version for state, name, version in map(str.split, listed.splitlines()) if state == "installed"}
    found = installed_packages(Path("/var/lib/dpkg/status").read_text(encoding="utf-8"))
    assert {name: versions[0]["version"] for name, versions in found.items()} == wanted
