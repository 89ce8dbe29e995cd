"""Who takes part: servers as an attacker reaches them, and the attackers."""

from __future__ import annotations

import contextlib
import inspect
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import testinfra
from testinfra.host import Host

from verification.probes import xmpp
from verification.probes.tls import Channel, Offer, Refused
from verification.probes.xmpp import Client, Stream
from verification.targets import Target

PORTS = (22, 80, 443, xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT, 5280, 5281)
PATIENCE = 20  # seconds
PROCESS = "/proc/$(systemctl show -p MainPID --value prosody)"


@dataclass(frozen=True)
class Origin:
    """A host of the stage from which servers are reached, and that runs Python.

    Attributes:
        name: in the inventory.
        host: its inside.
        target: its variables.
    """

    name: str
    host: Host
    target: Target

    @property
    def address(self) -> str:
        """Its address, as the servers see it."""
        return str(self.target.variables["lab_address"])

    @contextlib.contextmanager
    def way_to(self, server: Target) -> Iterator[Target]:
        """The server as it is reached from this host: whoever connects comes from there.

        SSH carries the connections, so one that the server does not take ends at once.
        """
        local = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        address = server.variables["lab_address"]
        reached = self.target.variables
        forwards = [f"127.0.0.1:{here}:{address}:{there}" for there, here in local.items()]
        command = ["ssh", "-N", "-F", "none", *reached["ansible_ssh_common_args"].split(), "-o", "BatchMode=yes"]
        command += ["-o", "ExitOnForwardFailure=yes", "-i", reached["ansible_ssh_private_key_file"]]
        command += [word for forward in forwards for word in ("-L", forward)]
        command += ["-p", str(reached["ansible_port"]), f"{reached['ansible_user']}@{reached['ansible_host']}"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ssh:
            try:
                await_port(local[PORTS[-1]])
                yield Target(server.name, "127.0.0.1", local, server.ca_file, server.variables)
            finally:
                ssh.terminate()

    def run(self, code: str) -> str:
        """Run Python there and return what it prints. Raises AssertionError."""
        return self.host.check_output("python3 -c %s", code)

    def call(self, module: ModuleType, function: str, *arguments: Any) -> Any:
        """Call a function of a module that needs the standard library alone there; what it returns, through JSON."""
        call = f"{function}(*{arguments!r})"
        return json.loads(self.run(f"{inspect.getsource(module)}\nimport json\nprint(json.dumps({call}))"))


@dataclass(frozen=True)
class Victim:
    """A server under attack.

    Attributes:
        target: the server as the first attacker reaches it.
        other: as the second does.
        office: as well-behaved clients do.
        attackers, clients: where they are.
        host: its inside, for what it costs.
        passwords: of its accounts, by their local names.
        certificates: the directory of the stage's certificates.
        web: the port of its HTTPS.
    """

    target: Target
    other: Target
    office: Target
    attackers: tuple[Origin, ...]
    clients: Origin
    host: Host
    passwords: dict[str, str]
    certificates: Path
    web: int

    @property
    def domain(self) -> str:
        """Its XMPP domain."""
        return self.target.domain

    @property
    def address(self) -> str:
        """Its address on the stage's network."""
        return str(self.target.variables["lab_address"])

    @property
    def muc(self) -> str:
        """Its group chat service."""
        return f"conference.{self.domain}"

    @property
    def upload(self) -> str:
        """Its upload service."""
        return f"upload.{self.domain}"

    def log_in(self, name: str, through: Target | None = None, port: int = xmpp.C2S) -> Client:
        """An account, logged in from the first attacker's address or through another way."""
        address, reached = (through or self.target).at(port)
        return Client.login(address, reached, f"{name}@{self.domain}", self.passwords[name], standard_port=port)

    def plaintext(self, port: int, sender: str = "") -> Stream:
        """A connection to a STARTTLS port on which nothing was said yet."""
        return Stream(Channel.connect(*self.target.at(port)), self.domain, xmpp.namespace_of(port), sender)

    def peer(self, name: str, pair: Path | None, through: Target | None = None) -> tuple[Stream, ET.Element]:
        """An encrypted stream of a server that says it is `name`, with the certificate PAIR.crt."""
        certificate, key = (pair.with_name(f"{pair.name}.{end}") if pair else None for end in ("crt", "key"))
        offer = Offer(self.domain, certificate=certificate, key=key)
        return (through or self.target).stream(xmpp.S2S, offer=offer, sender=name)

    def trusted_peer(self, through: Target | None = None) -> Stream:
        """A stream on which the stage's large server has proven its name."""
        name = self.target.variables["peer_domain"]
        stream, _ = self.peer(name, self.certificates / name, through)
        xmpp.sasl(stream, "EXTERNAL", name)
        stream.open()
        return stream

    def memory(self) -> float:
        """What Prosody's process holds, in MiB, from which `peak` begins anew."""
        status = self.host.check_output(f"echo 5 >{PROCESS}/clear_refs; cat {PROCESS}/status")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def peak(self) -> float:
        """The most that it has held since then, in MiB."""
        return int(self.host.check_output(f"cat {PROCESS}/status").partition("VmHWM:")[2].split()[0]) / 1024

    def processor(self) -> float:
        """The seconds of processor time that it has used."""
        return int(self.host.check_output(f"cat {PROCESS}/schedstat").split()[0]) / 1e9

    def journal(self, since: float) -> str:
        """What Prosody has logged since then, seconds since 1970."""
        return self.host.check_output(
            "journalctl --sync; journalctl --quiet --output=cat --unit=prosody --since=@%s;"
            " cat /var/log/prosody/prosody.log 2>/dev/null || true",
            str(int(since)),
        )

    def seconds_away(self, limit: float = 120) -> float:
        """How long it takes until somebody of the office can log in."""
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < limit:
            with contextlib.suppress(OSError, Refused, xmpp.Refusal):
                self.is_up()
                return time.monotonic() - started
        return elapsed

    def is_up(self) -> bool:
        """Whether somebody of the office can log in."""
        with self.log_in("alice", self.office) as alice:
            alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=self.domain)
        return True


def inside(inventory: str, name: str) -> Host:
    """The inside of a host of the inventory."""
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={inventory}")


def free_ports(number: int) -> list[int]:
    """Ports of the loopback that nobody has."""
    with contextlib.ExitStack() as sockets:
        taken = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in taken]


def await_port(port: int) -> None:
    """Wait until something listens there. Raises ConnectionError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise ConnectionError(f"nothing listens at port {port}")
