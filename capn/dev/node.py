"""A real node of the embedded parent on this machine: containerd, kubelet and kube-proxy, so that it runs pods.

Role: starts, looks at and stops what `node_init` keeps running in namespaces of its own. Pods, their mounts and
networks end with its first process; `stop` takes the link and the cgroup away as well. From the host every pod and
Service of the parent can be reached. Inputs: a directory, a running parent that listens on the host's end of the link.
Needs root. Must not: keep state in memory (another process may stop what this one started), or change the host's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from capn.api.conditions import find_condition
from capn.dev import node_init, processes
from capn.dev.cgroups import CPU_SHARES, create_group, find_groups, remove_group
from capn.dev.kubectl import Kubectl
from capn.dev.link import Link, short_id
from capn.dev.node_dns import build_dns
from capn.dev.node_files import (
    CONTAINERD_SOCKET,
    NODE_PARTS,
    PROGRAMS,
    NodePlan,
    may_lower_oom_score,
    write_node_files,
)
from capn.dev.node_images import COREDNS_IMAGE, ensure_base_images
from capn.dev.parent import Parent
from capn.dev.waiting import wait_until
from capn.errors import NotFoundError, TerminalError
from capn.parts.process import run
from capn.parts.source import Report

READY_LIMIT_S = 180.0
_PID_LIMIT_S = 10.0
_INIT = "init"
_REASON = "NodeFailed"
_MANY_EXITS = 4
_TAIL_LINES = 15
_TIME = "%Y-%m-%dT%H:%M:%SZ"  # as the API writes it: texts compare as times do
_TOOLS = {"unshare": "util-linux", "mount": "mount", "ip": "iproute2", "nft": "nftables", "setpriv": "util-linux"}
_UNPACKED = re.compile(r"^unpacking (\S+) \(", re.MULTILINE)  # what `ctr images import` says of each image
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Node:
    """The node of one environment. `link` has its addresses; `programs` maps NODE_PARTS to paths (for `start`)."""

    directory: Path
    link: Link
    name: str = "node"
    programs: Mapping[str, Path] = field(default_factory=dict)
    cpu_shares: int = CPU_SHARES
    dies_with_us: bool = False

    @property
    def cgroup(self) -> str:
        """Name of its cgroup in every hierarchy."""
        return short_id(self.link.directory)

    @property
    def pid(self) -> int | None:
        """Pid on the host of its first process (`nsenter --target PID --all` is a shell in the node); None if none."""
        if processes.find(self._run, _INIT) is None:
            return None
        try:
            return int((self.directory / "init.pid").read_text())
        except (OSError, ValueError):
            return None

    def running(self) -> bool:
        """Whether its first process lives."""
        return processes.find(self._run, _INIT) is not None

    def log(self, program: str) -> Path:
        """The log of `containerd`, `kubelet` or `kube-proxy`."""
        return self.directory / "log" / f"{program}.log"

    async def start(self, parent: Parent, report: Report) -> None:
        """Start it and wait until it is Ready, with CoreDNS on its way; only what is missing happens when it runs.

        TerminalError with the end of the log of the program that failed; then nothing is left running.
        """
        self.check_host()
        kubectl = Kubectl(self.programs["kubectl"], parent.kubeconfig)
        since = ""
        try:
            if not self.running():
                since = datetime.now(UTC).strftime(_TIME)
                await self._spawn(parent)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._wait_ready(kubectl, since))
                group.create_task(self._import_base(report))
            await kubectl.apply(*build_dns(image=COREDNS_IMAGE, address=str(self.link.block.dns)))
        except ExceptionGroup as errors:
            await self.stop()
            raise errors.exceptions[0] from None
        except BaseException:
            await asyncio.shield(self.stop())
            raise
        report(f"node {self.name} is Ready; pods and Services are {self.link.block.network} on this machine")

    async def stop(self) -> bool:
        """End it with every pod, take its link and cgroup off the host; whether it ran. Data stays until `purge`."""
        ran = await self.stop_programs()
        await self.link.remove()
        await remove_group(self.cgroup)
        return ran

    async def stop_programs(self) -> bool:
        """End every process of it, pods included; whether it ran. Cgroup and, if it is kept, the link stay."""
        return await processes.stop(self._run, _INIT)

    @contextmanager
    def link_kept(self) -> Iterator[None]:
        """The link, which goes with the last user of the node's network namespace, outlives the node in this block."""
        try:
            descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        except OSError:
            yield  # there is no such process
            return
        try:
            yield
        finally:
            os.close(descriptor)

    async def purge(self) -> None:
        """`stop`, then remove its directory with all images and volumes of pods."""
        await self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def leaks(self) -> list[str]:
        """What is left on the host after `stop`: processes, mounts, link, routes, cgroups; empty when nothing is."""
        found = [f"process {record.pid} ({record.name})" for record in processes.find_owned(self.directory)]
        found += [
            f"mount {line.split()[4]}"
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if f"{self.directory.resolve()}/" in line
        ]
        return [*found, *self.link.leaks(), *(f"cgroup {path}" for path in find_groups(self.cgroup))]

    async def import_images(self, archive: Path, report: Report) -> None:
        """Import an OCI archive into the node, unpacked; pods may name its images at once.

        NotFoundError when the node does not run, TerminalError with what `ctr` said.
        """
        started = time.monotonic()
        done = await run([*self._ctr(), "images", "import", "--local", "--discard-unpacked-layers", archive])
        done.require_success(f"importing {archive.name} into the node", reason=_REASON)
        # A name that was there keeps CRI's mark for 'seen', and CRI gives no id to what it refers to now: containers
        # start from it, but it cannot be mounted as an image volume (containerd 2.4).
        for name in _UNPACKED.findall("\n".join(done.tail)):
            seen = await run([*self._ctr(), "images", "label", name, "io.cri-containerd.image="])
            seen.require_success(f"announcing {name} to the node", reason=_REASON)
        report(f"imported {archive.name} in {time.monotonic() - started:.1f} s")

    async def missing_images(self, names: Collection[str]) -> list[str]:
        """Which of these images the node does not hold. NotFoundError when it does not run."""
        listed = await run([*self._ctr(), "images", "list", "--quiet"], tail_lines=10_000)
        listed.require_success("listing the node's images", reason=_REASON)
        return [name for name in names if name not in listed.tail]

    def check_host(self) -> None:
        """TerminalError or NotFoundError when this machine lacks what a node needs, with the package's name."""
        if os.geteuid() != 0:
            raise TerminalError("a node needs root (namespaces, links): run with sudo", reason="NotRoot")
        missing = sorted({package for tool, package in _TOOLS.items() if not shutil.which(tool, path=_SEARCH_PATH)})
        if missing:
            raise TerminalError(f"install the packages {', '.join(missing)}", reason="PackagesMissing")
        if unknown := [name for name in (*NODE_PARTS, "kubectl") if name not in self.programs]:
            raise NotFoundError(f"no binary for {', '.join(unknown)}; run `capn parts build {' '.join(unknown)}`")

    @property
    def _run(self) -> Path:
        return self.directory / "init"

    async def _spawn(self, parent: Parent) -> None:
        """Start the first process and hand it its end of the link."""
        await processes.stop(self._run, _INIT)
        await remove_group(self.cgroup)
        block = await self.link.ensure()
        create_group(self.cgroup, cpu_shares=self.cpu_shares)
        plan = NodePlan(
            name=self.name,
            block=block,
            server=parent.server,
            cgroup=self.cgroup,
            peer=self.link.peer,
            programs=self.programs,
            restrict_oom=not may_lower_oom_score(),
        )
        for log in (self.directory / "log").glob("*.log"):
            log.unlink()
        (self.directory / "log" / "exits").unlink(missing_ok=True)
        processes.log_path(self._run, _INIT).unlink(missing_ok=True)
        (self.directory / "init.pid").unlink(missing_ok=True)
        write_node_files(self.directory, plan, parent.layout, now=datetime.now(UTC))
        argv = [
            "unshare", "--mount", "--propagation", "private", "--pid", "--net", "--uts", "--ipc", "--fork",
            "--kill-child", sys.executable, "-I", node_init.__file__, str(self.directory),
        ]  # fmt: skip
        processes.spawn(argv, name=_INIT, directory=self._run, dies_with_us=self.dies_with_us)
        await wait_until("the node's first process", self._missing_pid, limit_s=_PID_LIMIT_S, interval_s=0.02)
        self.link.attach(self.pid or 0)

    async def _missing_pid(self) -> str | None:
        self._check_alive()
        return None if self.pid else "no init.pid"

    async def _wait_ready(self, kubectl: Kubectl, since: str) -> None:
        """Wait for a kubelet that said so after `since`: what an earlier one said is still in the API."""

        async def missing() -> str | None:
            self._check_alive()
            found = await kubectl.run("get", "node", self.name, "--ignore-not-found", "-o", "json")
            if (missing := _why_not_ready(found, since)) is not None:
                return missing
            account = await kubectl.run("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
            return None if account.strip() else "the service account that pods run as"

        await wait_until(f"node {self.name} Ready", missing, limit_s=READY_LIMIT_S, interval_s=0.5)

    async def _import_base(self, report: Report) -> None:
        """The sandbox, CoreDNS and the toolbox, unless a former run left them in the node's directory."""
        archive = await ensure_base_images(self.programs, report)

        async def silent() -> str | None:
            self._check_alive()
            done = await run([*self._ctr(), "version"])
            return None if done.status == 0 else " ".join(done.tail[-1:])

        await wait_until("containerd", silent, limit_s=READY_LIMIT_S, interval_s=0.2)
        if await self.missing_images(archive.images):
            await self.import_images(archive.path, report)

    def _ctr(self) -> list[str | Path]:
        if (pid := self.pid) is None:
            raise NotFoundError("the node does not run; start it with `capn dev up --node`")
        return [self.programs["ctr"], "--address", f"/proc/{pid}/root{CONTAINERD_SOCKET}", "--namespace", "k8s.io"]

    def _check_alive(self) -> None:
        """TerminalError with a log's end when the first process is gone or a program keeps ending."""
        if not self.running():
            log = processes.log_path(self._run, _INIT)
            tail = processes.read_tail(self._run, _INIT, lines=_TAIL_LINES)
            raise TerminalError(f"the node's first process ended; the end of {log}:\n{tail}", reason=_REASON)
        exits = self._exits()
        for program in PROGRAMS:
            if exits.count(program) >= _MANY_EXITS:
                tail = processes.read_tail(self.directory / "log", program, lines=_TAIL_LINES)
                message = f"{program} keeps ending; the end of {self.log(program)}:\n{tail}"
                raise TerminalError(message, reason=_REASON)

    def _exits(self) -> list[str]:
        """The programs that ended since the start, one entry each time."""
        try:
            return [line.split()[0] for line in (self.directory / "log" / "exits").read_text().splitlines()]
        except OSError:
            return []


def _why_not_ready(text: str, since: str) -> str | None:
    """None when the node of this JSON (empty: none) has been Ready since then, otherwise the condition's message."""
    if not text.strip():
        return "the kubelet has not registered it"
    ready = find_condition(json.loads(text), "Ready") or {"status": "", "message": "no status"}
    if str(ready.get("lastHeartbeatTime", "")) < since:
        return "the kubelet has said nothing yet"
    return None if ready["status"] == "True" else str(ready["message"])
