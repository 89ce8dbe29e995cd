"""Our server beside Debian's own Prosody and ejabberd

Three hosts of one inventory: ours as the kit deploys it, with second factor, limits and archive; stock and ejabberd as
Debian's packages set them up, with the virtual hosts, rooms, uploads and, on a virtual host apart, the archive that
their operators have to add. Each does the same in turn, round after round. What is compared is the processor time of
the server's processes, so neither the clients nor the network are in it; one login's latency is a time by the clock.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import secrets
import socket
import ssl
import statistics
import subprocess
import time
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cli import deploy
from cli.benchmarks import Figure, paired
from cli.common import ROOT, progress, timed_line, tool
from cli.lab import Failed, play, quiet, read_yaml

if TYPE_CHECKING:
    from cli.benchmarks.load import Login, Session

NEEDS = ["containers"]
INVENTORY = ROOT / "inventories" / "bench" / "server" / "hosts.yml"
OTHERS = INVENTORY.parent / "others.yml"
ROUNDS = 7
ACCOUNTS = 500
SESSIONS = 10  # of an account, as many as ejabberd allows
DEVICES = 4  # accounts that log in, at ours each with a second factor and one device
PAIRS = 50  # senders and receivers; the receivers are a room's occupants as well
CROWDS = (100, 1000, 5000)
UPLOAD = 1 << 20  # octets
BODY = "The quick brown fox jumps over the lazy dog, and then it does it all over again, for the sake of a number."
WITHOUT_ARCHIVE = "<no-store xmlns='urn:xmpp:hints'/>"  # XEP-0334; ours archives all else

# What is measured: how it is told, its unit, how far it may be from stock and from ejabberd.
KINDS: dict[str, tuple[str, str, dict[str, float]]] = {
    "login_cpu": ("A login, with second factor at ours", "ms", {"stock": 0.6, "ejabberd": 1.0}),
    "fast_login_cpu": ("A login, with a FAST token where there is FAST", "ms", {}),
    "handshake_cpu": ("A TLS handshake", "ms", {}),
    "lone_login_latency": ("One login after another, by the clock", "ms", {"stock": 0.3}),
    "message_cpu": ("A message", "µs", {"stock": 0.6, "ejabberd": 1.0}),
    "archived_message_cpu": ("A message, archived for both", "µs", {"stock": 0.35}),
    "room_message_cpu": (f"A message in a room of {PAIRS}, for each that gets it", "µs", {}),
    "upload_cpu": ("An upload of 1 MiB", "ms", {}),
}


class Shell:
    """A root shell in a host of the lab, which stays open: reading a counter must not cost more than what it counts."""

    def __init__(self, container: str) -> None:
        self.process = subprocess.Popen(
            ["podman", "exec", "--interactive", container, "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, command: str) -> str:
        """What a command says. Raises Failed when the shell is gone."""
        assert self.process.stdin and self.process.stdout
        end = secrets.token_hex(8)
        self.process.stdin.write(f"{command}\necho {end}\n")
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            if line.strip() == end:
                return said
            said += line
        raise Failed(f"The shell in the host ended: {said}")

    def close(self) -> None:
        """End it."""
        self.process.communicate()


@dataclass
class Server:
    """A server under test.

    Attributes:
        name: its host in the inventory.
        programs: the names of its processes, for pgrep.
        archive: the virtual host that archives.
        upload: what is to be asked for a place to upload to.
        password: of all accounts.
        logins: the accounts that log in and out.
    """

    name: str
    programs: str
    archive: str
    upload: str
    uploads_at: str
    address: str
    ports: dict[str, str]
    shell: Shell
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)
    logins: list[Login] = field(default_factory=list)
    tokens: list[Login] = field(default_factory=list)

    @property
    def domain(self) -> str:
        """Its virtual host."""
        return f"{self.name}.example"

    def port(self, number: str) -> int:
        """Where a port of its is reached."""
        return int(self.ports.get(number, number))

    def login(self, username: str, domain: str = "") -> Login:
        """An account of it."""
        from cli.benchmarks.load import Login  # noqa: PLC0415 - see cli/__init__.py

        return Login(self.address, self.port("5222"), username, domain or self.domain, self.password)

    def processor_time(self) -> float:
        """Milliseconds of processor time that its processes have used."""
        said = self.shell.ask(f"for p in $(pgrep -x '{self.programs}'); do cat /proc/$p/task/*/schedstat; done")
        return sum(int(line.split()[0]) for line in said.splitlines()) / 1e6

    def memory(self) -> int:
        """KiB of memory that its processes hold."""
        said = self.shell.ask(f"for p in $(pgrep -x '{self.programs}'); do grep VmRSS /proc/$p/status; done")
        return sum(int(number) for number in re.findall(r"\d+", said))


def measure() -> list[Figure]:
    """Boot, deploy, measure, remove. Raises Failed."""
    servers: list[Server] = []
    try:
        with timed_line("Boot three throw-away Debian servers"):
            play("create", INVENTORY)
        with timed_line("Deploy ours, install Debian's Prosody and ejabberd"):
            quiet([tool("ansible-playbook"), "-i", str(INVENTORY), str(deploy.PLAYBOOK)])
            quiet([tool("ansible-playbook"), "-i", str(INVENTORY), str(OTHERS)])
        servers += [find(name) for name in ("stock", "ejabberd", "ours")]
        with timed_line(f"Make {ACCOUNTS} accounts at each"):
            for server in servers:
                populate(server)
        return asyncio.run(Run(servers).all())
    finally:
        for server in servers:
            server.shell.close()
        play("destroy", INVENTORY)


def find(name: str) -> Server:
    """A server of the inventory, as it is reached."""
    reached = read_yaml(INVENTORY.parent / "host_vars" / f"{name}.yml")
    ours = name == "ours"
    return Server(
        name=name,
        programs="beam.smp" if name == "ejabberd" else "lua5.4|prosody|nginx",
        archive=f"{name}.example" if ours else f"archive.{name}.example",
        upload=f"upload.{name}.example",
        uploads_at={"ours": "443", "stock": "5281", "ejabberd": "5443"}[name],
        address=reached["verification_connect"],
        ports=reached["verification_ports"],
        shell=Shell(reached["lab_container"]),
    )


def populate(server: Server) -> None:
    """Create the accounts, and at ours a second factor for those that log in. Raises Failed."""
    from verification.probes import second_factor, xmpp  # noqa: PLC0415 - see cli/__init__.py

    names = [f"login{number}" for number in range(DEVICES)] + [f"user{number}" for number in range(ACCOUNTS)]
    domains = sorted({server.domain, server.archive})
    if server.name == "ejabberd":
        users = "".join(f"<user name='{name}' password='{server.password}'/>" for name in names)
        hosts = "".join(f"<host jid='{domain}'>{users}</host>" for domain in domains)
        document = f"<?xml version='1.0'?><server-data xmlns='urn:xmpp:pie:0'>{hosts}</server-data>"
        file = "/var/lib/ejabberd/accounts.xml"
        server.shell.ask(f"cat >{file} <<'END'\n{document}\nEND")
        said = server.shell.ask(f"chown ejabberd {file}; ejabberdctl import_piefxis {file} </dev/null; rm {file}")
    else:
        said = ""
        for domain in domains:
            create = f"users.create_user_with_role(name, '{server.password}', '{domain}', 'prosody:registered')"
            listed = "{ '" + "', '".join(names) + "' }"
            lua = f"local users = require 'core.usermanager'; for _, name in ipairs({listed}) do {create} end"
            said += server.shell.ask(f"prosodyctl shell <<'END'\n> {lua}\nEND")
    server.logins = [server.login(name) for name in names[:DEVICES]]
    if server.name != "ours":
        return
    for number, login in enumerate(server.logins):
        try:
            with xmpp.Client.login(login.address, login.port, login.jid, login.password) as client:
                second_factor.set_up(client, login.password)
                password = second_factor.add_device(client, login.password, "bench")
        except xmpp.AuthenticationFailed as error:
            raise Failed(f"There is no account to log in with: {error}\n{said}") from error
        server.logins[number] = replace(login, password=password)


@dataclass
class Stage:
    """The sessions that stay open at a server while it is measured: who writes, who reads, and in which room."""

    senders: list[Session]
    receivers: list[Session]
    archived_senders: list[Session]
    archived_receivers: list[Session]
    room: str


class Run:
    """One measurement of all servers.

    Attributes:
        values: of each kind and each server, a number a round.
        own: seconds of processor time that the load itself took at each server, and the seconds by the clock.
    """

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.values: dict[str, dict[str, list[float]]] = {
            kind: {server.name: [] for server in servers} for kind in KINDS
        }
        self.own: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}

    async def all(self) -> list[Figure]:
        """Set up, go round, fill up, and tell."""
        stages = {}
        with timed_line(f"Open {4 * PAIRS} sessions, where they are to write to each other"):
            for server in self.servers:
                stages[server.name] = await set_up(server)
        with timed_line(f"{ROUNDS} rounds of logins, messages, rooms and uploads"):
            for number in range(ROUNDS + 1):
                for server in self.servers:
                    await self.round(server, stages[server.name], keep=number > 0)  # the first warms them up
                progress(f"  {number} of {ROUNDS} rounds")
        for stage in stages.values():
            for session in {*stage.senders, *stage.receivers, *stage.archived_senders, *stage.archived_receivers}:
                session.close()
        memory: dict[str, dict[int, float]] = {}
        with timed_line(f"Up to {CROWDS[-1]} idle sessions at each"):
            for server in self.servers:
                memory[server.name] = await crowd(server)
        return [*self.figures(), *idle(memory)]

    async def round(self, server: Server, stage: Stage, keep: bool) -> None:
        """Measure each kind once."""
        from cli.benchmarks import load  # noqa: PLC0415 - see cli/__init__.py

        logins = server.logins
        tokens = server.tokens or logins
        with_hint = [message(each.login.jid, WITHOUT_ARCHIVE) for each in stage.receivers]
        without = [message(each.login.jid) for each in stage.archived_receivers]
        in_room = [message(stage.room, kind="groupchat")]
        found = {
            "handshake_cpu": await self.cost(
                server, load.repeat(lambda n: handshake(logins[n % DEVICES]), 40, DEVICES), 40
            ),
            "login_cpu": await self.cost(server, load.repeat(lambda n: log_in(logins[n % DEVICES]), 40, DEVICES), 40),
            "fast_login_cpu": await self.cost(
                server, load.repeat(lambda n: log_in(tokens[n % DEVICES]), 40, DEVICES), 40
            ),
            "lone_login_latency": statistics.median([await timed(log_in(logins[0])) for _ in range(8)]),
            "message_cpu": 1000
            * await self.cost(
                server, load.converse(stage.senders, [[to] for to in stage.receivers], with_hint, 40), 40 * PAIRS
            ),
            "archived_message_cpu": 1000
            * await self.cost(
                server,
                load.converse(stage.archived_senders, [[to] for to in stage.archived_receivers], without, 10),
                10 * PAIRS,
            ),
            "room_message_cpu": 1000
            * await self.cost(server, load.converse(stage.receivers[:1], [stage.receivers], in_room, 30), 30 * PAIRS),
            "upload_cpu": await self.cost(server, uploads(server, stage.senders[0], 4), 4),
        }
        if keep:
            for kind, value in found.items():
                self.values[kind][server.name].append(value)

    async def cost(self, server: Server, work: Awaitable[Any], times: int) -> float:
        """Milliseconds of processor time that a piece of work costs the server."""
        before, own, began = server.processor_time(), time.process_time(), time.monotonic()
        await work
        self.own[server.name].append((time.process_time() - own, time.monotonic() - began))
        await asyncio.sleep(0.05)  # the server may still be cleaning up
        return (server.processor_time() - before) / times

    def figures(self) -> list[Figure]:
        """What became of it."""
        told = []
        for kind, (label, unit, targets) in KINDS.items():
            sides = {name: values for name, values in self.values[kind].items() if values}
            told += [
                Figure(
                    f"server.{kind}_over_{other}",
                    label,
                    unit,
                    sides,
                    paired(sides["ours"], sides[other]),
                    targets.get(other),
                )
                for other in sides
                if other != "ours"
            ]
        busy = {
            name: [100 * sum(own for own, _ in spent) / sum(clock for _, clock in spent)]
            for name, spent in self.own.items()
        }
        note = "The load is one process: only near 100 it would be the limit."
        return [*told, Figure("server.load_share", "What the load itself takes of a processor", "%", busy, note=note)]


async def set_up(server: Server) -> Stage:
    """Log in who stays, let ours give tokens, and open a room. Raises Broken."""
    from cli.benchmarks import load  # noqa: PLC0415 - see cli/__init__.py
    from verification.probes.sasl2 import BIND, request_token  # noqa: PLC0415 - see cli/__init__.py

    if server.name == "ours":
        for login in server.logins:
            asking = replace(login, client=str(uuid.uuid4()))
            session = await load.connect(asking)
            granted = await session.log_in(BIND + request_token(load.FAST))
            token = re.search(rb"token='([^']+)'", granted) or re.search(rb'token="([^"]+)"', granted)
            if not token:
                raise Failed(f"No token was given: {granted.decode()}")
            server.tokens.append(replace(asking, token=token[1].decode()))
            session.close()

    async def enter(number: int, domain: str) -> Session:
        session = await load.log_in(server.login(f"user{number}", domain))
        session.send("<presence/>")
        return session

    senders = await load.repeat(lambda number: enter(number, server.domain), PAIRS, 4)
    receivers = await load.repeat(lambda number: enter(PAIRS + number, server.domain), PAIRS, 4)
    archived_senders, archived_receivers = senders, receivers
    if server.archive != server.domain:
        archived_senders = await load.repeat(lambda number: enter(number, server.archive), PAIRS, 4)
        archived_receivers = await load.repeat(lambda number: enter(PAIRS + number, server.archive), PAIRS, 4)
    room = f"bench@conference.{server.domain}"
    await open_room(room, receivers)
    return Stage(senders, receivers, archived_senders, archived_receivers, room)


async def open_room(room: str, occupants: list[Session]) -> None:
    """Let the first make a room and the others its members, and let all enter. Raises Broken."""
    from cli.benchmarks import load  # noqa: PLC0415 - see cli/__init__.py

    muc = "http://jabber.org/protocol/muc"
    owner, *members = occupants

    async def enter(session: Session) -> None:
        nick = session.login.username
        await session.ask(f"<presence to='{room}/{nick}'><x xmlns='{muc}'/></presence>", b"'110'", b'"110"')

    async def say(query: str) -> None:
        said = await owner.ask(f"<iq type='set' id='room' to='{room}'>{query}</iq>", b"id='room'", b'id="room"')
        said = said[said.rfind(b"<iq") :] + await owner.until(b">")
        if b"error" in said:
            raise load.Broken(f"{said.decode()} for {query}")

    await enter(owner)
    await say(f"<query xmlns='{muc}#owner'><x xmlns='jabber:x:data' type='submit'/></query>")
    for session in members:
        await say(f"<query xmlns='{muc}#admin'><item affiliation='member' jid='{session.login.jid}'/></query>")
        await enter(session)


def message(to: str, hint: str = "", kind: str = "chat") -> bytes:
    """A message as clients write it."""
    return f"<message type='{kind}' to='{to}' id='{uuid.uuid4()}'><body>{BODY}</body>{hint}</message>".encode()


async def log_in(login: Login) -> None:
    """Log in and out."""
    from cli.benchmarks import load  # noqa: PLC0415 - see cli/__init__.py

    (await load.log_in(login)).close()


async def handshake(login: Login) -> None:
    """Connect, encrypt, and leave."""
    from cli.benchmarks import load  # noqa: PLC0415 - see cli/__init__.py

    session = await load.connect(login)
    await session.start_tls()
    session.close()


async def timed(work: Awaitable[Any]) -> float:
    """The milliseconds by the clock that something takes."""
    began = time.monotonic()
    await work
    return 1000 * (time.monotonic() - began)


async def uploads(server: Server, session: Session, times: int) -> None:
    """Ask for places to upload to, and upload. Raises Failed."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for number in range(times):
        request = f"<request xmlns='urn:xmpp:http:upload:0' filename='{uuid.uuid4()}.bin' size='{UPLOAD}'/>"
        slot = await session.ask(f"<iq type='get' id='slot{number}' to='{server.upload}'>{request}</iq>", b"</iq>")
        url = re.search(rb"<put[^>]*url=['\"]https://([^/:'\"]+)[^/]*(/[^'\"]+)", slot)
        authorization = re.search(rb"<header name=['\"]Authorization['\"]>([^<]+)", slot)
        if not url:
            raise Failed(f"There is no place to upload to: {slot.decode()}")
        name, path = url[1].decode(), url[2].decode()
        headers = {"Content-Type": "application/octet-stream"}
        if authorization:
            headers["Authorization"] = authorization[1].decode()
        connection = http.client.HTTPSConnection(name)
        plain = socket.create_connection((server.address, server.port(server.uploads_at)))
        connection.sock = context.wrap_socket(plain, server_hostname=name)
        connection.request("PUT", path, bytes(UPLOAD), headers)
        answer = connection.getresponse()
        if answer.status != 201:
            raise Failed(f"The upload failed: {answer.status} {answer.reason}")
        connection.close()


async def restart(server: Server) -> None:
    """Restart it, and wait until it lets an account in. Raises Failed."""
    from cli.benchmarks import load  # noqa: PLC0415 - see cli/__init__.py

    server.shell.ask(f"systemctl restart {'ejabberd' if server.name == 'ejabberd' else 'prosody'}")
    for _ in range(60):
        try:
            return await log_in(server.login("user0"))
        except (load.Broken, OSError):
            await asyncio.sleep(0.5)
    raise Failed(f"{server.name} does not come back.")


async def crowd(server: Server) -> dict[int, float]:
    """KiB that an idle session takes, by how many there are; a server that is full has fewer entries."""
    from cli.benchmarks import load  # noqa: PLC0415 - see cli/__init__.py

    async def enter(number: int) -> None:
        session = await load.log_in(server.login(f"user{number // SESSIONS}"))
        session.send("<presence/>")
        session.heard = lambda _: None
        sessions.append(session)

    sessions: list[Session] = []
    found = {}
    await restart(server)  # what it took before it would take again
    empty = server.memory()
    for size in CROWDS:
        try:
            begun = len(sessions)
            await load.repeat(lambda number: enter(begun + number), size - begun, 16)  # noqa: B023 - awaited at once
        except (load.Broken, OSError, TimeoutError):
            break
        await asyncio.sleep(1)
        found[size] = (server.memory() - empty) / size
        progress(f"  {server.name}: {size} sessions")
    for session in sessions:
        session.close()
    return found


def idle(memory: dict[str, dict[int, float]]) -> list[Figure]:
    """The figures of idle sessions, a figure for each size."""
    return [
        Figure(
            f"server.memory_{size}",
            f"Memory of an idle session, of {size}",
            "KiB",
            {name: [found[size]] for name, found in memory.items() if size in found},
            note=" ".join(
                f"{name.title()} does not let so many in." for name, found in memory.items() if size not in found
            ),
        )
        for size in CROWDS
        if any(size in found for found in memory.values())
    ]
