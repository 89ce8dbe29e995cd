"""The transaction on a scratch directory, with a service manager that behaves like the real one."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.module_utils import file_transaction
from plugins.module_utils.file_transaction import (
    NOTHING,
    Failure,
    Host,
    Outcome,
    Transaction,
    Tree,
    Unit,
    below,
    run,
    standing,
    verbs,
)

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
CONFIG = "/etc/toy/toy.conf"
UNIT = "/etc/systemd/system/toy.service"


class Services:
    """Services that read their configuration when they start, and fail on one that says so.

    Their state is a file of the host, so that they go on when the process that manages them is killed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memory = root / "run/services.json"
        self.calls: list[str] = []

    @property
    def units(self) -> dict[str, dict[str, str]]:
        return json.loads(self.memory.read_text()) if self.memory.exists() else {}

    def survey(self, names):
        known = {"active": "inactive", "file_state": "disabled", "pid": "0"}
        units = {name: {key: self.units.get(name, {}).get(key, known[key]) for key in known} for name in names}
        return {name: Unit(**unit) for name, unit in units.items()}

    def act(self, verb, name, argv=None):
        self.calls.append(f"{verb} {name}")
        config = self.root / CONFIG[1:]
        text = config.read_text(errors="replace") if config.exists() else ""
        unit = self.units.get(name, {"pid": "0"})
        if verb in ("enable", "disable"):
            unit["file_state"] = f"{verb}d"
        elif verb == "stop":
            unit["active"] = "inactive"
        elif f"no {verb}" in text:
            unit["active"], unit["pid"] = ("active", "77") if verb == "reload" else ("failed", "0")
        else:
            unit["active"], unit["config"] = "active", text
            unit["pid"] = unit["pid"] if verb == "reload" else str(int(unit["pid"]) + 1)
        self.remember(name, unit)
        failed = f"no {verb}" in text
        return Outcome(["systemctl", verb, name], int(failed), "the job failed" if failed else "")

    def remember(self, name, unit):
        self.memory.parent.mkdir(exist_ok=True)
        self.memory.write_text(json.dumps({**self.units, name: unit}))

    def runs_with(self, name="toy"):
        return self.units[name]["config"]

    def reload_units(self):
        self.calls.append("daemon-reload")
        return Outcome(["systemctl", "daemon-reload"], 0, "")

    def schedule(self, unit, seconds, argv):
        timer = f"{unit}.timer"
        if self.survey([timer])[timer].running:
            return Outcome(["systemd-run"], 1, f"Unit {timer} was already loaded")
        self.remember(timer, {"active": "active"})
        return Outcome(["systemd-run"], 0, "")

    def journal(self, name, since):
        return f"{name} speaks"


@pytest.fixture
def host(tmp_path):
    return Host(str(tmp_path), Services(tmp_path), settle_time=0)


def file(dest, content="", **more):
    entry = {"dest": dest, "kind": "file", "content": content, "owner": OWNER, "group": GROUP, "mode": 0o644}
    return {**entry, "secret": False, **more}


def directory(path, mode):
    return {"path": path, "owner": OWNER, "group": GROUP, "mode": mode}


def service(name="toy", **more):
    options = {"enabled": True, "state": "started", "restart_on": ["/etc/toy", UNIT], "reload_on": ["/etc/toy/certs"]}
    rest = {"restart_command": None, "reload_command": None, "probe": None, "probe_timeout": 0}
    return {"name": name, **options, **rest, **more}


def plan(*files, **more):
    lists = {"directories": [], "checks": [], "commands": [], "services": [service()]}
    return {"name": "toy", "files": list(files), **lists, **more}


def install(host, *files, check=False, diff=False, **more):
    return Transaction(plan(*files, **more), host, check=check, diff=diff).run()


def everything(host):
    """Return all that stands below the root, but the kit's own state."""
    tree = Tree(host.root)
    return {path: tree.state(path) for path in tree.walk("") if not below(path, ["/var", "/run"])}


def left_behind(host):
    """Return what a transaction that is over must not leave: marks, stages, temporary files."""
    root = Path(host.root)
    return [path for pattern in ("**/pending/*", "**/stage-*", "**/.*.portcullis") for path in root.glob(pattern)]


# --- what succeeds


def test_a_fresh_host_gets_all_and_a_second_run_does_nothing(host):
    files = [
        file(CONFIG, "one", mode=0o640),
        file(UNIT),
        file("/etc/toy/link", "toy.conf", kind="link"),
        file("/etc/toy/bytes", "\udcff\0\n"),
        file("/etc/toy/old", kind="absent"),
    ]
    result = install(host, *files, directories=[directory("/etc/toy", 0o750)])
    assert result["changed"]
    assert result["actions"] == ["enable toy", "start toy"]
    assert host.services.calls == ["daemon-reload", "enable toy", "start toy"]
    there = everything(host)
    assert (there[CONFIG].content, there[CONFIG].mode) == (b"one", 0o640)
    assert there["/etc/toy"].mode == 0o750
    assert there["/etc/toy/bytes"].content == b"\xff\x00\n"
    assert (there["/etc/toy/link"].kind, there["/etc/toy/link"].content) == ("link", b"toy.conf")

    again = install(host, *files, directories=[directory("/etc/toy", 0o750)])
    assert (again["changed"], again["changed_files"], again["actions"], again["backup"]) == (False, [], [], "")
    assert everything(host) == there
    assert not left_behind(host)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (file(CONFIG, "two"), ["restart toy"]),
        (file(CONFIG, "one", mode=0o600), ["restart toy"]),
        (file("/etc/toy/certs/key", "two"), ["reload toy"]),
        (file("/etc/toy/certs/key", kind="absent"), ["reload toy"]),
        (file("/etc/toy/certs/key", "key", kind="link"), ["reload toy"]),
        (file("/etc/toys", "two"), []),
    ],
)
def test_a_change_has_the_consequence_of_the_longest_prefix(host, change, expected):
    first = {entry["dest"]: entry for entry in (file(CONFIG, "one"), file("/etc/toy/certs/key", "one"))}
    install(host, *first.values())
    host.services.calls.clear()
    result = install(host, *{**first, change["dest"]: change}.values())
    assert result["changed_files"] == [change["dest"]]
    assert result["actions"] == host.services.calls == expected


def test_a_restart_covers_the_reload(host):
    install(host, file(CONFIG, "one"), file("/etc/toy/certs/key", "one"))
    result = install(host, file(CONFIG, "two"), file("/etc/toy/certs/key", "two"))
    assert result["actions"] == ["restart toy"]


@pytest.mark.parametrize(
    ("options", "unit", "expected"),
    [
        ({}, Unit("active", "enabled"), []),
        ({}, Unit("failed", "enabled"), ["start"]),
        ({}, Unit("activating", "enabled"), ["start"]),
        ({}, Unit("active", "disabled"), ["enable"]),
        ({}, Unit("active", "enabled-runtime"), ["enable"]),
        ({}, Unit("active", "static"), []),
        ({"enabled": False}, Unit("active", "static"), []),
        ({"enabled": False, "state": "stopped"}, Unit("active", "enabled"), ["disable", "stop"]),
        ({"state": "stopped"}, Unit("inactive", "enabled"), []),
        ({"enabled": None, "state": None}, Unit("inactive", ""), []),
    ],
)
def test_a_service_is_brought_to_its_state_although_no_file_changed(options, unit, expected):
    assert verbs(service(**options), unit, set()) == expected


@pytest.mark.parametrize("state", ["started", None])
def test_a_stopped_service_is_never_restarted(state):
    wanted = ["start"] if state else []
    assert verbs(service(state=state), Unit("inactive", "enabled"), {CONFIG}) == wanted


def test_the_previous_version_is_kept(host):
    install(host, file(CONFIG, "one"))
    result = install(host, file(CONFIG, "two"))
    assert Path(result["backup"], "files", CONFIG[1:]).read_text() == "one"
    assert Path(result["backup"]).parent.stat().st_mode & 0o777 == 0o700
    assert len(list(Path(result["backup"]).parent.iterdir())) == 1


def test_commands_run_only_for_their_files(host, tmp_path):
    commands = [{"argv": ["touch", str(tmp_path / name)], "paths": [f"/etc/{name}"]} for name in ("toy", "other")]
    result = install(host, file(CONFIG), commands=commands)
    assert "run touch" in result["actions"]
    assert (tmp_path / "toy").exists()
    assert not (tmp_path / "other").exists()


def test_a_file_of_the_host_is_copied(host, tmp_path):
    (tmp_path / "source").write_bytes(b"\xff")
    wanted = {"dest": CONFIG, "kind": "file", "from": "/source", "secret": True}
    install(host, {**wanted, "owner": OWNER, "group": GROUP, "mode": 0o600})
    assert Path(host.root, CONFIG[1:]).read_bytes() == b"\xff"


# --- checks


def check_that(script, *paths):
    return [{"name": "the toy's own", "command": ["sh", "-c", script, "{stage}"], "paths": list(paths)}]


def test_a_check_sees_the_complete_future(host, tmp_path):
    install(host, file(CONFIG, "one"), file("/etc/toy/kept", "kept"), file("/etc/toy/gone", ""))
    (tmp_path / "etc/toy/link").symlink_to("kept")
    look = (
        'cd "$0/etc/toy" && test "$(cat toy.conf kept link)" = "twokeptkept" && test ! -e gone && ls -A >'
        + f"{tmp_path}/seen"
    )
    files = [file(CONFIG, "two"), file("/etc/toy/kept", "kept"), file("/etc/toy/gone", kind="absent")]
    install(host, *files, checks=check_that(look, "/etc/toy"))
    assert (tmp_path / "seen").read_text().split() == ["kept", "link", "toy.conf"]


def test_a_failing_check_leaves_everything_alone(host):
    install(host, file(CONFIG, "one"))
    before = everything(host)
    host.services.calls.clear()
    with pytest.raises(Failure) as failure:
        install(
            host,
            file(CONFIG, "two"),
            file("/etc/toy/new/file"),
            checks=check_that('echo "$0/etc/toy/toy.conf:1: bad word" >&2; exit 3', "/etc/toy"),
        )
    assert "'the toy's own' refused" in str(failure.value)
    assert "exit status: 3" in str(failure.value)
    assert "\n/etc/toy/toy.conf:1: bad word" in str(failure.value)
    assert (everything(host), host.services.calls) == (before, [])
    assert not left_behind(host)


def test_a_check_of_other_files_does_not_run(host):
    assert install(host, file(CONFIG), checks=check_that("exit 1", "/etc/other", "/etc/toy.d"))["changed"]


def test_the_stage_of_a_killed_run_is_removed(host, tmp_path):
    stale = tmp_path / "var/lib/portcullis/stage-stale"
    stale.mkdir(parents=True)
    install(host, file(CONFIG), checks=check_that("true", "/etc/toy"))
    assert not stale.exists()


# --- what fails is undone


@pytest.mark.parametrize("first", [None, "one"])
@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("no start no restart", {}, ["failed", "the job failed", "toy speaks"]),
        ("two", {"probe": ["sh", "-c", "echo silent; exit 9"]}, ["did not pass its probe", "silent", "exit status: 9"]),
        ("two", {"probe": ["/nonexistent"]}, ["exit status: 127"]),
    ],
)
def test_a_service_that_fails_gets_its_old_files_back(host, first, content, options, words):
    if first:
        install(host, file(CONFIG, first))
    before, active = everything(host), host.services.survey(["toy"])["toy"].active
    files = [file(CONFIG, content), file("/etc/toy/a/b/new"), file(UNIT)]
    with pytest.raises(Failure) as failure:
        install(host, *files, directories=[directory("/etc/toy", 0o700)], services=[service(**options)])
    for word in [*words, "Everything is as it was before."]:
        assert word in str(failure.value)
    assert everything(host) == before
    if first:
        assert host.services.survey(["toy"])["toy"].active == active
        assert host.services.runs_with() == first
    else:
        toy = host.services.survey(["toy"])["toy"]
        assert (toy.active, toy.file_state) == ("inactive", "disabled")
    assert not left_behind(host)


def test_a_failing_reload_is_followed_by_a_reload_of_the_old_files(host):
    reloading = service(restart_on=[], reload_on=["/etc/toy"])
    install(host, file(CONFIG, "one"), services=[reloading])
    host.services.calls.clear()
    with pytest.raises(Failure):
        install(host, file(CONFIG, "no reload"), services=[reloading])
    assert host.services.calls == ["reload toy", "restart toy"], "its process is gone, so a reload could kill the next"
    assert host.services.runs_with() == "one"

    with pytest.raises(Failure):
        install(host, file(CONFIG, "two"), services=[{**reloading, "probe": ["false"]}])
    assert host.services.calls[2:] == ["reload toy", "reload toy"]
    assert host.services.runs_with() == "one"


def test_services_brought_up_before_the_failing_one_go_back_too(host):
    both = [service("first"), service("toy")]
    install(host, file(CONFIG, "one"), services=both)
    host.services.calls.clear()
    both[1]["probe"] = ["false"]
    with pytest.raises(Failure):
        install(host, file(CONFIG, "two"), services=both)
    assert host.services.calls == ["restart first", "restart toy"] * 2
    assert [host.services.runs_with(name) for name in ("first", "toy")] == ["one", "one"]


def test_a_failing_command_is_undone_and_run_again_on_the_old_files(host, tmp_path):
    log = tmp_path / "log"
    script = f"cat {tmp_path}{CONFIG} >> {log}; ! grep -q bad {tmp_path}{CONFIG}"
    commands = [{"argv": ["sh", "-c", script], "paths": ["/etc/toy"]}]
    install(host, file(CONFIG, "good "), commands=commands)
    with pytest.raises(Failure, match="The command 'sh' failed"):
        install(host, file(CONFIG, "bad "), commands=commands)
    assert log.read_text() == "good bad good "


def test_a_file_that_cannot_be_written_undoes_the_others(host, monkeypatch):
    install(host, file(CONFIG, "one"))
    before = everything(host)
    put = Tree.put

    def full(self, path, state):
        if path == "/etc/toy/second" and state.kind == "file":
            raise OSError(28, "No space left on device")
        put(self, path, state)

    monkeypatch.setattr(Tree, "put", full)
    with pytest.raises(Failure, match="No space left on device"):
        install(host, file(CONFIG, "two"), file("/etc/toy/second"))
    assert everything(host) == before


def test_what_could_not_be_put_back_is_told_and_tried_again(host):
    install(host, file(CONFIG, "no restart"), services=[service(restart_on=[])])
    with pytest.raises(Failure, match="did not go through"):
        install(host, file(CONFIG, "two"), services=[service(probe=["false"])])
    host.services.calls.clear()
    assert install(host, file(CONFIG, "three"))["actions"] == ["start toy"]
    assert not left_behind(host)


def test_a_start_that_fails_although_no_file_changed_is_a_failure(host):
    install(host, file(CONFIG, "one no start"), services=[])
    with pytest.raises(Failure, match="No file was changed"):
        install(host, file(CONFIG, "one no start"))


# --- what was interrupted is healed


def in_a_process_that_is_killed(work, step):
    """Run `work` in a child that is killed before its n-th change of anything; return whether it lived."""
    child = os.fork()
    if child == 0:
        done = 0

        def counted(function):
            def call(*arguments, **options):
                nonlocal done
                done += 1
                if done == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return call

        for change in ("fchmod", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink"):
            setattr(os, change, counted(getattr(os, change)))
        setattr(Services, "act", counted(Services.act))  # noqa: B010 (a method may not be assigned to)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFEXITED(os.waitpid(child, 0)[1])


def killed_before_the_service(host, *files):
    """Interrupt a transaction between the swap and the restart."""
    child = os.fork()
    if child == 0:
        host.services.act = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        install(host, *files)
    os.waitpid(child, 0)


@pytest.mark.parametrize("works", [True, False])
def test_a_run_killed_at_any_step_is_healed_by_the_next(tmp_path, works):
    new = [file(CONFIG, "two"), file("/etc/toy/new/file"), file("/etc/toy/gone", kind="absent")]
    services = [service(probe=["true" if works else "false"])]
    lived, step = False, 0
    while not lived:
        step += 1
        root = tmp_path / str(step)
        root.mkdir()
        host = Host(str(root), Services(root), settle_time=0)
        install(host, file(CONFIG, "one"), file("/etc/toy/gone"))
        before = everything(host)
        lived = in_a_process_that_is_killed(lambda host=host: install(host, *new), step)
        stands = everything(host)[CONFIG].content == b"two" and not left_behind(host)
        if works or stands:
            install(host, *new, services=services)
            there = everything(host)
            assert (there[CONFIG].content, host.services.runs_with()) == (b"two", "two")
            assert "/etc/toy/gone" not in there
        else:
            with pytest.raises(Failure, match="Everything is as it was before"):
                install(host, *new, services=services)
            assert (everything(host), host.services.runs_with()) == (before, "one")
        assert not left_behind(host)
    assert step > 20, "every change was a step"


def test_after_an_interruption_old_files_are_brought_to_the_services_again(host):
    install(host, file(CONFIG, "one"))
    killed_before_the_service(host, file(CONFIG, "two"))
    assert [json.loads(path.read_text()) for path in left_behind(host) if path.parent.name == "pending"] == [[CONFIG]]
    preview = install(host, file(CONFIG, "one"), check=True)
    assert preview["actions"] == ["restart toy"]
    result = install(host, file(CONFIG, "one"))
    assert (result["changed"], result["changed_files"], result["actions"]) == (True, [CONFIG], ["restart toy"])
    assert not install(host, file(CONFIG, "one"))["changed"]


def test_after_an_interruption_a_failing_check_still_brings_the_old_files_to_the_services(host):
    install(host, file(CONFIG, "one"))
    killed_before_the_service(host, file(CONFIG, "two"))
    host.services.calls.clear()
    with pytest.raises(Failure, match="refused the new files"):
        install(host, file(CONFIG, "three"), checks=check_that("false", "/etc/toy"))
    assert host.services.calls == ["restart toy"]
    assert not left_behind(host)


# --- what has to be confirmed


def install_to_confirm(host, content):
    """Install a configuration and return the transaction, which stands once it is confirmed."""
    transaction = Transaction(plan(file(CONFIG, content), confirm_seconds=60), host)
    assert transaction.run()["unconfirmed"]
    return transaction


def time_passes(host):
    """Do what the timer does: undo whatever has not been confirmed."""
    (record,) = (json.loads(path.read_text()) for path in Path(host.root).glob("**/undo.json"))
    return Transaction(record["plan"], host).undo(record["verbs"], record["pids"])


def test_a_change_that_nobody_confirms_is_undone(host):
    install(host, file(CONFIG, "one"))
    transaction = install_to_confirm(host, "two")
    assert (everything(host)[CONFIG].content, host.services.runs_with()) == (b"two", "two")
    assert time_passes(host) == ""
    assert (everything(host)[CONFIG].content, host.services.runs_with()) == (b"one", "one")
    with pytest.raises(Failure, match="No new connection reached the host within 60 seconds"):
        transaction.confirm()
    assert not left_behind(host)


def test_a_confirmed_change_stays(host):
    install(host, file(CONFIG, "one"))
    install_to_confirm(host, "two").confirm()
    assert time_passes(host) == ""
    assert (everything(host)[CONFIG].content, host.services.runs_with()) == (b"two", "two")
    assert not left_behind(host)


@pytest.mark.parametrize("content", ["two", "three"])
def test_a_run_before_the_confirmation_starts_anew(host, content):
    install(host, file(CONFIG, "one"))
    install_to_confirm(host, "two")
    transaction = install_to_confirm(host, content)
    assert host.services.runs_with() == content
    time_passes(host)
    assert (everything(host)[CONFIG].content, host.services.runs_with()) == (b"one", "one")
    with pytest.raises(Failure):
        transaction.confirm()


def test_a_change_without_a_timer_to_undo_it_is_not_made(host, monkeypatch):
    install(host, file(CONFIG, "one"))
    monkeypatch.setattr(Services, "schedule", lambda *_: Outcome(["systemd-run"], 1, "no timers today"))
    with pytest.raises(Failure, match="no timers today"):
        install_to_confirm(host, "two")
    assert (everything(host)[CONFIG].content, host.services.runs_with()) == (b"one", "one")
    assert not left_behind(host)


def test_what_undoes_a_change_does_not_hold_its_secrets(host):
    secret = file(CONFIG, "hunter2", secret=True)
    backup = install(host, secret, confirm_seconds=60)["backup"]
    assert "hunter2" not in Path(backup, "undo.json").read_text()
    assert run([sys.executable, "-m", "py_compile", f"{backup}/undo.py"]).status == 0


# --- check mode and differences


def test_check_mode_on_a_fresh_host_writes_nothing(host):
    result = install(
        host,
        file(CONFIG, "one", owner="nobody-yet", group="nobody-yet"),
        check=True,
        diff=True,
        checks=check_that("false", "/etc/toy"),
        directories=[directory("/etc/toy", 0o750)],
    )
    assert result["changed"]
    assert result["changed_files"] == ["/etc", "/etc/toy", CONFIG]
    assert result["actions"] == ["enable toy", "start toy"]
    assert result["skipped_checks"] == ["the toy's own"]
    assert "(not there yet):(not there yet) 0644" in result["diff"][-1]["after"]
    assert not list(Path(host.root).iterdir())
    assert host.services.calls == []


@pytest.mark.parametrize(
    ("script", "skipped"), [("true", []), ("exit 127", ["the toy's own"]), (None, ["the toy's own"])]
)
def test_check_mode_runs_the_checks_it_can(host, script, skipped):
    checks = check_that(script, "/etc/toy")
    if script is None:
        checks[0]["command"] = ["/nonexistent/check", "{stage}"]
    assert install(host, file(CONFIG), check=True, checks=checks)["skipped_checks"] == skipped
    if script:
        with pytest.raises(Failure):
            install(host, file(CONFIG), check=True, checks=check_that("false", "/etc/toy"))


def test_differences_show_content_and_attributes_but_no_secret(host):
    install(host, file(CONFIG, "old\n"), file("/etc/toy/key", "hunter2\n", secret=True), file("/etc/toy/binary", "\0"))
    files = [
        file(CONFIG, "new\n", mode=0o600),
        file("/etc/toy/key", "hunter3\n", secret=True),
        file("/etc/toy/binary", "\0\0"),
    ]
    differences = install(host, *files, diff=True)["diff"]
    assert "hunter" not in json.dumps(differences)
    by_header = {part["after_header"]: (part["before"], part["after"]) for part in differences}
    assert by_header[CONFIG] == ("old\n", "new\n")
    assert by_header[f"{CONFIG} (attributes)"] == (
        f"file\n{OWNER}:{GROUP} 0644\n",
        f"file\n{OWNER}:{GROUP} 0600\n",
    )
    assert by_header["/etc/toy/key"] == ("(hidden)\n", "(hidden, changed)\n")
    assert by_header["/etc/toy/binary"][1].startswith("(2 bytes, sha256 ")


@pytest.mark.parametrize("when", ["check", "probe"])
def test_secrets_that_a_program_quotes_are_hidden(host, when):
    key = file("/etc/toy/key", "password = hunter2\n", secret=True)
    quote = f"cat {host.root}/etc/toy/key $0/etc/toy/key; exit 1"
    how = {
        "check": {"checks": check_that(quote, "/etc/toy")},
        "probe": {"services": [service(probe=["sh", "-c", quote])]},
    }[when]
    with pytest.raises(Failure) as failure:
        install(host, key, **how)
    assert "(hidden)" in str(failure.value)
    assert "hunter2" not in str(failure.value)


# --- what is refused


def test_a_directory_is_not_replaced_by_a_file_nor_removed(host, tmp_path):
    (tmp_path / CONFIG[1:]).mkdir(parents=True)
    for wanted in (file(CONFIG), file(CONFIG, kind="absent"), file(CONFIG, "x", kind="link")):
        with pytest.raises(Failure, match="is a directory; it is not replaced"):
            install(host, wanted)


def test_an_owner_that_does_not_exist_is_refused_by_name(host):
    with pytest.raises(Failure, match=f"{CONFIG} shall have the group nobody-yet"):
        install(host, file(CONFIG, group="nobody-yet"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a link to somebody else")
def test_a_link_of_somebody_else_is_not_followed(host, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/toy").symlink_to(tmp_path)
    assert install(host, file(CONFIG))["changed"]
    os.lchown(tmp_path / "etc/toy", 65534, 65534)
    with pytest.raises(Failure, match="/etc/toy is a link that belongs to nobody"):
        install(host, file(CONFIG, "x"))


def test_transactions_on_one_host_wait_for_each_other(host, monkeypatch):
    monkeypatch.setattr(file_transaction, "LOCK_TIMEOUT", 0.1)
    with Transaction(plan(), host)._lock(), pytest.raises(Failure, match="Another transaction has held"):
        install(host, file(CONFIG))


# --- the parts


@pytest.mark.parametrize(
    ("path", "prefixes", "longest"),
    [
        ("/etc/a/b", ["/etc", "/etc/a", "/etc/a/b/c"], "/etc/a"),
        ("/etc/ab", ["/etc/a"], ""),
        ("/etc/a", ["/etc/a"], "/etc/a"),
        ("/etc/a", [], ""),
    ],
)
def test_the_longest_prefix_is_made_of_whole_names(path, prefixes, longest):
    assert below(path, prefixes) == longest


def test_programs_that_are_missing_or_slow_have_a_status():
    assert run(["/nonexistent"]).status == 127
    slow = run(["sh", "-c", "echo started; sleep 60"], timeout=0.2)
    assert slow.status == 124
    assert slow.output.startswith("started\n(killed: ")


def test_a_daemon_that_keeps_its_output_open_holds_nobody_up():
    assert run([sys.executable, "-c", "import os, time\nif os.fork() == 0: time.sleep(2)"], timeout=1).status == 0


def test_only_the_end_of_a_long_output_is_told():
    report = str(Outcome(["x"], 1, "\n".join(map(str, range(100)))))
    assert report.splitlines()[3] == "60"


# --- what a task no longer names ---------------------------------------------------------------------------------


def test_what_is_no_longer_named_is_removed(host):
    install(host, file("/etc/toy/a.conf"), file("/etc/toy/b.conf", "loose = true"), manifest="toy")
    result = install(host, file("/etc/toy/a.conf"), manifest="toy", diff=True)
    assert "/etc/toy/b.conf" in result["changed_files"]
    assert "loose" not in str(result["diff"])
    assert Tree(host.root).state("/etc/toy/b.conf") == NOTHING
    assert not install(host, file("/etc/toy/a.conf"), manifest="toy")["changed"]


def test_what_is_no_longer_named_stays_if_the_transaction_fails(host):
    install(host, file("/etc/toy/a.conf"), file("/etc/toy/b.conf"), manifest="toy")
    before = everything(host)
    check = {"name": "no", "command": ["false"], "paths": ["/etc/toy"]}
    with pytest.raises(Failure):
        install(host, file("/etc/toy/a.conf"), manifest="toy", checks=[check])
    assert everything(host) == before


def test_files_of_other_tasks_stay(host):
    install(host, file("/etc/toy/a.conf"), manifest="one")
    install(host, file("/etc/toy/b.conf"), manifest="two")
    assert Tree(host.root).state("/etc/toy/a.conf") != NOTHING


# --- what stands

SEALED = {"manifest": "toy", "directories": [directory("/etc/toy/certs", 0o750)]}
FILES = [
    file(CONFIG, "loose = true"),
    file("/etc/toy/certs/a.crt", **{"from": "/srv/a.pem"}),
    file("/etc/toy/gone", kind="absent"),
]


def seal(host, *files, digest="this plan", **more):
    copies = [dict(entry) for entry in files or FILES]
    for entry in copies:
        if "from" in entry or entry["kind"] == "absent":
            entry.pop("content")
    return Transaction(plan(*copies, **{**SEALED, **more}), host, digest=digest).run()


@pytest.fixture
def sealed(host):
    """A host on which a transaction stands."""
    source = Path(host.root, "srv/a.pem")
    source.parent.mkdir()
    source.write_text("a certificate")
    seal(host)
    assert standing(host) == {"toy": "this plan"}
    return host


def test_what_was_done_stands(sealed):
    assert not seal(sealed)["changed"]
    assert standing(sealed) == {"toy": "this plan"}


@pytest.mark.parametrize(
    "drift",
    [
        "echo more >>etc/toy/toy.conf",
        "rm etc/toy/toy.conf",
        "chmod 600 etc/toy/toy.conf",
        "rm etc/toy/toy.conf && mkdir etc/toy/toy.conf",
        "mv etc/toy/toy.conf etc/toy/kept && ln -s kept etc/toy/toy.conf",
        "chmod 755 etc/toy/certs",
        "touch etc/toy/gone",
        "echo another >srv/a.pem",
        "rm srv/a.pem",
        "rm var/lib/portcullis/installed/toy.json",
        "sed -i 's/active/inactive/' run/services.json",
        "sed -i 's/enabled/disabled/' run/services.json",
        """mkdir -p var/lib/portcullis/pending && echo '["/etc/toy/toy.conf"]' >var/lib/portcullis/pending/toy-0""",
        "echo '{' >var/lib/portcullis/standing/toy.json",
    ],
)
def test_what_differs_in_anything_does_not_stand(sealed, drift):
    subprocess.run(["sh", "-ec", drift], cwd=sealed.root, check=True)
    assert standing(sealed) == {}


def test_what_is_only_looked_at_is_not_sealed(host):
    Transaction(plan(file(CONFIG), manifest="toy"), host, check=True, digest="this plan").run()
    assert standing(host) == {}


def test_what_waits_for_its_confirmation_does_not_stand(host):
    waiting = Transaction(plan(file(CONFIG), manifest="toy", confirm_seconds=60), host, digest="this plan")
    assert waiting.run()["unconfirmed"]
    assert standing(host) == {}
    waiting.confirm()
    assert standing(host) == {"toy": "this plan"}


def test_a_seal_holds_no_content(sealed):
    text = Path(sealed.root, "var/lib/portcullis/standing/toy.json").read_text()
    assert "loose" not in text
    assert "certificate" not in text
