"""Servers that nobody can judge, over real connections: a line for each, and the report is written all the same."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from verification.catalogue import KIT

STREAM = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
CLIENT = STREAM + b"<stream:features/>"
LATER = """
import pytest

@pytest.mark.control("TLS-01")
def test_it(target):
    for _ in range(2):
        with target.channel(5222):
            pass
"""


@contextmanager
def server(*answers: bytes | None) -> Iterator[int]:
    """A port that answers each connection with the next words, holds the line in silence for None, and then is gone."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    held = []

    def serve() -> None:
        with listening:
            for words in answers:
                connection, _ = listening.accept()
                held.append(connection)
                if words is not None:
                    connection.sendall(words)

    threading.Thread(target=serve, daemon=True).start()
    yield port
    for connection in held:
        connection.close()


def verify(directory: Path, port: int) -> subprocess.CompletedProcess[str]:
    """Judge the server at a port from outside; it must not take for ever."""
    (directory / "conftest.py").write_text("from verification.conftest import *\n")
    (directory / "test_it.py").write_text(LATER)
    others = dict.fromkeys((5223, 5269, 5270, 80, 443), "not offered")
    host: dict[str, object] = {
        "xmpp_domain": "x.example",
        "verification_connect": "127.0.0.1",
        "verification_absent": others,
    }
    host |= {"verification_ports": {5222: port}}
    (directory / "hosts.yml").write_text(json.dumps({"xmpp": {"hosts": {"x": host}}}))
    command = [sys.executable, "-m", "pytest", str(directory), "-p", "verification.report.plugin", "-c", "/dev/null"]
    command += ["-p", "no:cacheprovider", "--hosts=ansible://xmpp", f"--ansible-inventory={directory / 'hosts.yml'}"]
    command += ["--from-outside", "--only=TLS-01", f"--report-dir={directory / 'report'}"]
    return subprocess.run(command, cwd=KIT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "Connection refused"),
        ([None], "nothing within 10 s"),
        ([b"\x00\xff\xfe" * 50], "does not speak XMPP"),
        ([b"SSH-2.0-OpenSSH_10.0\r\n"], "does not speak XMPP"),
        ([CLIENT, CLIENT], "Connection refused"),
        ([CLIENT, CLIENT, None, None], "nothing within 10 s"),
    ],
    ids=["nobody", "silence", "garbage", "another service", "gone half-way", "silent half-way"],
)
def test_what_cannot_be_judged_is_a_line_and_a_report(tmp_path, answers, said):
    with server(*answers) as port:
        run = verify(tmp_path, port)
    assert run.returncode == 2, run.stdout + run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("x.example: ")]
    assert len(lines) == 1, run.stdout
    assert said in lines[0]
    assert "Traceback" not in run.stdout + run.stderr
    document = json.loads((tmp_path / "report" / "verify.json").read_text())
    assert document["problems"] == lines
    assert document["summary"]["proven"] == 0
    assert said in (tmp_path / "report" / "verify.html").read_text()
    assert (tmp_path / "report" / "verify.junit.xml").exists()
