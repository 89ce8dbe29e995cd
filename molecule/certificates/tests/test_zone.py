"""`./portcullis dns` against a name server that has nothing, everything, or something else."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from verification.test_dns import test_the_dns_says_what_the_virtual_hosts_need as verify_dns

KIT_PYTHON = [sys.executable, "-B"]
PARENT = "$TTL 1\n@ SOA ns admin 1 3600 600 86400 1\n@ NS ns\nns A 192.0.2.53\n"


@pytest.fixture
def portcullis_dns(pytestconfig, tmp_path):
    """A function that runs `./portcullis dns`, and returns the result and the zone snippet it wrote."""

    def run() -> tuple[subprocess.CompletedProcess[str], str]:
        file = tmp_path / "snippet"
        inventory = pytestconfig.getoption("ansible_inventory")
        result = subprocess.run(
            [*KIT_PYTHON, "cli", "dns", "-i", inventory, "--limit", "xmpp", "-e", f"dns_file={file}"],
            cwd=pytestconfig.rootpath,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return result, file.read_text()

    return run


@pytest.fixture
def update(name_server):
    """A function that sends lines to nsupdate."""

    def send(*lines: str) -> None:
        with name_server.sudo():
            script = "\n".join(["server 127.0.0.1", *lines, "send", ""])
            name_server.check_output("printf %%s %s | nsupdate -k /etc/bind/lab.key", script)

    return send


@pytest.mark.control("CERT-21")
def test_what_is_missing_or_other_is_said_and_the_snippet_mends_it(
    portcullis_dns, update, name_server, target, authority, evidence
):
    result, snippet = portcullis_dns()
    lines = [line for line in snippet.splitlines() if not line.startswith(";")]
    missing = [line for line in lines if " SRV " in line or " CAA " in line]
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{len(missing)} are missing and 0 differ" in result.stdout
    evidence(f"{len(missing)} of {len(lines)} record sets are not there -> {len(missing)} are missing")

    check = f"printf %s {shlex.quote(PARENT + snippet)} > /tmp/zone && named-checkzone example /tmp/zone"
    assert "OK" in name_server.check_output(check)
    update(*(f"update add {line}" for line in missing))
    try:
        result, _ = portcullis_dns()
        assert result.returncode == 0, result.stdout
        assert "✗" not in result.stdout
        assert "≠" not in result.stdout
        verify_dns(target, authority, evidence)
        evidence("the snippet in the zone -> nothing is missing, nothing differs")

        update(
            "update delete _xmpp-client._tcp.one.example. SRV",
            "update add _xmpp-client._tcp.one.example. 1 SRV 0 5 5222 x.example.",
        )
        result, _ = portcullis_dns()
        assert result.returncode == 1
        assert "0 are missing and 1 differ" in result.stdout
        assert "there is 0 5 5222 x.example." in result.stdout
        with pytest.raises(AssertionError, match=r"5222 x\.example\."):
            verify_dns(target, authority, evidence)
        evidence("one SRV record changed -> 1 differs: there is 0 5 5222 x.example.")
    finally:
        update(*(f"update delete {line.split()[0]} {line.split()[3]}" for line in missing))
