"""Two hypervisors whose machines share a network, as failure domains need them, on one host.

Role: `a` is in the host's network; `b` has a network namespace of its own, as another host has. A cable (veth) joins
their bridges to one layer 2, and b's end lets no DHCP pass, as docs/providers.md asks for. Inputs: a directory;
outputs: the settings of an endpoint with both as failure domains. Must not: leave anything behind, or collide with
another run on the host.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from capn.dev.hypervisor import Hypervisor

NETWORK = "capn-shared"
_POOL = IPv4Network("10.90.0.0/16")
# An entry that nobody has: libvirt starts no DHCP server for a network without entries or ranges.
_NOBODY = "52:54:00:00:00:01"
_FILTER = """
table bridge capn {{
  chain forward {{ type filter hook forward priority 0; iifname {cable} udp dport {{ 67, 68 }} drop;
                   oifname {cable} udp dport {{ 67, 68 }} drop; }}
  chain input {{ type filter hook input priority 0; iifname {cable} udp dport {{ 67, 68 }} drop; }}
  chain output {{ type filter hook output priority 0; oifname {cable} udp dport {{ 67, 68 }} drop; }}
}}
"""


class TwoHosts:
    """Hosts `a` and `b`, which can lose its power and come back. Needs root."""

    def __init__(self, directory: Path) -> None:
        mark = secrets.token_hex(3)
        self.namespace = f"capn-{mark}"
        self._bridges = {"a": f"c2a{mark}", "b": f"c2b{mark}"}
        self._cable = {"a": f"c2x{mark}", "b": f"c2y{mark}"}
        self.subnet = _choose_subnet()
        self.hosts = {
            "a": Hypervisor(directory / "a"),
            "b": Hypervisor(directory / "b", namespace=self.namespace),
        }

    def start(self) -> None:
        """Start both, make the network on each, and join them."""
        _run("ip", "netns", "add", self.namespace)
        for number, (name, host) in enumerate(self.hosts.items(), 1):
            host.start()
            self._make_network(name, own=str(self.subnet[number]), nobody=str(self.subnet[250 + number]))
        self._join()

    def stop(self) -> list[str]:
        """End both and take everything off the host; what is left all the same."""
        for host in self.hosts.values():
            host.stop()
        self._remove_namespace()
        left = [leak for host in self.hosts.values() for leak in host.leaks()]
        for host in self.hosts.values():
            host.purge()
        named = [*self._bridges.values(), *self._cable.values()]
        left += [f"link {name}" for name in named if Path("/sys/class/net", name).exists()]
        return left + [str(path) for path in (Path("/run/netns", self.namespace),) if path.exists()]

    def cut_power(self, name: str = "b") -> None:
        """Let a host lose its power: all of its processes, its network and what it had in memory are gone at once."""
        assert name == "b", "the other one's network is this host's"
        host = self.hosts[name]
        os.kill(int((host.state / "init.pid").read_text()), signal.SIGKILL)
        host.stop()
        self._remove_namespace()

    def restore_power(self) -> None:
        """Let `b` boot: its network starts by itself, its machines do not."""
        _run("ip", "netns", "add", self.namespace)
        self.hosts["b"].start()
        self._join()

    def settings(self, **common: Any) -> dict[str, Any]:
        """An endpoint of which both are failure domains, as an administrator writes it."""
        parts = dict(zip(self.hosts, list(self.subnet.subnets(new_prefix=26))[1:3], strict=True))
        domains = {name: {"uri": host.uri, "addresses": str(parts[name])} for name, host in self.hosts.items()}
        return {"kind": "libvirt", "network": NETWORK, "pool_path": Hypervisor.pool_path, "domains": domains, **common}

    def bridge(self, name: str) -> str:
        """The bridge of its network."""
        return self._bridges[name]

    def virsh(self, name: str, *args: str) -> str:
        """Ask one of them as its administrator."""
        return _run("virsh", "--quiet", "--connect", self.hosts[name].uri, *args)

    def domains(self) -> Mapping[str, set[str]]:
        """Machines by host."""
        return {name: set(self.virsh(name, "list", "--all", "--name").split()) for name in self.hosts}

    def _make_network(self, name: str, *, own: str, nobody: str) -> None:
        bridge = f'<bridge name="{self._bridges[name]}" stp="off" delay="0"/>'
        entry = f'<dhcp><host mac="{_NOBODY}" ip="{nobody}"/></dhcp>'
        address = f'<ip address="{own}" netmask="{self.subnet.netmask}">{entry}</ip>'
        xml = f'<network><name>{NETWORK}</name><forward mode="nat"/>{bridge}{address}</network>'
        path = self.hosts[name].state / "network.xml"
        path.write_text(xml)
        for words in (("net-define", str(path)), ("net-start", NETWORK), ("net-autostart", NETWORK)):
            self.virsh(name, *words)

    def _join(self) -> None:
        inside = ("ip", "-n", self.namespace)
        cable = self._cable
        _run(*inside, "link", "set", "lo", "up")
        _run("ip", "link", "add", cable["a"], "type", "veth", "peer", "name", cable["b"], "netns", self.namespace)
        rules = _FILTER.format(cable=cable["b"])
        _run("ip", "netns", "exec", self.namespace, "nft", "-f", "-", stdin=rules)
        _run(*inside, "link", "set", cable["b"], "master", self._bridges["b"], "up")
        _run("ip", "link", "set", cable["a"], "master", self._bridges["a"], "up")

    def _remove_namespace(self) -> None:
        """With it its bridge, its rules and both ends of the cable go."""
        with contextlib.suppress(AssertionError):
            _run("ip", "netns", "delete", self.namespace)
        with contextlib.suppress(AssertionError):  # the kernel takes its time
            _run("ip", "link", "delete", self._cable["a"])


def _choose_subnet() -> IPv4Network:
    """A /24 that nothing on this host has a route to."""
    routes = [IPv4Network(line.split()[0]) for line in _run("ip", "-4", "route").splitlines() if "/" in line.split()[0]]
    free = [net for net in _POOL.subnets(new_prefix=24) if not any(net.overlaps(route) for route in routes)]
    return secrets.choice(free)


def _run(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, input=stdin)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout
