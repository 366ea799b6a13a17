"""A stand-in for a control plane that may hold its cluster's endpoint: a network namespace with the real keepalived.

Its configuration is the guest's own, but for where the check is and how often it is asked. The card may be left out
until later, as in a machine that boots.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from capn.build.virtual_address import CHECK_PATH, build_keepalived


@dataclass
class Holder:
    """One namespace. `name` has at most 10 characters."""

    name: str
    address: IPv4Address
    endpoint: IPv4Address
    bridge: str
    subnet: IPv4Network
    directory: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> str:
        """What keepalived said."""
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    @property
    def runs(self) -> bool:
        """Whether keepalived has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def holds_endpoint(self) -> bool:
        """Whether the card has the endpoint's address."""
        argv = ["ip", "-n", self.name, "-o", "address", "show", "to", str(self.endpoint)]
        return bool(subprocess.run(argv, capture_output=True, timeout=30, check=True).stdout)

    def answer(self, *, ready: bool) -> None:
        """Let the check of the API server succeed or fail from now on."""
        (self.directory / "ready").unlink(missing_ok=True)
        if ready:
            (self.directory / "ready").touch()

    def plug_in(self) -> None:
        """Give the machine its card."""
        outside = f"{self.name}-o"
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", outside, "master", self.bridge, "up")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "address", "add", f"{self.address}/{self.subnet.prefixlen}", "dev", "eth0")

    def start(self) -> None:
        """Start keepalived with the guest's configuration."""
        check = self.directory / "check.sh"
        check.write_text(f"#!/bin/sh\ntest -e {self.directory}/ready\n")
        check.chmod(0o755)
        config = self.directory / "keepalived.conf"
        text = build_keepalived(str(self.endpoint)).replace(CHECK_PATH, str(check))
        config.write_text(text.replace("interval 20", "interval 1"))  # what a check costs is no matter here
        argv = ["keepalived", "--dont-fork", "--log-console", "--use-file", str(config)]
        argv += ["--pid", str(self.directory / "pid"), "--vrrp_pid", str(self.directory / "vrrp")]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *argv],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the program has a child, and dies with it only when all are killed at once
            )

    def power_off(self) -> None:
        """End it without a last word, as a machine that loses its power."""
        if self.runs:
            assert self._process is not None
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
        subprocess.run(["ip", "link", "delete", f"{self.name}-o"], capture_output=True, timeout=30, check=False)


@contextlib.contextmanager
def on_a_network(subnet: IPv4Network, directory: Path, names: tuple[str, ...]) -> Iterator[list[Holder]]:
    """Holders without card or keepalived yet, on a bridge of their own; the endpoint is the tenth address."""
    bridge = f"{names[0]}-br"
    holders = []
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for host, name in enumerate(names, start=11):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            place = directory / name
            place.mkdir()
            holders.append(Holder(name, subnet[host], subnet[10], bridge, subnet, place))
        yield holders
    finally:
        for holder in holders:
            holder.power_off()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30, check=False)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True, timeout=30, check=False)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, timeout=30)
