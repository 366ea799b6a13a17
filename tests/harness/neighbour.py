"""A stand-in for a machine on a cluster's network: a network namespace with a card on the same bridge.

For tries of who reaches whom, which need real packets on real bridges and no operating system behind the card.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

PORT = 18080
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


@dataclass(frozen=True)
class Neighbour:
    """One namespace, which listens on PORT."""

    namespace: str
    address: IPv4Address

    def reaches(self, address: IPv4Address, port: int = PORT) -> bool:
        """Whether a TCP connection from here to there is made."""
        argv = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", _CONNECT, str(address), str(port)]
        return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0


@contextlib.contextmanager
def on_bridge(bridge: str, subnet: IPv4Network, *, name: str, host: int) -> Iterator[Neighbour]:
    """A neighbour at the `host`-th address of the subnet; `name` (at most 10 characters) is the namespace's."""
    outside, inside, address = f"{name}-o", f"{name}-i", subnet[host]
    steps = (
        ["netns", "add", name],
        ["link", "add", outside, "type", "veth", "peer", "name", inside],
        ["link", "set", inside, "netns", name],
        ["link", "set", outside, "master", bridge, "up"],
        ["-n", name, "link", "set", "lo", "up"],
        ["-n", name, "address", "add", f"{address}/{subnet.prefixlen}", "dev", inside],
        ["-n", name, "link", "set", inside, "up"],
        ["-n", name, "route", "add", "default", "via", str(subnet[1])],
    )
    try:
        for step in steps:
            subprocess.run(["ip", *step], check=True, timeout=30)
        serve = [sys.executable, "-m", "http.server", str(PORT), "--bind", str(address), "--directory", "/proc/self/fd"]
        with subprocess.Popen(
            ["ip", "netns", "exec", name, *serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                yield Neighbour(name, address)
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "link", "delete", outside], stderr=subprocess.DEVNULL, timeout=30, check=False)
        subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, timeout=30, check=False)
