"""The embedded default parent: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as plain processes.

Role: start, wait until ready, stop; all on loopback with generated certificates, all state in one directory. Inputs:
the four binaries. Output: a kubeconfig. Two parents in two directories never collide. Must not: need root, or leave a
process behind when a start fails.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from capn.dev import processes
from capn.dev.addresses import AddressBlock
from capn.dev.parent_files import choose_ports, write_files
from capn.dev.parent_flags import (
    API_SERVER,
    CONTROLLER_MANAGER,
    ETCD,
    LOOPBACK,
    PROGRAMS,
    SCHEDULER,
    SERVICE_CIDR,
    ParentLayout,
    ParentPorts,
    build_api_server,
    build_controller_manager,
    build_etcd,
    build_scheduler,
)
from capn.errors import NotFoundError, TerminalError, TransientError, UnreachableError
from capn.parts.source import Report

READY_TIMEOUT_S = 120.0
_POLL_S = 0.1
_ATTEMPTS = 3
_HTTP_OK = 200
_PORT_TAKEN = "address already in use"


class _PortTakenError(TransientError):
    """Somebody took a port between our choosing it and the program's binding it."""


@dataclass(frozen=True)
class Parent:
    """One parent cluster in `directory`. `binaries` maps the four programs' names to their paths.

    With a `block` its Services have addresses of that; when `linked` its API server listens on the host's end of the
    link to a node, which must be there.
    """

    directory: Path
    binaries: Mapping[str, Path] = field(default_factory=dict)
    audit: bool = False
    dies_with_us: bool = False
    block: AddressBlock | None = None
    linked: bool = False

    @classmethod
    @asynccontextmanager
    async def start(
        cls, directory: Path, binaries: Mapping[str, Path], report: Report, *, audit: bool = False
    ) -> AsyncIterator[Parent]:
        """A running parent for the length of a `with` block; its directory stays, its processes do not."""
        parent = cls(directory, binaries, audit=audit, dies_with_us=True)
        await parent.up(report)
        try:
            yield parent
        finally:
            await parent.down()

    @property
    def layout(self) -> ParentLayout:
        """Paths of its files."""
        return ParentLayout(self.directory)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.kubeconfig

    @property
    def audit_log(self) -> Path:
        """One JSON line a request, when `audit` is on."""
        return self.layout.audit_log

    @property
    def server(self) -> str:
        """Address of the API server. NotFoundError before the first start."""
        ports = self._read_ports()
        return f"https://{ports.address}:{ports.api_server}"

    def running(self) -> list[str]:
        """Names of its programs that run now."""
        return [name for name in PROGRAMS if processes.find(self.layout.run, name)]

    async def up(self, report: Report) -> None:
        """Start what does not run and wait until it is ready; nothing happens when all of it runs.

        TerminalError with the last lines of the log when a program ends; after a failure nothing is left running.
        """
        if len(self.running()) == len(PROGRAMS) and (self._read_ports().address == self._where()[0]):
            await self._wait_ready()
            return
        await self.down()
        _check_binaries(self.binaries)
        self._check_services()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._start_once(report)
            except _PortTakenError as error:
                if attempt == _ATTEMPTS:
                    raise
                report(f"{error}; trying other ports")
            else:
                return

    async def down(self) -> list[str]:
        """Stop the programs, the API server's clients first; the names of those that ran."""
        return [name for name in reversed(PROGRAMS) if await processes.stop(self.layout.run, name)]

    async def remove(self) -> None:
        """Stop and delete the directory."""
        await self.down()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _start_once(self, report: Report) -> None:
        address, services = self._where()
        ports = choose_ports(address=address, services=services)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_files(self.layout, ports, now=datetime.now(UTC))
        self._ports_file.write_text(json.dumps(asdict(ports)))
        try:
            self._spawn(ETCD, build_etcd(self.binaries, self.layout, ports))
            self._spawn(API_SERVER, build_api_server(self.binaries, self.layout, ports, audit=self.audit))
            await self._wait_ready(API_SERVER)
            report(f"API server answers at {self.server}")
            self._spawn(CONTROLLER_MANAGER, build_controller_manager(self.binaries, self.layout, ports))
            self._spawn(SCHEDULER, build_scheduler(self.binaries, self.layout, ports))
            await self._wait_ready()
        except BaseException:
            await asyncio.shield(self.down())
            raise

    def _check_services(self) -> None:
        """Addresses of Services are in the data: they cannot be other ones later."""
        if not self.layout.etcd_data.exists() or not self._ports_file.exists():
            return
        before, now = self._read_ports().services, self._where()[1]
        if before != now:
            message = (
                f"the parent in {self.directory} has its Services in {before}, not {now}: remove it and start anew"
            )
            raise TerminalError(message, reason="ServicesMoved")

    def _where(self) -> tuple[str, str]:
        """Address of the API server, range of cluster IPs."""
        if self.block is None:
            return LOOPBACK, SERVICE_CIDR
        return str(self.block.host) if self.linked else LOOPBACK, str(self.block.services)

    def _spawn(self, name: str, argv: list[str]) -> None:
        processes.log_path(self.layout.run, name).unlink(missing_ok=True)
        processes.spawn(argv, name=name, directory=self.layout.run, dies_with_us=self.dies_with_us)

    @property
    def _ports_file(self) -> Path:
        return self.directory / "ports.json"

    def _read_ports(self) -> ParentPorts:
        try:
            return ParentPorts(**json.loads(self._ports_file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise NotFoundError(f"no parent in {self.directory}; start one with `capn dev up`") from error

    async def _wait_ready(self, *only: str) -> None:
        """Wait until the API server and (unless `only` some) the two managers say that they are ready."""
        ports = self._read_ports()
        urls = {
            API_SERVER: f"https://{ports.address}:{ports.api_server}/readyz",
            CONTROLLER_MANAGER: f"https://{LOOPBACK}:{ports.controller_manager}/healthz",
            SCHEDULER: f"https://{LOOPBACK}:{ports.scheduler}/healthz",
        }
        wanted = only or tuple(urls)
        deadline = time.monotonic() + READY_TIMEOUT_S
        async with aiohttp.ClientSession() as session:
            for name in wanted:
                context = _client_context(self.layout) if name == API_SERVER else _unchecked_context()
                while (answer := await _probe(session, urls[name], context)) is not None:
                    self._check_alive(ETCD, *wanted[: wanted.index(name) + 1])
                    if time.monotonic() > deadline:
                        raise UnreachableError(f"{name} is not ready after {READY_TIMEOUT_S:.0f} s: {answer}")
                    await asyncio.sleep(_POLL_S)

    def _check_alive(self, *names: str) -> None:
        for name in names:
            if processes.find(self.layout.run, name):
                continue
            end = processes.describe_end(self.layout.run, name)
            if _PORT_TAKEN in end:
                raise _PortTakenError(f"{name}: a port was taken by another program")
            raise TerminalError(f"while starting, {end}", reason="ParentFailed")


async def _probe(session: aiohttp.ClientSession, url: str, context: ssl.SSLContext) -> str | None:
    """None when the answer is 200, otherwise what went wrong."""
    try:
        async with session.get(url, ssl=context, timeout=aiohttp.ClientTimeout(total=5)) as response:
            return None if response.status == _HTTP_OK else f"HTTP {response.status}: {(await response.text())[:500]}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return str(error) or type(error).__name__


def _client_context(layout: ParentLayout) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(layout.certificate("ca")))
    context.load_cert_chain(layout.certificate("admin"), layout.key("admin"))
    return context


def _unchecked_context() -> ssl.SSLContext:
    """For health checks of the managers, whose certificates they make themselves; nothing is sent there."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _check_binaries(binaries: Mapping[str, Path]) -> None:
    missing = [name for name in PROGRAMS if name not in binaries]
    if missing:
        raise NotFoundError(f"no binary for {', '.join(missing)}; run `capn parts build {' '.join(missing)}`")
