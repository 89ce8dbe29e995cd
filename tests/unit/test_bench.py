"""The frame of the benchmarks: what is written down, what is shown, how it ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from xml.etree import ElementTree as ET

import pytest

from cli import bench
from cli.benchmarks import PARTS, Figure, attack, paired, report, spread
from cli.lab import Failed
from cli.main import main
from verification.probes import flood

SIDES = {"stock": [4.0, 5.0, 6.0], "ours": [2.0, 2.0, 2.0]}


def figure(**changes) -> Figure:
    """A figure that meets its target."""
    values = {"key": "server.login_cpu_over_stock", "label": "A login", "unit": "ms", "sides": SIDES}
    return Figure(**{**values, "ratio": 0.4, "target": 0.6, **changes})


@pytest.fixture
def ratios(monkeypatch, tmp_path):
    """Run the command with parts that find these figures, and return its status and what bench.json has then."""
    path = tmp_path / "reports" / "bench.json"
    monkeypatch.setattr(bench, "REPORT", path)
    monkeypatch.setattr(bench, "ROOT", tmp_path)

    def run(*parts: str, **found: list[Figure] | Failed) -> tuple[int, dict]:
        def measure(part: str) -> list[Figure]:
            outcome = found[part]
            if isinstance(outcome, Failed):
                raise outcome
            return outcome

        for part in PARTS:
            monkeypatch.setattr(bench.module(part), "measure", lambda part=part: measure(part))
        status = main(["bench", *parts])
        return status, json.loads(path.read_text()) if path.exists() else {}

    return run


def test_a_target_that_is_met_is_good_and_one_that_is_missed_fails(ratios) -> None:
    assert ratios("server", server=[figure()])[0] == 0
    assert ratios("server", server=[figure(ratio=0.61)])[0] == 1
    assert ratios("server", server=[figure(ratio=9.0, target=None)])[0] == 0


def test_a_part_that_is_measured_again_leaves_the_others(ratios) -> None:
    ratios("server", server=[figure()])
    ratios("mfa", mfa=[figure(key="mfa.login_cpu_over_internal_hashed.1_device", ratio=1.05, target=1.3)])
    _, document = ratios("server", server=[figure(ratio=0.5)])
    assert document["ratios"] == {
        "server.login_cpu_over_stock": 0.5,
        "mfa.login_cpu_over_internal_hashed.1_device": 1.05,
    }
    side = document["parts"]["server"]["figures"][0]["sides"]["stock"]
    assert side == {"median": 5.0, "spread": 0.5, "rounds": [4.0, 5.0, 6.0]}


def test_a_part_that_breaks_off_fails_and_the_next_is_measured(ratios, capsys) -> None:
    status, document = ratios("server", "mfa", server=Failed("no such host"), mfa=[figure(key="mfa.x", target=None)])
    assert status == 1
    assert list(document["parts"]) == ["mfa"]
    assert "no such host" in capsys.readouterr().out


def test_without_a_part_all_are_measured(ratios) -> None:
    _, document = ratios(**{part: [figure(key=f"{part}.x", target=None)] for part in PARTS})
    assert list(document["parts"]) == list(PARTS)


def test_an_unknown_part_is_wrong_use(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "sever"])
    assert ended.value.code == 2
    assert "there is no part 'sever'; there are server, deploy" in capsys.readouterr().err


def test_the_page_shows_every_figure_and_asks_the_network_for_nothing(ratios, tmp_path) -> None:
    many = {f"task <{number}>": [float(number)] for number in range(12)}
    ratios("server", server=[figure(ratio=0.7), figure(key="server.tasks", label="Tasks", sides=many, target=None)])
    page = (tmp_path / "reports" / "bench.html").read_text()
    assert "0 of 1 promises of speed are kept" in page
    assert "task &lt;11&gt;" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    for plot in page.split("<svg class")[1:]:
        ET.fromstring("<svg class" + plot.partition("</svg>")[0] + "</svg>")


def test_figures_of_the_same_values_are_shown_as_one(capsys) -> None:
    report.show([figure(), figure(key="server.login_cpu_over_ejabberd", ratio=0.9, target=1.0)])
    shown = capsys.readouterr().out
    assert shown.count("A login, ms") == 1
    assert "0.40 of stock" in shown and "0.90 of ejabberd" in shown and "≤ 0.6 ✓" in shown


def test_a_ratio_is_that_of_the_rounds_so_a_slow_moment_counts_for_both() -> None:
    assert paired([2.0, 20.0, 2.0], [4.0, 40.0, 4.0]) == 0.5
    with pytest.raises(ValueError, match="longer"):
        paired([1.0], [1.0, 2.0])
    assert spread([1.0]) == 0.0


def test_a_number_is_told_with_the_digits_that_mean_something() -> None:
    assert [report.significant(number) for number in (0.0, 0.0421, 2.714, 16.23, 1650.4)] == [
        *("0", "0.0421", "2.71", "16.2", "1650"),
    ]


def test_help_takes_the_standard_library_alone() -> None:
    """The entry script asks every part what it needs before anything is installed."""
    import subprocess  # noqa: PLC0415

    command = [sys.executable, "-I", "-S", str(Path(bench.__file__).parent), "--needs", "bench"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout.split()) == (0, ["containers"])


@pytest.mark.parametrize(("crashes", "floods"), [(0, 1), (attack.ATTEMPTS - 1, attack.ATTEMPTS)])
def test_a_flood_whose_attackers_crash_is_tried_again(monkeypatch, crashes, floods):
    tried = []

    def endure(*_: object) -> None:
        tried.append("once")
        if len(tried) <= crashes:
            attack.finish(subprocess.Popen(["sh", "-c", "kill -ABRT $$"], stdout=PIPE, stderr=PIPE, text=True))

    monkeypatch.setattr(attack, "endure", endure)
    monkeypatch.setattr(attack.time, "sleep", lambda _: None)
    attack.persist(attack.Side("ours", "", ""), 0, "tls", attack.Outcome())
    assert len(tried) == floods


def test_an_answer_came_when_the_kernel_got_it_not_when_somebody_looks():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.setsockopt(socket.SOL_SOCKET, flood.SO_TIMESTAMPNS, 1)
        connection, _ = server.accept()
        with connection:
            time.sleep(0.1)  # until the kernel has begun to stamp
            connection.send(b"answer")
            sent = time.monotonic()
            time.sleep(0.2)
            assert abs(flood._arrival(client) - sent) < 0.1
            assert client.recv(100) == b"answer"
            client.setblocking(False)
            assert abs(flood._arrival(client) - time.monotonic()) < 0.1, "where nothing came, the time is now"


@pytest.mark.parametrize(("status", "crashed"), [(134, True), (1, False)])
def test_a_crash_is_told_from_a_failure(status, crashed):
    with pytest.raises(Failed) as raised:
        attack.finish(subprocess.Popen(["sh", "-c", f"exit {status}"], stdout=PIPE, stderr=PIPE, text=True))
    assert isinstance(raised.value, attack.Crashed) == crashed
