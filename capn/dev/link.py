"""The one veth pair between the host and a node, and the address block that is routed over it.

Role: chooses a block (remembered in a directory), makes the host's end with its address and one route, hands the other
end to the node's network namespace, takes all of it away. Needs root. The host's routing table is the register of the
blocks in use; an abstract socket, which belongs to the same network namespace, is the lock around it. Must not: add
packet-filter rules or turn on forwarding on the host, or touch a link of another environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from capn.dev.addresses import AddressBlock, choose_block
from capn.errors import NotFoundError, TerminalError, UnreachableError

_PREFIX = "capn-"
_LOCK = "\0capn-address-blocks"
_LOCK_LIMIT_S = 60.0
_POLL_S = 0.05
_GONE_LIMIT_S = 10.0
_REASON = "LinkFailed"


def short_id(directory: Path) -> str:
    """A name that no other directory on this host has: for its link (15 characters at the most) and its cgroup."""
    return f"{_PREFIX}{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Link:
    """The veth pair of the environment in `directory`; the block is in `directory`/network.json."""

    directory: Path

    @property
    def name(self) -> str:
        """The host's end."""
        return short_id(self.directory)

    @property
    def peer(self) -> str:
        """The node's end while it is still on the host."""
        return self.name.replace(_PREFIX, "capnp")

    @property
    def memory(self) -> Path:
        """Where the block is remembered."""
        return self.directory / "network.json"

    def read(self) -> AddressBlock | None:
        """The remembered block, or None."""
        try:
            return AddressBlock(IPv4Network(json.loads(self.memory.read_text())["block"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def block(self) -> AddressBlock:
        """The remembered block. NotFoundError when there is none."""
        if (block := self.read()) is None:
            raise NotFoundError(f"no addresses for {self.directory}; start a node with `capn dev up --node`")
        return block

    async def reserve(self) -> AddressBlock:
        """The remembered block; a free one is chosen and remembered at the first call. Nothing on the host changes."""
        async with _locked():
            return self._reserve()

    async def ensure(self) -> AddressBlock:
        """`reserve`, and the pair with address and route, the node's end still on the host. Not while the node runs.

        TerminalError when another has the block by now.
        """
        async with _locked():
            block = self._reserve()
            if not _exists(self.peer):
                await self.remove()  # its other end is in the namespace of a node that has just died
            if not _exists(self.name):
                others = [str(used) for used in _host_networks() if used.overlaps(block.network)]
                if others:
                    raise TerminalError(
                        f"the addresses {block.network} of {self.directory} are in use ({', '.join(others)}): stop the "
                        f"other user, or give these up with `capn demo --clean`",
                        reason="NoAddresses",
                    )
                self._make(block)
            return block

    def attach(self, pid: int) -> None:
        """Move the node's end into the network namespace of the process. TerminalError when it is not there."""
        _ip("link", "set", self.peer, "netns", str(pid))

    async def remove(self) -> None:
        """Take the pair off the host, its address and route with it; it may be going by itself just now."""
        deadline = time.monotonic() + _GONE_LIMIT_S
        while _exists(self.name):
            with contextlib.suppress(TerminalError):
                _ip("link", "delete", self.name)
            if time.monotonic() > deadline:
                raise TerminalError(f"the link {self.name} cannot be deleted", reason=_REASON)
            await asyncio.sleep(_POLL_S)

    def leaks(self) -> list[str]:
        """Link ends and routes that are still on the host."""
        ends = [f"link {name}" for name in (self.name, self.peer) if _exists(name)]
        block = self.read()
        if not ends or block is None:
            return ends
        return [*ends, *(f"route {used}" for used in _host_networks() if used.overlaps(block.network))]

    def _reserve(self) -> AddressBlock:
        if (block := self.read()) is None:
            siblings = (Link(path.parent).read() for path in self.directory.parent.glob("*/network.json"))
            remembered = [sibling.network for sibling in siblings if sibling]
            start = int(self.name.removeprefix(_PREFIX), 16)
            block = choose_block([*_host_networks(), *remembered], start=start)
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.memory.write_text(json.dumps({"block": str(block.network)}))
        return block

    def _make(self, block: AddressBlock) -> None:
        _ip("link", "add", self.name, "type", "veth", "peer", "name", self.peer)
        try:
            _ip("address", "add", f"{block.host}/{block.link.prefixlen}", "dev", self.name)
            _ip("link", "set", self.name, "up")
            # `onlink`: the other end, which will have that address, comes up later.
            _ip("route", "add", str(block.network), "via", str(block.node), "dev", self.name, "onlink")
        except TerminalError:
            with contextlib.suppress(TerminalError):
                _ip("link", "delete", self.name)
            raise


def _exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def _host_networks() -> Iterable[IPv4Network]:
    """Destinations of the host's IPv4 routes in all tables (its own addresses are among them), without the default."""
    for route in json.loads(_ip("-4", "-json", "route", "show", "table", "all") or "[]"):
        with contextlib.suppress(ValueError, KeyError):  # "default"
            network = IPv4Network(route["dst"], strict=False)
            if network.prefixlen:
                yield network


def _ip(*arguments: str) -> str:
    environment = {**os.environ, "PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LANG": "C"}
    try:
        done = subprocess.run(
            ["ip", *arguments], capture_output=True, text=True, check=False, timeout=30, env=environment
        )
    except FileNotFoundError as error:
        raise TerminalError("install the package iproute2", reason="PackagesMissing") from error
    if done.returncode:
        raise TerminalError(f"ip {' '.join(arguments)}: {done.stderr.strip()}", reason=_REASON)
    return done.stdout


@asynccontextmanager
async def _locked() -> AsyncIterator[None]:
    """Only one process of this network namespace at a time; no file is left, and a dead holder holds nothing."""
    deadline = time.monotonic() + _LOCK_LIMIT_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        while True:
            try:
                lock.bind(_LOCK)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    message = f"another capn holds the lock for addresses for more than {_LOCK_LIMIT_S:.0f} s"
                    raise UnreachableError(message) from error
            await asyncio.sleep(_POLL_S)
        yield
