"""Change files on a host as one transaction: stage, check, swap, bring services to it, or put everything back.

The engine behind the install_files module. It needs nothing but Python 3.8's standard library, takes the root
directory and the service manager as parameters, and raises Failure with the message that the operator reads.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import hashlib
import inspect
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator

ABSENT, FILE, LINK, DIRECTORY, OTHER = "absent", "file", "link", "directory", "other"

STATE_DIRECTORY = "/var/lib/portcullis"
STANDING_DIRECTORY = f"{STATE_DIRECTORY}/standing"
LOCK = "/run/portcullis.lock"
UNIT_DIRECTORIES = ("/etc/systemd", "/usr/lib/systemd", "/lib/systemd", "/usr/local/lib/systemd")

LOCK_TIMEOUT = 300  # seconds to wait for another transaction on the same host
COMMAND_TIMEOUT = 120  # seconds for a check, a command or one try of a probe
SERVICE_TIMEOUT = 300  # seconds for one systemctl call: above systemd's own start and stop time-outs
SETTLE_TIME = 1.0  # seconds that a service without a probe has to stay up
PROGRAM_MISSING = 127  # exit status, as shells give it
OUTPUT_LINES = 40  # lines of a program's output that a failure message carries
DIFF_LIMIT = 100_000  # bytes; larger files are named in a diff, not shown
SHORTEST_SECRET = 6  # characters; shorter lines of a secret file are too common to be censored elsewhere


class Failure(Exception):
    """The transaction did not take place; the text says why."""


def below(path: str, prefixes: Iterable[str]) -> str:
    """Return the longest of the prefixes that is `path` or one of its parent directories, or "" if none is."""
    matches = [prefix for prefix in prefixes if path == prefix or path.startswith(prefix.rstrip("/") + "/")]
    return max(matches, key=len, default="")


# --- running programs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a program: its exit status and all that it wrote."""

    argv: list[str]
    status: int
    output: str

    def __str__(self) -> str:
        lines = self.output.rstrip().splitlines()[-OUTPUT_LINES:] or ["(no output)"]
        return "\n".join([f"command: {' '.join(self.argv)}", f"exit status: {self.status}", "output:", *lines])


def run(argv: list[str], timeout: float = COMMAND_TIMEOUT) -> Outcome:
    """Run a program without a shell or standard input, in its own process group, killed after `timeout` seconds.

    The output goes to a file, so that a daemon which keeps its end of it open holds nobody up. A program that is
    missing or too slow has the status that a shell would give: 127 or 124.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(argv, PROGRAM_MISSING, f"{argv[0]}: {error.strerror}")
        note = ""
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status, note = 124, f"(killed: it did not end within {timeout:g} seconds)"
        output.seek(0)
        return Outcome(argv, status, output.read().decode("utf-8", "replace") + note)


# --- files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What stands at a path. `content` holds a file's bytes or a link's target; a uid or gid of -1 is unknown."""

    kind: str
    content: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0


NOTHING = State(ABSENT)
PARENT = State(DIRECTORY, mode=0o755)


class Tree:
    """A file system tree, addressed by absolute paths, that may hang below any directory."""

    def __init__(self, root: str = "/", durable: bool = False) -> None:
        self.root = Path(root)
        self.durable = durable

    def at(self, path: str) -> Path:
        """Return where `path` of this tree really is."""
        return self.root / path.lstrip("/")

    def state(self, path: str, follow: bool = False) -> State:
        """Read what stands at `path`; `follow` looks through a symbolic link."""
        real = self.at(path)
        try:
            status = real.stat() if follow else real.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return NOTHING
        if stat.S_ISLNK(status.st_mode):
            return State(LINK, os.fsencode(os.readlink(real)))
        attributes = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        if stat.S_ISREG(status.st_mode):
            return State(FILE, real.read_bytes(), *attributes)
        return State(DIRECTORY if stat.S_ISDIR(status.st_mode) else OTHER, b"", *attributes)

    def put(self, path: str, state: State) -> None:
        """Make `path` what `state` says, in one step for whoever looks; missing parents are made."""
        real = self.at(path)
        self._remove(self._temporary(real))
        if state.kind == ABSENT:
            self._remove(real)
        elif state.kind == DIRECTORY:
            real.mkdir(parents=True, exist_ok=True)
            os.chown(real, state.uid, state.gid)
            real.chmod(state.mode)
        else:
            real.parent.mkdir(parents=True, exist_ok=True)
            self._replace(real, state)
        self._sync(real.parent)

    def walk(self, path: str) -> Iterator[str]:
        """Yield `path` and everything below it, parents first; links are not followed."""
        if self.at(path).is_dir() and not self.at(path).is_symlink():
            yield path
            for entry in sorted(self.at(path).iterdir()):
                yield from self.walk(f"{path}/{entry.name}")
        elif os.path.lexists(self.at(path)):
            yield path

    @staticmethod
    def _remove(real: Path) -> None:
        if real.is_dir() and not real.is_symlink():
            with contextlib.suppress(OSError):  # others have put something into it: it stays
                real.rmdir()
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                real.unlink()

    @staticmethod
    def _temporary(real: Path) -> Path:
        # A fixed name, hidden and without the target's suffix: no include pattern takes it for a fragment, and
        # what an interrupted run has left is found again.
        return real.with_name(f".{real.name}.portcullis")

    def _replace(self, real: Path, state: State) -> None:
        temporary = self._temporary(real)
        if state.kind == LINK:
            temporary.symlink_to(os.fsdecode(state.content))
        else:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(state.content)
                file.flush()
                os.fchown(descriptor, state.uid, state.gid)
                os.fchmod(descriptor, state.mode)
                if self.durable:
                    os.fsync(descriptor)
        temporary.replace(real)

    def _sync(self, directory: Path) -> None:
        if self.durable and directory.is_dir():
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@dataclass(frozen=True)
class Change:
    """One path that differs from what is wanted."""

    path: str
    before: State
    after: State
    secret: bool = False


# --- services ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """What systemd knows about a unit."""

    active: str = "inactive"
    file_state: str = ""
    type: str = ""
    pid: str = "0"
    restarts: str = "0"

    @property
    def running(self) -> bool:
        """Whether the unit is up, not merely on its way."""
        return self.active in ("active", "reloading", "refreshing")

    def lacks(self, enabled: bool | None) -> bool:
        """Whether the unit has to be enabled or disabled; one that others pull in can be neither."""
        if enabled:
            return self.file_state not in ("enabled", "static", "alias", "generated", "indirect")
        return enabled is False and self.file_state in ("enabled", "enabled-runtime")


def verbs(service: dict[str, Any], unit: Unit, touched: set[str]) -> list[str]:
    """Return what has to be done to a service: at most one of enable and disable, then at most one other verb."""
    wanted = (["enable"] if service["enabled"] else ["disable"]) if unit.lacks(service["enabled"]) else []
    if service["state"] == "stopped":
        return wanted + (["stop"] if unit.running else [])
    if not unit.running:
        return wanted + (["start"] if service["state"] == "started" else [])
    calls = set()
    for path in touched:
        restart, reload = below(path, service["restart_on"]), below(path, service["reload_on"])
        if restart or reload:
            calls.add("restart" if len(restart) >= len(reload) else "reload")
    return wanted + (["restart"] if "restart" in calls else sorted(calls))


class Systemd:
    """The service manager of the host."""

    PROPERTIES = ("ActiveState", "UnitFileState", "Type", "MainPID", "NRestarts")

    def survey(self, names: list[str]) -> dict[str, Unit]:
        """Return the units' states, asked for in one call."""
        if not names:
            return {}
        outcome = run(["systemctl", "show", f"--property={','.join(self.PROPERTIES)}", "--", *names])
        blocks = outcome.output.rstrip("\n").split("\n\n")
        if outcome.status or len(blocks) != len(names):
            raise Failure(f"systemd does not say how the services are.\n{outcome}")
        units = {}
        for name, block in zip(names, blocks):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            units[name] = Unit(
                active=values.get("ActiveState", "inactive"),
                file_state=values.get("UnitFileState", ""),
                type=values.get("Type", ""),
                pid=values.get("MainPID", "0"),
                restarts=values.get("NRestarts", "0"),
            )
        return units

    def act(self, verb: str, name: str, argv: list[str] | None = None) -> Outcome:
        """Start, stop, restart, reload, enable or disable a unit; `argv` is run in place of systemctl."""
        if verb in ("start", "restart"):
            run(["systemctl", "reset-failed", "--", name])  # else the start limit counts the attempts before
        return run(argv or ["systemctl", verb, "--", name], SERVICE_TIMEOUT)

    def schedule(self, unit: str, seconds: float, argv: list[str]) -> Outcome:
        """Have a program run in so many seconds, apart from this process and its session."""
        return run([
            "systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={seconds:g}s",
            "--timer-property=AccuracySec=100ms", "--", *argv,
        ])  # fmt: skip

    def reload_units(self) -> Outcome:
        """Make systemd read its unit files again."""
        return run(["systemctl", "daemon-reload"], SERVICE_TIMEOUT)

    def journal(self, name: str, since: float) -> str:
        """Return the unit's last words in the journal since the time given in seconds since 1970."""
        run(["journalctl", "--sync"])
        return run([
            "journalctl", f"--unit={name}", f"--since=@{int(since)}", f"--lines={OUTPUT_LINES}",
            "--output=cat", "--quiet", "--no-pager",
        ]).output.strip()  # fmt: skip


# --- the transaction --------------------------------------------------------------------------------------------


@dataclass
class Host:
    """Where a transaction takes place: replaced by a scratch directory and a stand-in in tests."""

    root: str = "/"
    services: Any = field(default_factory=Systemd)
    settle_time: float = SETTLE_TIME


class Transaction:
    """One call of install_files.

    `plan` is what the action plugin sends: name, manifest, files, directories, checks, commands, services,
    confirm_seconds, all complete and validated, and `digest` what it calls this very plan. With `check` nothing on the
    host is written, and what a fresh host still lacks is no failure.

    With `confirm_seconds` a change stands only once `confirm` was called, by a process that could still reach the
    host; otherwise a timer of systemd calls `undo`.
    """

    def __init__(
        self,
        plan: dict[str, Any],
        host: Host | None = None,
        check: bool = False,
        diff: bool = False,
        digest: str = "",
    ) -> None:
        self.plan = plan
        self.digest = digest
        self.host = host or Host()
        self.check = check
        self.diff = diff
        self.tree = Tree(self.host.root, durable=True)
        paths = sorted(entry["dest"] for entry in plan["files"])
        self.confirm_seconds = plan.get("confirm_seconds")
        self.id = f"{plan['name']}-{hashlib.sha256(os.fsencode(chr(10).join(paths))).hexdigest()[:8]}"
        self.paths = {*paths, *(entry["path"] for entry in plan["directories"])}
        self.actions: list[str] = []
        self.skipped: list[str] = []
        self.unprepared: list[str] = []
        self._interrupted: list[Path] = []

    def run(self) -> dict[str, Any]:
        """Bring the host to the plan and return the module's result. Raises Failure; then all is as before."""
        with self._lock():
            interrupted = self._recover()
            changes = self._compare()
            touched = {change.path for change in changes} | interrupted
            units = self.host.services.survey([service["name"] for service in self.plan["services"]])
            todo = self._verbs(units, touched)
            try:
                self._run_checks(changes)
            except Failure:
                if interrupted and not self.check:
                    self._change([], interrupted, units, self._verbs(units, interrupted))
                raise
            if self.check:
                self.actions = [f"{verb} {name}" for name in todo for verb in todo[name]]
            elif touched or any(todo.values()):
                self._change(changes, touched, units, todo)
            unconfirmed = bool(changes and self.confirm_seconds and not self.check)
            if not self.check and not unconfirmed:
                self._seal()
        return {
            "changed": bool(touched or any(todo.values())),
            "changed_files": sorted(touched),
            "actions": self.actions,
            "skipped_checks": self.skipped,
            "diff": [part for change in changes for part in describe(change)] if self.diff else [],
            "backup": str(self._previous) if changes and not self.check else "",
            "unconfirmed": unconfirmed,
        }

    def confirm(self) -> None:
        """Let the change stand. Raises Failure if the host has undone it, or is about to."""
        with self._lock():
            timer = f"{self._undo_unit(self._pending)}.timer"
            if not self._pending.exists() or not self.host.services.survey([timer])[timer].running:
                raise Failure(
                    f"No new connection reached the host within {self.confirm_seconds:g} seconds of the change, so the "
                    f"host has undone it (journalctl -u {self._undo_unit(self._pending)})."
                )
            self._forget()
            self._seal()

    def undo(self, verbs: dict[str, list[str]], pids: dict[str, str]) -> str:
        """Put everything back unless it was confirmed; return what could not be, one line or more.

        `verbs` is what was to be done to the services, `pids` their main processes before that.
        """
        with self._lock():
            if not self._pending.exists():
                return ""
            changes = [Change(path, NOTHING, NOTHING) for path in Backup(self._previous).paths()]
            units = {name: Unit(pid=pid) for name, pid in pids.items()}
            return self._roll_back(changes, units, verbs, self.plan["commands"])

    # --- what is there

    @property
    def _previous(self) -> Path:
        return self.tree.at(f"{STATE_DIRECTORY}/previous/{self.id}")

    @property
    def _pending(self) -> Path:
        return self.tree.at(f"{STATE_DIRECTORY}/pending/{self.id}")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        if self.check:
            yield
            return
        lock = self.tree.at(LOCK)
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise Failure(f"Another transaction has held {LOCK} for {LOCK_TIMEOUT} seconds.") from None
                    time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)

    def _recover(self) -> set[str]:
        """Put back what an interrupted transaction on these paths had swapped, and return its paths.

        Its services may run with either set of files, so its paths count as touched once more.
        """
        touched: set[str] = set()
        for marker in sorted(self._pending.parent.glob("[!.]*")):
            paths = set(json.loads(marker.read_text()))
            if paths & self.paths:
                self._interrupted.append(marker)
                touched |= paths
                if not self.check:
                    self._disarm(marker)
                    Backup(self._previous.with_name(marker.name)).restore(self.tree)
        return touched

    def _compare(self) -> list[Change]:
        directories = [(e["path"], self._wanted(e, DIRECTORY), False) for e in self.plan["directories"]]
        files = [(e["dest"], self._wanted(e, e["kind"]), e["secret"]) for e in self.plan["files"]]
        files += self._inventory()
        changes: dict[str, Change] = {}
        for path, wanted, secret in sorted(directories) + files:
            before = self.tree.state(path, follow=wanted.kind == DIRECTORY)
            if OTHER in (before.kind, wanted.kind) or (DIRECTORY in (before.kind, wanted.kind)
                                                       and before.kind not in (wanted.kind, ABSENT)):  # fmt: skip
                raise Failure(f"{path} is a {before.kind}; it is not replaced by a {wanted.kind}: remove it by hand.")
            self._guard(path if wanted.kind == DIRECTORY else str(Path(path).parent))
            if before == wanted:
                continue
            if wanted.kind != ABSENT:
                for parent in reversed(Path(path).parents):
                    if str(parent) not in changes and self.tree.state(str(parent), follow=True) == NOTHING:
                        changes[str(parent)] = Change(str(parent), NOTHING, PARENT)
            changes[path] = Change(path, before, wanted, secret)
        return list(changes.values())

    def _inventory(self) -> list[tuple[str, State, bool]]:
        """Return the absence of what the same task has installed before and no longer names, and the new list."""
        if not self.plan.get("manifest"):
            return []
        path = f"{STATE_DIRECTORY}/installed/{self.plan['manifest']}.json"
        known = json.loads(self.tree.state(path).content or "[]")
        installed = sorted(entry["dest"] for entry in self.plan["files"] if entry["kind"] != ABSENT)
        content = json.dumps(installed, indent=1).encode() + b"\n"
        listed = (path, State(FILE, content, 0o600, os.getuid(), os.getgid()), False)
        return [*((gone, NOTHING, True) for gone in known if gone not in self.paths), listed]

    def _guard(self, path: str) -> None:
        """Refuse a way that leads through a link of somebody else, who could lead root's writing anywhere."""
        for step in (Path(path), *Path(path).parents):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = self.tree.at(str(step)).lstat()
                if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
                    raise Failure(
                        f"{path} is not used: {step} is a link that belongs to {_name(pwd.getpwuid, status.st_uid)}."
                    )

    def _wanted(self, entry: dict[str, Any], kind: str) -> State:
        if kind == ABSENT:
            return NOTHING
        if kind == LINK:
            return State(LINK, os.fsencode(entry["content"]))
        if "from" in entry:
            entry["content"] = self._copied(entry["from"])
        content = entry.get("content", "").encode("utf-8", "surrogateescape")
        return State(kind, content, entry["mode"], self._identity("owner", entry), self._identity("group", entry))

    def _copied(self, path: str) -> str:
        source = self.tree.state(path, follow=True)
        if source.kind != FILE and not self.check:
            raise Failure(f"{path} is to be copied, but on the host it is {source.kind}.")
        if source.kind != FILE:
            self.unprepared.append(path)
        return source.content.decode("utf-8", "surrogateescape")

    def _identity(self, kind: str, entry: dict[str, Any]) -> int:
        name = entry[kind]
        try:
            return pwd.getpwnam(name).pw_uid if kind == "owner" else grp.getgrnam(name).gr_gid
        except KeyError:
            if name.isdecimal():
                return int(name)
            if not self.check:
                path = entry.get("dest") or entry["path"]
                raise Failure(f"{path} shall have the {kind} {name}, which does not exist on the host.") from None
            self.unprepared.append(name)
            return -1

    # --- what stands

    def _seal(self) -> None:
        """Write down that the host is as this plan wants it, and what that looks like: see `standing`."""
        if not (self.digest and self.plan.get("manifest")):
            return
        files = [{key: entry[key] for key in entry.keys() - {"content"}} for entry in self.plan["files"]]
        kept = {"plan": {**self.plan, "files": files, "checks": [], "commands": []}, "digest": self.digest}
        text = json.dumps({**kept, "fingerprint": self.fingerprint()}).encode()
        seal = State(FILE, text, 0o600, os.getuid(), os.getgid())
        path = f"{STANDING_DIRECTORY}/{self.plan['manifest']}.json"
        if self.tree.state(path) != seal:
            Tree(self.host.root).put(path, seal)

    def fingerprint(self) -> str:
        """Return a digest of all that a plan without contents can look at. Raises Failure where `run` would."""
        seen = hashlib.sha256()
        for entry in self.plan["directories"]:
            self._guard(entry["path"])
            self._add(seen, entry, self.tree.state(entry["path"], follow=True))
        for entry in self.plan["files"]:
            self._guard(str(Path(entry["dest"]).parent))
            self._add(seen, entry, self.tree.state(entry["dest"]))
            if "from" in entry:
                self._add(seen, {}, self.tree.state(entry["from"], follow=True))
        self._add(seen, {}, self.tree.state(f"{STATE_DIRECTORY}/installed/{self.plan['manifest']}.json"))
        return seen.hexdigest()

    def _add(self, seen: Any, entry: dict[str, Any], state: State) -> None:
        identities = [self._identity(kind, entry) for kind in ("owner", "group") if kind in entry]
        text = [state.kind, state.mode, state.uid, state.gid, identities, len(state.content)]
        seen.update(json.dumps(text).encode() + state.content)

    def is_interrupted(self) -> bool:
        """Whether a transaction on any of these paths has not ended."""
        markers = self._pending.parent.glob("[!.]*")
        return any(self.paths & set(json.loads(marker.read_text())) for marker in markers)

    # --- checks

    def _run_checks(self, changes: list[Change]) -> None:
        checks = [c for c in self.plan["checks"] if any(below(change.path, c["paths"]) for change in changes)]
        if not checks:
            return
        with self._stage(changes, {path for check in checks for path in check["paths"]}) as stage:
            for check in checks:
                command = [word.replace("{stage}", stage) for word in check["command"]]
                if self.check and (self.unprepared or not shutil.which(command[0])):
                    self.skipped.append(check["name"])
                    continue
                outcome = run(command)
                if self.check and outcome.status == PROGRAM_MISSING:
                    self.skipped.append(check["name"])  # it needs a package that check mode did not install
                elif outcome.status:
                    report = self._censored(str(outcome)).replace(f"{stage}/", "/").replace(stage, "/")
                    raise Failure(f"Nothing was changed: the check '{check['name']}' refused the new files.\n{report}")

    @contextlib.contextmanager
    def _stage(self, changes: list[Change], paths: set[str]) -> Iterator[str]:
        """Build the future of the trees at `paths` in a directory of its own.

        Every file and directory has its final owner and mode there, so the stage itself may be open to traversal
        for checks that drop their privileges.
        """
        base = None if self.check else self._state_directory()
        for left in base.glob("stage-*") if base else ():
            shutil.rmtree(left)  # by a run that was killed: nobody else holds the lock
        directory = tempfile.mkdtemp(prefix="stage-", dir=base)
        try:
            Path(directory).chmod(0o711)
            stage = Tree(directory)
            for path in sorted(paths):
                for parent in list(reversed(Path(path).parents))[1:]:
                    state = self.tree.state(str(parent), follow=True)
                    stage.put(str(parent), state if state.kind == DIRECTORY else PARENT)
                for entry in self.tree.walk(path):
                    state = self.tree.state(entry)
                    if state.kind != OTHER:
                        stage.put(entry, state)
            for change in changes:
                if below(change.path, paths):
                    stage.put(change.path, change.after)
            yield directory
        finally:
            shutil.rmtree(directory)

    def _state_directory(self) -> Path:
        directory = self.tree.at(STATE_DIRECTORY)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    # --- the swap and what follows

    def _change(
        self, changes: list[Change], touched: set[str], units: dict[str, Unit], todo: dict[str, list[str]]
    ) -> None:
        attempted: dict[str, list[str]] = {}
        ran: list[dict[str, Any]] = []
        if changes:
            Backup(self._previous).write(changes)
            self._mark(touched)
        commands = [c for c in self.plan["commands"] if any(below(path, c["paths"]) for path in touched)]
        try:
            if changes and self.confirm_seconds:
                self._arm(units, todo, commands)
            for change in changes:
                self.tree.put(change.path, change.after)
            for command in commands:
                ran.append(command)
                self._do(run(command["argv"]), f"The command '{command['argv'][0]}' failed.")
                self.actions.append(f"run {command['argv'][0]}")
            if any(below(path, UNIT_DIRECTORIES) for path in touched):
                self._do(self.host.services.reload_units(), "systemd does not accept the new unit files.")
            for service in self.plan["services"]:
                for verb in todo[service["name"]]:
                    attempted.setdefault(service["name"], []).append(verb)
                    self._bring(service, verb)
                    self.actions.append(f"{verb} {service['name']}")
        except Exception as error:
            reason = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            trouble = self._roll_back(changes, units, attempted, ran)
            verdict = "Everything is as it was before." if changes else "No file was changed."
            if trouble:
                verdict = f"Putting everything back did not go through:\n{trouble}"
            raise Failure(f"{self._censored(reason)}\n{verdict}") from error
        if not (changes and self.confirm_seconds):
            self._forget()

    def _arm(self, units: dict[str, Unit], verbs: dict[str, list[str]], commands: list[dict[str, Any]]) -> None:
        """Have systemd run a copy of this file that undoes the transaction, with what it needs to know beside it."""
        files = [{"dest": entry["dest"], "secret": False} for entry in self.plan["files"]]
        record = {
            "plan": {**self.plan, "files": files, "checks": [], "commands": commands},
            "verbs": verbs,
            "pids": {name: unit.pid for name, unit in units.items()},
        }
        source = inspect.getsource(sys.modules[__name__])
        for name, text in (("undo.json", json.dumps(record)), ("undo.py", source)):
            state = State(FILE, text.encode(), 0o600, os.getuid(), os.getgid())
            Tree(str(self._previous), durable=True).put(name, state)
        argv = [sys.executable, str(self._previous / "undo.py")]
        outcome = self.host.services.schedule(self._undo_unit(self._previous), self.confirm_seconds, argv)
        self._do(outcome, "systemd does not take the order to undo the change.")

    def _disarm(self, marker: Path) -> None:
        if (self._previous.with_name(marker.name) / "undo.json").exists():
            self.host.services.act("stop", f"{self._undo_unit(marker)}.timer")

    @staticmethod
    def _undo_unit(path: Path) -> str:
        return f"portcullis-undo-{path.name}"

    def _mark(self, touched: set[str]) -> None:
        pending = self._pending.parent
        pending.mkdir(parents=True, exist_ok=True)
        pending.chmod(0o700)
        marker = State(FILE, json.dumps(sorted(touched)).encode(), 0o600, os.getuid(), os.getgid())
        Tree(str(pending), durable=True).put(self.id, marker)

    def _forget(self) -> None:
        """The transaction stands, or is undone: nothing is left to be healed, nor copies older than the last."""
        for marker in {*self._interrupted, self._pending}:
            with contextlib.suppress(FileNotFoundError):
                marker.unlink()
            self._disarm(marker)
        for backup in self._previous.parent.glob("[!.]*"):
            if backup != self._previous and Backup(backup).paths() & self.paths:
                shutil.rmtree(backup)

    @staticmethod
    def _do(outcome: Outcome, complaint: str) -> None:
        if outcome.status:
            raise Failure(f"{complaint}\n{outcome}")

    def _verbs(self, units: dict[str, Unit], touched: set[str]) -> dict[str, list[str]]:
        return {service["name"]: verbs(service, units[service["name"]], touched) for service in self.plan["services"]}

    def _bring(self, service: dict[str, Any], verb: str) -> None:
        """Do one thing to a service and see that it holds."""
        name, since = service["name"], time.time()
        outcome = self.host.services.act(verb, name, service.get(f"{verb}_command"))
        complaint = f"The {verb} of {name} failed.\n{outcome}" if outcome.status else ""
        if not complaint and verb in ("start", "restart", "reload"):
            complaint = self._probe(service, verb) if service["probe"] else self._settle(name, verb)
        if complaint:
            words = self.host.services.journal(name, since)
            raise Failure(f"{complaint}\njournal:\n{words}" if words else complaint)

    def _probe(self, service: dict[str, Any], verb: str) -> str:
        deadline = time.monotonic() + service["probe_timeout"]
        pause = 0.1
        while True:
            outcome = run(service["probe"])
            unit = self.host.services.survey([service["name"]])[service["name"]]
            if unit.running and not outcome.status:
                return ""
            if time.monotonic() > deadline or unit.active in ("failed", "inactive"):
                return f"After the {verb}, {service['name']} ({unit.active}) did not pass its probe.\n{outcome}"
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def _settle(self, name: str, verb: str) -> str:
        before = self.host.services.survey([name])[name]
        if before.type in ("", "oneshot"):
            return ""
        time.sleep(self.host.settle_time)
        unit = self.host.services.survey([name])[name]
        if unit.running and unit.restarts == before.restarts:
            return ""
        return f"{name} did not stay up after the {verb} (it is {unit.active})."

    def _roll_back(
        self, changes: list[Change], units: dict[str, Unit], attempted: dict[str, list[str]], ran: list[dict[str, Any]]
    ) -> str:
        """Put the old files and the old state of the services back; return what could not be, one line or more."""
        if not changes:
            return ""
        trouble: list[str] = []

        def attempt(step: Any, *arguments: Any) -> None:
            try:
                outcome = step(*arguments)
            except Exception as error:
                trouble.append(str(error))
            else:
                if isinstance(outcome, Outcome) and outcome.status:
                    trouble.append(str(outcome))

        services = self.host.services
        for name, done in attempted.items():  # while the unit files are still there
            if "enable" in done:
                attempt(services.act, "disable", name)
            if "start" in done:
                attempt(services.act, "stop", name)
        attempt(Backup(self._previous).restore, self.tree)
        for command in ran:
            attempt(run, command["argv"])
        if any(below(change.path, UNIT_DIRECTORIES) for change in changes):
            attempt(services.reload_units)
        for service in self.plan["services"]:
            attempt(self._bring_back, service, attempted.get(service["name"], []), units[service["name"]])
        if not trouble:
            self._forget()
        return "\n".join(trouble)

    def _bring_back(self, service: dict[str, Any], done: list[str], before: Unit) -> None:
        """Bring a service to the old files. The probe belongs to the new ones: here staying up is enough."""
        name, service = service["name"], {**service, "probe": None}
        if "disable" in done:
            self._bring(service, "enable")
        if "stop" in done:
            self._bring(service, "start")
        if "restart" in done:
            self._bring(service, "restart")
        if "reload" in done:
            # A reload of a service that systemd has just started anew would kill it.
            same = self.host.services.survey([name])[name].pid == before.pid
            self._bring(service, "reload" if same else "restart")

    def _censored(self, text: str) -> str:
        """Hide each line of a secret file, old or new, that a program has quoted."""
        for entry in self.plan["files"]:
            if entry["secret"]:
                before = self.tree.state(entry["dest"]).content.decode("utf-8", "surrogateescape")
                for line in f"{before}\n{entry.get('content', '')}".splitlines():
                    if len(line.strip()) >= SHORTEST_SECRET:
                        text = text.replace(line.strip(), "(hidden)")
        return text


def standing(host: Host | None = None) -> dict[str, str]:
    """Return the digest of each transaction of earlier runs that would find nothing to do, by its manifest's name.

    Each path is read, and systemd asked for all services in one call: as `run` does, only for all plans at once.
    """
    host = host or Host()
    seals: dict[str, dict[str, Any]] = {}
    for path in sorted(Tree(host.root).at(STANDING_DIRECTORY).glob("[!.]*.json")):
        with contextlib.suppress(OSError, ValueError):
            seals[path.stem] = json.loads(path.read_text())
    try:
        services = {service["name"] for seal in seals.values() for service in seal["plan"]["services"]}
        units = host.services.survey(sorted(services))
    except (Failure, LookupError, TypeError):
        return {}
    found = {}
    for name, seal in seals.items():
        with contextlib.suppress(Failure, OSError, LookupError, TypeError, ValueError):
            transaction = Transaction(seal["plan"], host)
            idle = not any(verbs(service, units[service["name"]], set()) for service in seal["plan"]["services"])
            if idle and not transaction.is_interrupted() and transaction.fingerprint() == seal["fingerprint"]:
                found[name] = seal["digest"]
    return found


class Backup:
    """What stood at some paths before a change: the files themselves, as a tree, and a manifest of all else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, changes: list[Change]) -> None:
        """Keep the state before `changes`, in the place of what was kept before."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.directory.parent.chmod(0o700)
        fresh = self.directory.with_name(f".{self.directory.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        tree = Tree(str(fresh), durable=True)
        manifest = []
        for change in changes:
            before = change.before
            manifest.append(
                {"path": change.path, **{key: getattr(before, key) for key in ("kind", "mode", "uid", "gid")}}
            )
            if before.kind in (FILE, LINK):
                tree.put(f"files{change.path}", before)
        text = json.dumps(manifest, indent=1).encode()
        tree.put("manifest.json", State(FILE, text, 0o600, os.getuid(), os.getgid()))
        shutil.rmtree(self.directory, ignore_errors=True)
        fresh.rename(self.directory)

    def manifest(self) -> list[dict[str, Any]]:
        """Return the entries in the order of the changes; none if nothing is kept."""
        try:
            return json.loads((self.directory / "manifest.json").read_text())
        except FileNotFoundError:
            return []

    def paths(self) -> set[str]:
        """Return the paths that are kept."""
        return {entry["path"] for entry in self.manifest()}

    def restore(self, tree: Tree) -> None:
        """Put everything back, children before parents."""
        kept = Tree(str(self.directory / "files"))
        for entry in reversed(self.manifest()):
            path = entry.pop("path")
            tree.put(path, State(**{**entry, "content": kept.state(path).content}))


# --- for the reader ---------------------------------------------------------------------------------------------


def describe(change: Change) -> Iterator[dict[str, Any]]:
    """Yield a change as Ansible shows differences: content first, then owner, group and mode if they differ."""
    before, after = _text(change.before, change.secret), _text(change.after, change.secret)
    if change.secret and change.before.content != change.after.content:
        after = after and "(hidden, changed)\n"
    if before != after:
        yield {"before_header": change.path, "after_header": change.path, "before": before, "after": after}
    attributes = _attributes(change.before), _attributes(change.after)
    if attributes[0] != attributes[1] and LINK not in (change.before.kind, change.after.kind):
        header = f"{change.path} (attributes)"
        yield {"before_header": header, "after_header": header, "before": attributes[0], "after": attributes[1]}


def _text(state: State, secret: bool) -> str:
    if state.kind == LINK:
        return f"link to {os.fsdecode(state.content)}\n"
    if state.kind != FILE:
        return ""
    if secret:
        return "(hidden)\n"
    try:
        text = state.content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or len(state.content) > DIFF_LIMIT:
        return f"({len(state.content)} bytes, sha256 {hashlib.sha256(state.content).hexdigest()})\n"
    return text


def _attributes(state: State) -> str:
    if state.kind not in (FILE, DIRECTORY):
        return f"{state.kind}\n"
    return f"{state.kind}\n{_name(pwd.getpwuid, state.uid)}:{_name(grp.getgrgid, state.gid)} {state.mode:04o}\n"


def _name(lookup: Any, number: int) -> str:
    if number < 0:
        return "(not there yet)"
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def main() -> int:
    """Undo the transaction beside whose files a copy of this one lies: what systemd runs if nobody confirms it."""
    record = json.loads(Path(__file__).with_name("undo.json").read_text())
    trouble = Transaction(record["plan"]).undo(record["verbs"], record["pids"])
    print(trouble or "Nobody confirmed the change: everything is as it was before.")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
