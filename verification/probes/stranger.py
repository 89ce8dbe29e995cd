"""A stranger on the network: a network namespace on the host, one cable away from it, with addresses of its own."""

from __future__ import annotations

import inspect
import json
from types import ModuleType
from typing import Any

from testinfra.host import Host

__all__ = ["Stranger"]


class Stranger:
    """Somebody at the other end of a cable, there as long as the `with` block.

    Entering it raises AssertionError with what went wrong. Addresses are of the documentation's networks (RFC 5737,
    RFC 3849).

    Args:
        host: the host to be plugged into; the user must be able to become root.
        name: of the namespace's process and cable, ten letters at most.
        number: 0 to 15, of the networks; strangers of the same host need different ones.

    Attributes:
        host_address: IP version -> the host's address at its end of the cable.
        address: IP version -> the stranger's.
        neighbour: IP version -> an address of another source (another /64) at the stranger's end.
        elsewhere: IP version -> an address that the host routes to the stranger, and that nobody has.
    """

    def __init__(self, host: Host, name: str, number: int) -> None:
        self.host = host
        self.unit = f"portcullis-{name}"
        self.cable = f"{name}0"
        self.process = ""
        self.host_address = {4: f"192.0.2.{4 * number + 1}", 6: f"2001:db8:{number}::1"}
        self.address = {4: f"192.0.2.{4 * number + 2}", 6: f"2001:db8:{number}::2"}
        self.neighbour = {4: f"203.0.113.{number + 1}", 6: f"2001:db8:{number}:1::1"}
        self.elsewhere = {4: f"198.51.100.{number + 1}", 6: f"2001:db8:{number}:2::1"}

    def __enter__(self) -> Stranger:
        self._unplug()
        commands = f"""
            systemd-run --quiet --unit={self.unit} --service-type=exec --property=PrivateNetwork=yes sleep infinity
            stranger=$(systemctl show --property=MainPID --value {self.unit})
            inside="nsenter --net --target $stranger ip"
            ip link add {self.cable} type veth peer name eth0 netns $stranger
            ip address add {self.host_address[4]}/30 dev {self.cable}
            ip address add {self.host_address[6]}/64 dev {self.cable} nodad
            ip link set {self.cable} up
            $inside address add {self.address[4]}/30 dev eth0
            $inside address add {self.address[6]}/64 dev eth0 nodad
            $inside link set lo up
            $inside address add {self.neighbour[4]}/32 dev lo
            $inside address add {self.neighbour[6]}/128 dev lo
            $inside link set eth0 up
            $inside route add default via {self.host_address[4]}
            $inside -6 route add default via {self.host_address[6]}
            for address in {self.neighbour[4]} {self.elsewhere[4]}; do
                ip route add $address via {self.address[4]}
            done
            for address in {self.neighbour[6]} {self.elsewhere[6]}; do
                ip -6 route add $address via {self.address[6]}
            done
            echo $stranger
        """
        with self.host.sudo():
            self.process = self.host.check_output("sh -ec %s", commands)
        return self

    def __exit__(self, *_: object) -> None:
        self._unplug()

    def _unplug(self) -> None:
        with self.host.sudo():
            self.host.run(f"systemctl stop {self.unit}; ip link delete {self.cable}")

    def run(self, code: str) -> str:
        """Run Python at the stranger's end and return what it prints. Raises AssertionError."""
        with self.host.sudo():
            return self.host.check_output("nsenter --net --target %s python3 -c %s", self.process, code)

    def call(self, module: ModuleType, function: str, *arguments: Any) -> Any:
        """Call a function of a module that needs the standard library alone there; what it returns, through JSON."""
        call = f"{function}(*{arguments!r})"
        return json.loads(self.run(f"{inspect.getsource(module)}\nimport json\nprint(json.dumps({call}))"))
