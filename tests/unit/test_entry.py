"""The entry: what it accepts, what it refuses, and that wrong use costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import deploy, main, test, verify
from cli.common import FAILED, GOOD, ROOT, WRONG

PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}"


def call(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ./portcullis as a person would."""
    return subprocess.run(
        [ROOT / "portcullis", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """The commands that would have been run; each ends as the test sets `status`."""
    ran: list[list[str]] = []

    def run(command, **_):
        ran.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, status.pop(0) if status else 0, stdout="")

    status: list[int] = []
    monkeypatch.setattr(subprocess, "run", run)
    return ran


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in main.COMMANDS)])
def test_help_needs_nothing_installed(arguments, tmp_path):
    # A Python without site-packages, and a path without any tool of ours.
    result = subprocess.run(
        [PYTHON, "-I", "-S", "-B", ROOT / "cli", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == GOOD, result.stderr
    assert "portcullis" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice"),
        (["demo", "--forever"], "--forever"),
        (["test", "everything"], "lint, unit, "),
        (["test", "--jobs", "0"], "'0' is not a whole number"),
        (["deploy"], "--inventory"),
        (["deploy", "-i", "nowhere.yml"], "no inventory 'nowhere.yml'"),
        (["dns"], "--inventory"),
        (["dns", "-i", "nowhere.yml"], "no inventory 'nowhere.yml'"),
        (["verify"], "--inventory"),
        (["verify", "-i", "nowhere.yml"], "no inventory 'nowhere.yml'"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_installed(arguments, complaint, tmp_path):
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == WRONG
    assert complaint in result.stderr
    assert "Installing" not in result.stderr


def test_works_through_a_link_and_from_any_folder(tmp_path):
    (tmp_path / "cli.py").write_text("raise SystemExit('the wrong cli')")
    (tmp_path / "portcullis").symlink_to(ROOT / "portcullis")
    result = subprocess.run(
        [tmp_path / "portcullis", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == GOOD, result.stderr


def test_needs_are_those_of_the_command():
    def needs(*arguments: str) -> list[str]:
        parsed, _ = main.parser().parse_known_args(arguments)
        return main.COMMANDS[parsed.command].needs(parsed)

    inventory = str(ROOT / "inventories" / "example" / "hosts.yml")
    assert needs("deploy", "-i", inventory) == needs("verify", "-i", inventory) == []
    assert needs("test", "lint", "unit") == ["tests"]
    assert needs("test", "default") == ["tests", "containers"]
    assert needs("demo") == ["containers"]


def test_deploy_hands_every_other_argument_to_ansible(commands):
    inventory = str(ROOT / "inventories" / "example" / "hosts.yml")
    assert main.main(["deploy", "-i", inventory, "--check", "--limit", "a,b", "-e", "x=y", "-v"]) == GOOD
    (command,) = commands
    assert command[1:3] == ["-i", inventory]
    assert command[3:] == [str(deploy.PLAYBOOK), "--check", "--limit", "a,b", "-e", "x=y", "-v"]


@pytest.mark.parametrize(
    ("status", "told", "expected"),
    [
        (0, '{"changed": 3, "refused": false}', deploy.Outcome(GOOD, 3)),
        (2, '{"changed": 0, "refused": true}', deploy.Outcome(WRONG, 0)),
        (0, '{"changed": 0, "refused": true}', deploy.Outcome(WRONG, 0)),
        (2, '{"changed": 1, "refused": false}', deploy.Outcome(FAILED, 1)),
        (2, '{"changed": 1, "refused": true}', deploy.Outcome(FAILED, 1)),  # one host was refused, another changed
        (4, '{"changed": 0, "refused": false}', deploy.Outcome(FAILED, 0)),
        (4, None, deploy.Outcome(WRONG)),
        (0, None, deploy.Outcome(GOOD)),
    ],
)
def test_deploy_tells_a_refusal_from_a_failure(monkeypatch, status, told, expected):
    def run(command, env, **_):
        if told:
            Path(env["PORTCULLIS_OUTCOME"]).write_text(told)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", run)
    assert deploy.play(deploy.PLAYBOOK, ["hosts.yml"]) == expected


@pytest.mark.parametrize(
    ("status", "expected"), [(0, GOOD), (1, FAILED), (2, WRONG), (3, WRONG), (4, WRONG), (-9, WRONG)]
)
def test_verify_ends_as_pytest_does(monkeypatch, status, expected):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, status))
    assert main.main(["verify", "-i", str(ROOT / "inventories" / "example")]) == expected


def test_verify_passes_on_what_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = verify.command("/inventory", Path("report"), "TLS-01,TLS-02")
    assert "--ansible-inventory=/inventory" in command
    assert f"--report-dir={tmp_path}/report" in command
    assert "--only=TLS-01,TLS-02" in command
    assert "--hosts=ansible://xmpp" in command
    assert not any(word.startswith("--accounts") for word in command)
    assert "--hosts=ansible://one,ansible://two" in verify.command("/inventory", limit="one,two")


def test_verify_refuses_a_missing_file_of_accounts(capsys):
    assert main.main(["verify", "-i", str(ROOT / "inventories" / "example"), "--accounts", "nowhere.yml"]) == WRONG
    assert "nowhere.yml" in capsys.readouterr().err


@pytest.fixture
def fake_stages(monkeypatch, tmp_path):
    """A function that replaces every stage: name -> steps."""

    def replace(**stages: list[test.Step]) -> None:
        monkeypatch.setattr(test, "REPORTS", tmp_path)
        monkeypatch.setattr(test, "ROOT", tmp_path)
        monkeypatch.setattr(test, "stages", lambda: list(stages))
        monkeypatch.setattr(test, "steps", stages.__getitem__)

    return replace


def step(script: str, expected: str = "") -> test.Step:
    """A step that runs a shell script."""
    return test.Step(["sh", "-c", script], expected)


def test_one_failed_stage_does_not_stop_the_others(fake_stages, capsys):
    fake_stages(
        first=[step("echo all is well")],
        second=[step("echo it broke here; exit 3"), step("echo never reached")],
        third=[step("echo as it was", expected="as it")],
    )
    assert main.main(["test"]) == FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 passed, 1 failed"
    assert sorted(line.split()[:2] for line in lines[:-1] if not line.startswith(" ")) == [
        ["first", "passed"],
        ["second", "failed"],
        ["third", "passed"],
    ]
    assert any("it broke here" in line for line in lines)
    assert not any("all is well" in line or "never reached" in line for line in lines)


def test_only_the_named_stages_run(fake_stages, capsys):
    fake_stages(first=[step("exit 1")], second=[step("true")])
    assert main.main(["test", "second"]) == GOOD
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"


def test_a_stage_without_the_expected_output_failed(fake_stages, capsys):
    fake_stages(first=[step("echo changed=2", expected="changed=0")])
    assert main.main(["test"]) == FAILED
    assert "expected 'changed=0'" in capsys.readouterr().out


def test_tests_are_counted_by_their_report(fake_stages, capsys):
    report = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="3"/></testsuites>'
    fake_stages(first=[step(f"echo '{report}' >first.xml; exit 1")])
    assert main.main(["test"]) == FAILED
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 2 failed"


def test_a_failed_test_is_named_with_the_first_lines_of_why(fake_stages, capsys):
    why = "&#10;".join(["assert 1 == 2", *(f"more {number}" for number in range(9))])
    failure = f'<failure message="{why}">long</failure>'
    case = f'<testcase classname="area" name="test_it">{failure}</testcase>'
    report = f'<testsuites><testsuite tests="1" failures="1">{case}</testsuite></testsuites>'
    fake_stages(first=[step(f"echo '{report}' >first.xml; exit 1")])
    assert main.main(["test"]) == FAILED
    told = [f"more {number}" for number in range(test.REASON_LINES - 1)]
    assert "\n      ".join(["    area.test_it: assert 1 == 2", *told]) + "\n    $ " in capsys.readouterr().out


def test_stages_run_side_by_side(fake_stages):
    meet = "touch {0}; for n in $(seq 50); do [ -e {1} ] && exit 0; sleep 0.1; done; exit 1"
    fake_stages(first=[step(meet.format("a", "b"))], second=[step(meet.format("b", "a"))])
    assert main.main(["test"]) == GOOD


def test_a_stage_that_broke_outside_of_its_tests_counts_as_failed(fake_stages, capsys):
    report = '<testsuites><testsuite tests="9" failures="0" errors="0" skipped="0"/></testsuites>'
    fake_stages(first=[step(f"echo '{report}' >first.xml; exit 1")])
    assert main.main(["test"]) == FAILED
    assert capsys.readouterr().out.splitlines()[-1] == "9 passed, 1 failed"


def test_every_shell_script_is_linted():
    assert {Path("portcullis"), Path(".ci/run"), Path("molecule/shared/image/build")} <= set(test.shell_scripts())
