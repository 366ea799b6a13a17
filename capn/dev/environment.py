"""A development environment: embedded parent, private hypervisor, CRDs and the controller, by one name.

Role: up, down, status; each may be repeated at any half state. Inputs: a `DevState` and the programs. Outputs: files in
the state directory, background processes. Must not: touch the host's own libvirt or another environment.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp
import yaml

import capn
from capn import names
from capn.bundle import find_shipped
from capn.dev import processes
from capn.dev.accel import choose_accel
from capn.dev.files import write_private
from capn.dev.hypervisor import Hypervisor
from capn.dev.kubectl import Kubectl
from capn.dev.kubevirt_steps import install_kubevirt
from capn.dev.link import Link
from capn.dev.node import Node
from capn.dev.node_files import NODE_PARTS
from capn.dev.node_parent import stop_both
from capn.dev.parent import Parent
from capn.dev.parent_files import choose_ports
from capn.dev.parent_flags import LOOPBACK, PROGRAMS, SERVICE_CIDR
from capn.dev.progress import Progress
from capn.dev.state import DevState
from capn.dev.supplies import ensure_programs, find_programs
from capn.dev.waiting import wait_until
from capn.errors import NotFoundError, TerminalError
from capn.image.recipe import KERNEL_COMMAND_LINE
from capn.parts.catalogue import CONTROL_PLANE_NAMES
from capn.parts.source import Report
from capn.settings import GateSettings, KubeVirtEndpoint, NestingSettings

CONTROLLER = "controller"
LEASE_NAMESPACE = names.SYSTEM_NAMESPACE
_PACKAGE = Path(capn.__file__).resolve().parent
_CONTROLLER_LIMIT_S = 60.0
_HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Status:
    """What runs of an environment."""

    name: str
    directory: str
    parent: str
    hypervisor: str
    controller: str
    kubeconfig: str
    node: str = "none"

    @property
    def complete(self) -> bool:
        """Whether all of it runs."""
        return {self.parent, self.hypervisor, self.controller} == {"running"} and self.node != "stopped"


def samples_dir(provider: Literal["libvirt", "kubevirt"] = "libvirt") -> Path:
    """The samples of a checkout for machines by this provider."""
    samples = _PACKAGE.parent / "config" / "samples"
    found = samples / "kubevirt" if provider == "kubevirt" else samples
    if not found.is_dir():
        raise NotFoundError("config/samples is missing: run the demo from a checkout of capn")
    return found


@dataclass(frozen=True)
class Environment:
    """One development environment."""

    state: DevState

    @property
    def kubectl(self) -> Kubectl:
        """The kubectl for its parent. NotFoundError when kubectl is not in the cache yet."""
        return Kubectl(find_programs(["kubectl"])["kubectl"], self.parent().kubeconfig)

    def parent(self) -> Parent:
        """Its parent as it was started before."""
        return Parent(self.state.parent)

    @property
    def link(self) -> Link:
        """Its addresses, and the way to its node."""
        return Link(self.state.directory)

    def node(self, programs: Mapping[str, Path] | None = None) -> Node:
        """Its node; to start it or import images, the programs are needed (`find_programs(NODE_PARTS)`)."""
        return Node(self.state.node, self.link, name=f"{self.state.name}-node", programs=programs or {})

    def hypervisor(self) -> Hypervisor:
        """Its hypervisor."""
        return Hypervisor(self.state.hypervisor)

    @property
    def has_kubevirt(self) -> bool:
        """Whether KubeVirt was installed in the parent."""
        return (self.state.commands / "virtctl").exists()

    @property
    def nests(self) -> bool:
        """Whether children may have clusters of their own."""
        return self.state.nesting.exists()

    def status(self) -> Status:
        """What runs now."""
        running = self.parent().running()
        some = f"{len(running)} of {len(PROGRAMS)} programs run" if running else "stopped"
        kubeconfig = self.parent().kubeconfig
        return Status(
            name=self.state.name,
            directory=str(self.state.directory),
            parent="running" if len(running) == len(PROGRAMS) else some,
            hypervisor="running" if self.hypervisor().running() else "stopped",
            controller="running" if processes.find(self.state.controller, CONTROLLER) else "stopped",
            kubeconfig=str(kubeconfig) if kubeconfig.exists() else "",
            node=self._node_status(),
        )

    def _node_status(self) -> str:
        if not self.state.node.exists():
            return "none"
        pid = self.node().pid
        return f"running (a shell in it: nsenter --all --target {pid})" if pid else "stopped"

    async def up(
        self,
        progress: Progress,
        *,
        accel: Literal["auto", "kvm", "emulate"] = "auto",
        node: bool = False,
        kubevirt: bool = False,
        nesting: bool = False,
    ) -> None:
        """Start what does not run; the controller is started anew, so that it is the present code.

        With `node` the parent runs pods, from now on at every `up`; `kubevirt`, which takes a node, installs KubeVirt.
        With `nesting` children may have clusters of their own (spec.nesting), from now on at every `up`.
        """
        with_node = node or kubevirt or self.state.node.exists()
        with progress.step("Getting the parent's programs") as report:
            binaries = await ensure_programs(report, [*CONTROL_PLANE_NAMES, *(NODE_PARTS if with_node else ())])
        self.state.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if nesting:
            self.state.nesting.touch()
        with progress.step("Starting the private hypervisor") as report:
            chosen = await choose_accel(accel, report)
            await asyncio.to_thread(self.hypervisor().start)
        await self._start_parent(binaries, progress, with_node=with_node)
        self._write_commands(binaries["kubectl"])
        with progress.step("Installing capn's CRDs"):
            await self._install_crds()
            if self.nests:
                await self._install_nesting()
        if kubevirt:
            await install_kubevirt(self.node(binaries), self.kubectl, self.state.commands, progress)
        with progress.step("Starting the controller") as report:
            await self.start_controller(report, accel=chosen)

    async def down(self, progress: Progress) -> None:
        """Stop everything; the data stays for the next `up`. Machines stop with the hypervisor."""
        with progress.step(f"Stopping {self.state.name}"):
            await processes.stop(self.state.controller, CONTROLLER, grace_s=30.0)
            await asyncio.to_thread(self.hypervisor().stop)
            await stop_both(self.node(), self.parent())

    async def _start_parent(self, binaries: Mapping[str, Path], progress: Progress, *, with_node: bool) -> None:
        """The parent and, if wanted, its node. When either fails, both are stopped: neither is of use alone.

        The link's address on the host is where nodes' pods and children's machines reach the API server.
        """
        block, node = await self.link.reserve(), self.node(binaries)
        linked = with_node or self.nests
        parent = Parent(self.state.parent, binaries, block=block, linked=linked)
        try:
            with progress.step("Starting the parent cluster") as report:
                if with_node and not node.running():
                    node.check_host()
                if linked and not node.running():
                    await self.link.ensure()
                await parent.up(report)
            if with_node:
                with progress.step("Starting the parent's node") as report:
                    await node.start(parent, report)
        except BaseException:
            if linked:
                await asyncio.shield(stop_both(node, parent))
            raise

    async def _install_crds(self) -> None:
        crds = str(find_shipped("crds"))
        await self.kubectl.run("apply", "--server-side", "-f", crds)
        await self.kubectl.run("wait", "--for=condition=Established", "--timeout=60s", "-f", crds)
        lease_namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}}
        await self.kubectl.apply(lease_namespace)

    async def _install_nesting(self) -> None:
        """What children may do here, and the policy that keeps them from more."""
        directory = find_shipped("config") / "nesting"
        for name in ("child_role.yaml", "policy.yaml", "policy_binding.yaml"):
            await self.kubectl.run("apply", "--server-side", "-f", str(directory / name))

    async def start_controller(self, report: Report, *, accel: Literal["kvm", "emulate"] | None = None) -> None:
        """(Re)start `capn run` in the background and wait until it is ready. `accel` None keeps the settings."""
        await processes.stop(self.state.controller, CONTROLLER, grace_s=30.0)
        port = choose_ports().scheduler
        if accel is not None:
            self._write_settings(accel)
        self.state.controller.mkdir(parents=True, exist_ok=True)
        self.state.port_file.write_text(str(port))
        argv = [
            sys.executable, "-m", "capn", "run",
            f"--kubeconfig={self.parent().kubeconfig}", f"--settings={self.state.settings}",
        ]  # fmt: skip
        processes.spawn(argv, name=CONTROLLER, directory=self.state.controller, env=_own_code({"CAPN_PORT": str(port)}))
        await wait_until("the controller", self._controller_silent, limit_s=_CONTROLLER_LIMIT_S, interval_s=0.2)
        report(f"its log is {processes.log_path(self.state.controller, CONTROLLER)}")

    async def _controller_silent(self) -> str | None:
        """None when the controller says that it is ready; TerminalError when it has ended."""
        if not processes.find(self.state.controller, CONTROLLER):
            end = processes.describe_end(self.state.controller, CONTROLLER)
            raise TerminalError(f"the controller: {end}", reason="ControllerFailed")
        url = f"http://{LOOPBACK}:{self.state.port_file.read_text()}/readyz"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(url) as answer,
            ):
                return None if answer.status == _HTTP_OK else (await answer.text())[:300]
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{url}: {error}"

    def _write_settings(self, accel: Literal["kvm", "emulate"]) -> None:
        endpoint = self.hypervisor().endpoint(accel=accel, unsafe_disk_cache=True)
        block = self.link.read()
        libvirt = endpoint.model_dump(mode="json") | {"reserved_cidrs": [str(block.network) if block else SERVICE_CIDR]}
        endpoints = {"libvirt": {"default": libvirt}, "memory": {"default": {"kind": "memory"}}}
        if self.has_kubevirt and block is not None:
            kubevirt = KubeVirtEndpoint(
                image_pull_policy="Never", kernel_args=KERNEL_COMMAND_LINE, reserved_cidrs=(block.network,)
            )
            endpoints["kubevirt"] = {"default": kubevirt.model_dump(mode="json")}
        settings = {"endpoints": endpoints, "lease_namespace": LEASE_NAMESPACE}
        if self.nests and block is not None:
            host = str(block.host)
            settings["nesting"] = NestingSettings(server=self.parent().server).model_dump(mode="json")
            settings["gate"] = GateSettings(host=host, bind=host).model_dump(mode="json")
        write_private(self.state.settings, yaml.safe_dump(settings).encode())

    def _write_commands(self, kubectl: Path) -> None:
        """`capn` and `kubectl` of this environment, to be put on PATH by a person."""
        self.state.commands.mkdir(parents=True, exist_ok=True)
        link = self.state.commands / "kubectl"
        link.unlink(missing_ok=True)
        link.symlink_to(kubectl)
        script = self.state.commands / "capn"
        path = shlex.quote(_own_code({})["PYTHONPATH"])
        script.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {shlex.quote(sys.executable)} -m capn "$@"\n')
        script.chmod(0o755)

    def remove_files(self) -> None:
        """Delete the state directory; everything must have been stopped."""
        shutil.rmtree(self.state.directory, ignore_errors=True)


def _own_code(env: dict[str, str]) -> dict[str, str]:
    """`env` with this very package first on the module path: the working directory is another one."""
    rest = os.environ.get("PYTHONPATH")
    return {**env, "PYTHONPATH": os.pathsep.join([str(_PACKAGE.parent), *([rest] if rest else [])])}
