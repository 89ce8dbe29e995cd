"""What a client that behaves notices of a flood, beside a stock server

Two servers, ours and what Debian's package makes of Prosody, are flooded in turn by somebody with many addresses, a
cable away. Eight established clients of another address ping them meanwhile, ten times a second each, and somebody
logs in once a second. docs/limits.md says what each flood is, and how the figures are made.
"""

from __future__ import annotations

import inspect
import json
import math
import secrets
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from cli.benchmarks import Figure
from cli.common import ROOT, progress, timed_line, tool
from cli.lab import Failed, play, quiet, read_yaml

NEEDS = ["containers"]
INVENTORY = ROOT / "inventories" / "bench" / "attack" / "hosts.yml"
SIDES = ("stock", "ours")
ROUNDS = 2
REST, FLOOD, AFTER = 5.0, 8.0, 5.0  # seconds
PATIENCE, AT_REST = 120.0, 0.05  # seconds, and of processor time in one
SOURCES = 60
VISITORS = [f"visitor{number}" for number in range(8)]
MEMBERS = [f"member{number}" for number in range(20)]
PINGS, LOGINS = 10.0, 1.0  # a second: of each visitor, and of the person who logs in
SERVER = ("10.99.0.1", 5222)

# The name of each flood in bench.json, what it is, and the function of probes.flood with what it takes.
FLOODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "connections": ("3000 idle connections from one source", "idle", {"number": 3000}),
    "tls": ("TLS handshakes from one source, 32 at a time", "handshakes", {"number": 32}),
    "auth": ("Passwords guessed from one source, 16 at a time", "guesses", {"number": 16}),
    "auth_200": ("Passwords guessed from one source, 200 at a time", "guesses", {"number": 200}),
    "auth_sources": (f"Passwords guessed from {SOURCES} sources, 200 at a time", "guesses", {"number": 200}),
    "stanza": ("Messages of 20 accounts that have logged in", "stanzas", {}),
}
ATTEMPTS = 3  # at a flood, for now and then Python crashes at the attackers' end
P99, RECOVERY = 2.0, 5.0  # targets: times rest, and seconds


class Crashed(Failed):
    """Somebody at the other end of the cable was ended by a signal: that is not the server's doing."""


@dataclass
class Side:
    """A server, its accounts, and who is at the other end of its cable."""

    name: str
    container: str
    domain: str
    passwords: dict[str, str] = field(default_factory=dict)
    neighbourhood: str = ""  # the process whose network namespace it is

    def inside(self, command: list[str], said: str = "") -> str:
        """What a command prints on the server; `said` is its input. Raises Failed."""
        process = subprocess.run(
            ["podman", "exec", "--interactive", self.container, *command],
            input=said,
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            raise Failed(f"{self.name}: {process.stdout}{process.stderr}")
        return process.stdout

    def accounts(self, names: list[str]) -> dict[str, str]:
        """The JIDs of these people and their passwords."""
        return {f"{name}@{self.domain}": self.passwords[name] for name in names}

    def begin(self, function: str, **arguments: Any) -> subprocess.Popen[str]:
        """Have somebody at the other end of the cable do what a function of probes.flood does."""
        from verification.probes import flood  # noqa: PLC0415 - see cli/__init__.py

        call = f"{function}({SERVER!r}, **{arguments!r})"
        enter = ["nsenter", "--net", "--target", self.neighbourhood, "python3", "-"]
        process = subprocess.Popen(
            ["podman", "exec", "--interactive", self.container, *enter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(f"{inspect.getsource(flood)}\nimport json\nprint(json.dumps({call}), flush=True)\n")
        process.stdin.close()
        process.stdin = None
        if process.stdout.readline() != "ready\n":
            raise Failed(f"{self.name}, {function}: {process.stderr.read()}")
        return process

    def prosody(self) -> int:
        """The number of Prosody's process there."""
        return int(self.inside(["systemctl", "show", "prosody", "--property=MainPID", "--value"]))

    def used(self) -> float:
        """Seconds of processor time that Prosody has used."""
        return int(self.inside(["cat", f"/proc/{self.prosody()}/schedstat"]).split()[0]) / 1e9


@dataclass
class Outcome:
    """What became of a side in a flood, over all rounds. Times in seconds, of the machine's clock."""

    rest: list[float] = field(default_factory=list)  # until a ping was answered
    during: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)  # 1 for each login that succeeded, 0 for each other
    recovery: list[float] = field(default_factory=list)  # of each round
    processor: list[float] = field(default_factory=list)  # share of one, of each round
    processor_at_rest: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # over rest
    memory_after: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)  # how often the attackers did what they do


def percentile(values: list[float], of: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * of / 100) - 1)]


class Usage:
    """What a process uses between two moments, of all looks at it (see probes.flood.watch).

    Attributes:
        processor: share of one.
        memory: MB at the end.
    """

    def __init__(self, looks: list[list[float]], begin: float, end: float) -> None:
        (first, used_before, _), *_, (last, used, self.memory) = (look for look in looks if begin <= look[0] < end)
        self.processor = (used - used_before) / (last - first)


def measure() -> list[Figure]:
    """Boot, deploy, flood, remove. Raises Failed."""
    try:
        with timed_line("Boot two throw-away Debian servers"):
            play("create", INVENTORY)
        with timed_line("Deploy ours onto one, Debian's Prosody onto the other"):
            quiet([tool("ansible-playbook"), "-i", str(INVENTORY), str(INVENTORY.parent / "site.yml")])
        sides = [side(name) for name in SIDES]
        outcomes = {flood: {each.name: Outcome() for each in sides} for flood in FLOODS}
        for number in range(ROUNDS):
            for flood, (label, _, _) in FLOODS.items():
                with timed_line(f"{number + 1}/{ROUNDS}  {label}"):
                    for each in sides if number % 2 == 0 else reversed(sides):
                        persist(each, number, flood, outcomes[flood][each.name])
        return figures(outcomes)
    finally:
        play("destroy", INVENTORY)


def side(name: str) -> Side:
    """A server of the inventory, with accounts and a cable to somebody with many addresses. Raises Failed."""
    reached = read_yaml(INVENTORY.parent / "host_vars" / f"{name}.yml")
    result = Side(name, reached["lab_container"], f"{name}.example")
    result.passwords = {person: secrets.token_hex(12) for person in [*VISITORS, *MEMBERS, "guest"]}
    people = "".join(f"{person} {password}\n" for person, password in result.passwords.items())
    create = f"""
        while read -r name password; do
            for verb in passwd adduser; do
                printf '%s\\n%s\\n' $password $password | prosodyctl $verb $name@{result.domain} && break
            done || exit 1
        done
    """
    result.inside(["sh", "-c", create], people)
    addresses = "".join(f"address add {source}/16 dev eth0\n" for source in ["10.99.0.2", *every_source()])
    plug = f"""
        ip link delete crowd0 2>/dev/null || true
        systemctl stop portcullis-crowd 2>/dev/null || true
        systemd-run --quiet --unit=portcullis-crowd --service-type=exec --property=PrivateNetwork=yes sleep infinity
        crowd=$(systemctl show --property=MainPID --value portcullis-crowd)
        ip link add crowd0 type veth peer name eth0 netns $crowd
        ip address add {SERVER[0]}/16 dev crowd0
        ip link set crowd0 up
        nsenter --net --target $crowd ip -batch -
        nsenter --net --target $crowd ip link set eth0 up
        echo $crowd
    """
    result.neighbourhood = result.inside(["sh", "-ec", plug], addresses).strip()
    return result


def sources(number: int, flood: str) -> list[str]:
    """The addresses of the attackers in a round: nobody whom one flood made known takes part in another."""
    if flood == "auth_sources":
        return [f"10.99.{number + 1}.{last}" for last in range(1, SOURCES + 1)]
    return [f"10.99.{number + 1}.{100 + list(FLOODS).index(flood)}"]


def every_source() -> list[str]:
    """The addresses of all attackers."""
    return [source for number in range(ROUNDS) for flood in FLOODS for source in sources(number, flood)]


def persist(each: Side, number: int, flood: str, outcome: Outcome) -> None:
    """Flood a server, again where somebody at the other end crashes (see `endure`). Raises Failed."""
    for left in reversed(range(ATTEMPTS)):
        try:
            endure(each, number, flood, outcome)
            break
        except Crashed:
            if not left:
                raise
            time.sleep(REST + FLOOD + AFTER)  # what still runs there ends by itself


def endure(each: Side, number: int, flood: str, outcome: Outcome) -> None:
    """Flood a server, and add what was noticed of it to `outcome`. Raises Failed."""
    _, function, arguments = FLOODS[flood]
    settle(each)
    seconds = REST + FLOOD + AFTER + 3
    visitors = each.begin("pings", jids=each.accounts(VISITORS), rate=PINGS, seconds=seconds)
    guest = {"jid": f"guest@{each.domain}", "password": each.passwords["guest"]}
    people = each.begin("logins", **guest, rate=LOGINS, seconds=seconds)
    watcher = each.begin("watch", pid=each.prosody(), seconds=seconds)
    more: dict[str, dict[str, Any]] = {
        "handshakes": {"domain": each.domain},
        "guesses": {"jid": f"{MEMBERS[0]}@{each.domain}"},
        "stanzas": {"jids": each.accounts(MEMBERS)},
    }
    calm = time.monotonic()
    time.sleep(REST)
    calm_until = time.monotonic()
    attackers = each.begin(
        function, sources=sources(number, flood), seconds=FLOOD, **arguments, **more.get(function, {})
    )
    began = time.monotonic()
    done = float(json.loads(finish(attackers)))
    ended = min(time.monotonic(), began + FLOOD + 1)
    pings, logins, looks = (json.loads(finish(process)) for process in (visitors, people, watcher))
    at_rest, in_flood, after = Usage(looks, calm, calm_until), Usage(looks, began, ended), Usage(looks, ended, math.inf)
    outcome.rest += [took for when, took in pings if calm <= when < calm_until]
    outcome.during += [took for when, took in pings if began <= when < began + FLOOD]
    outcome.served += [float(took < 1000) for when, took in logins if began <= when < began + FLOOD]
    outcome.recovery.append(recovery(ended, pings, logins, 2 * percentile(outcome.rest, 99)))
    outcome.processor_at_rest.append(at_rest.processor)
    outcome.processor.append(in_flood.processor)
    outcome.memory.append(in_flood.memory / at_rest.memory)
    outcome.memory_after.append(after.memory / at_rest.memory)
    outcome.done.append(done)
    progress(f"  {each.name}, {flood}: {done:.0f} times")


def settle(each: Side) -> None:
    """Wait until a server has done what was left to do of the flood before: what attackers sent is not lost.

    Raises Failed after PATIENCE: what is measured then would be no rest.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        used = each.used()
        time.sleep(1)
        if each.used() - used < AT_REST:
            return
    raise Failed(f"{each.name} does not come to rest within {PATIENCE:.0f} seconds.")


def finish(process: subprocess.Popen[str]) -> str:
    """What somebody at the other end of the cable prints last. Raises Failed."""
    said, problem = process.communicate(timeout=60)
    if process.returncode > 128 or process.returncode < 0:  # as a shell, and podman, tell of a signal
        raise Crashed(problem)
    if process.returncode:
        raise Failed(problem)
    return said


def recovery(ended: float, pings: list[list[float]], logins: list[list[float]], bound: float) -> float:
    """Seconds after the flood until half a second of pings is as quick as at rest and a login that begins succeeds.

    Where they never do, as many as were waited for.
    """
    quick = served = AFTER + 3
    for start in (ended + half / 2 for half in range(int(2 * AFTER) + 4)):
        window = [took for when, took in pings if start <= when < start + 0.5]
        if window and percentile(window, 90) <= bound:
            quick = start - ended
            break
    for when, took in logins:
        if when >= ended and took < 1000:
            served = when + took - ended
            break
    return max(quick, served)


def figures(outcomes: dict[str, dict[str, Outcome]]) -> list[Figure]:
    """What is told of all floods: one side after the other, and of each the same figure of every flood together."""
    told = []
    for name in SIDES:
        rest = [took for outcome in outcomes.values() for took in outcome[name].rest]
        rows = [figures_of(flood, name, outcome[name], rest) for flood, outcome in outcomes.items()]
        told += [figure for column in zip(*rows, strict=True) for figure in column]
    return told


def figures_of(flood: str, name: str, outcome: Outcome, all_rest: list[float]) -> list[Figure]:
    """What is told of a side in a flood, beside its rest before all of them; something is promised of ours alone."""

    def figure(
        key: str, what: str, unit: str, values: list[float], ratio: float, *, rest: list[float] | None = None,
        target: float | None = None,
    ) -> Figure:  # fmt: skip
        return Figure(
            key=f"attack.{flood}.{key}.{name}",
            label=f"{FLOODS[flood][0]}, {name}: {what}",
            unit=unit,
            sides={"rest": rest, name: values} if rest else {name: values},
            ratio=ratio,
            target=target if name == "ours" else None,
        )

    at_rest, during = (1000 * percentile(values, 99) for values in (all_rest, outcome.during))
    served, slowest = statistics.fmean(outcome.served), max(outcome.recovery)
    processor, memory, after = map(statistics.median, (outcome.processor, outcome.memory, outcome.memory_after))
    return [
        figure("p99_over_rest", "p99 of a ping", "ms", [during], during / at_rest, rest=[at_rest], target=P99),
        figure("served", "logins served", "share", [served], served),
        figure("unserved", "logins not served", "share", [1 - served], 1 - served, target=0.0),
        figure("seconds_to_recover", "recovery", "s", outcome.recovery, slowest, target=RECOVERY),
        figure("cpu", "processor", "share", outcome.processor, processor, rest=outcome.processor_at_rest),
        figure("memory_over_rest", "memory", "times rest", outcome.memory, memory),
        figure("memory_after_over_rest", "memory after it", "times rest", outcome.memory_after, after),
    ]
