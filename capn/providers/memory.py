"""The memory provider: simulated machines and child APIs behind the same Protocol as real ones.

Role: scale and fault tests, and demonstrations without a hypervisor; it passes the contract suite that libvirt
passes. A test hands in clock, sleep and world, and turns the knobs (`fail_bootstrap`, `crash`, `remove`, `set_down`).
Must not: do what a hypervisor could not, such as reading Kubernetes objects of the parent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Network

from cryptography import x509

from capn import names
from capn.build.claim_report import ClaimReport
from capn.build.kubeadm import API_PORT
from capn.build.kubeconfig import parse_kubeconfig
from capn.build.report import encode_report
from capn.errors import NotFoundError, TransientError, UnreachableError
from capn.kube.client import KubeClient
from capn.providers import memory_boot
from capn.providers.base import (
    ClusterRef,
    ClusterRequest,
    MachineRef,
    MachineRequest,
    MachineState,
    ObservedCluster,
    ObservedMachine,
)
from capn.providers.checks import (
    build_image_not_found,
    build_machine_vanished,
    check_cidrs,
    check_memory,
    image_name,
)
from capn.providers.memory_world import ChildClient, MemoryWorld, SimulatedCluster, SimulatedMachine
from capn.settings import MemoryEndpoint


def utc_now() -> datetime:
    """The time of the simulated hosts."""
    return datetime.now(UTC)


class MemoryProvider:
    """Machines of one simulated host. Give `world` to let machines outlive this object, or to have hosts share it."""

    kind = "memory"
    keeps_addresses = False

    def __init__(
        self,
        endpoint: MemoryEndpoint | None = None,
        *,
        world: MemoryWorld | None = None,
        host: str = "",
        now: Callable[[], datetime] = utc_now,
        sleep: memory_boot.Sleep = asyncio.sleep,
    ) -> None:
        self._endpoint = endpoint or MemoryEndpoint()
        self._host = host
        self._sleep = sleep
        self.world = world or MemoryWorld(now)
        self._listeners: set[asyncio.Queue[MachineRef]] = set()

    async def observe_cluster(self, ref: ClusterRef) -> ObservedCluster | None:
        """What exists for the cluster, or None."""
        await self._call()
        cluster = self.world.clusters.get(ref.uid)
        return None if cluster is None or self._host not in cluster.hosts else self._observe(cluster)

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        """The cluster's network; InvalidSpecError (CIDRCollision) when the child's addresses overlap it."""
        await self._call()
        check_cidrs(
            request, [("a network that the administrator reserved", net) for net in self._endpoint.reserved_cidrs]
        )
        known = self.world.clusters.get(request.ref.uid)
        cluster = known or self.world.add_cluster(request.ref)
        try:
            check_cidrs(request, [("the cluster's machine network", cluster.subnet)])
        except Exception:
            if known is None:
                del self.world.clusters[request.ref.uid]
            raise
        cluster.hosts.add(self._host)
        return self._observe(cluster)

    async def tell_cluster(self, ref: ClusterRef, report: ClaimReport, *, paused: bool) -> None:
        """Nobody else makes the machines."""

    async def delete_cluster(self, ref: ClusterRef) -> bool:
        """Remove the network from this host, and whatever machine is still there."""
        await self._call()
        for machine in self.world.machines_of(ref.uid):
            if machine.host == self._host:
                self._discard(machine)
        cluster = self.world.clusters.get(ref.uid)
        if cluster is not None:
            cluster.hosts.discard(self._host)
            if not cluster.hosts:
                del self.world.clusters[ref.uid]
        return True

    async def ensure_address(self, ref: MachineRef) -> str | None:  # noqa: ARG002 - the Protocol's
        """None: the machine's card has the address that leads to it."""
        return None

    async def observe_machine(self, ref: MachineRef) -> ObservedMachine | None:
        """The VM, or None."""
        await self._call()
        machine = self._find(ref)
        return None if machine is None else _observe_machine(machine)

    async def plan_machine(self, request: MachineRequest) -> None:
        """Refuse a version without image, or more memory than is left."""
        await self._call()
        if self._endpoint.versions and image_name(request) not in self._endpoint.versions:
            raise build_image_not_found(image_name(request))
        if self._find(request.ref) is None:
            used = sum(machine.request.memory_mib for machine in self._machines())
            check_memory(request, self._endpoint.memory_mib - used)

    async def ensure_machine(self, request: MachineRequest) -> ObservedMachine:
        """Make the machine if it is missing and start it if it is off."""
        await self._call()
        machine = self._find(request.ref)
        if machine is None:
            machine = self._make(request)
        elif machine.state in (MachineState.STOPPED, MachineState.CRASHED):
            machine.state = MachineState.RUNNING
            machine.wake()
            if machine.seed is not None:
                self._start(machine)
        return _observe_machine(machine)

    async def release_bootstrap_data(self, ref: MachineRef) -> None:
        """Forget the seed."""
        await self._call()
        machine = self._find(ref)
        if machine is not None:
            machine.seed = None

    async def stop_machine(self, ref: MachineRef, *, force: bool) -> bool:
        """Shut the guest down, unless it is deaf and not forced; that it is off is announced, as by a real one."""
        await self._call()
        machine = self._find(ref)
        if machine is None or machine.state in (MachineState.STOPPED, MachineState.CRASHED):
            return True
        if force or ref.name not in self.world.deaf:
            self.crash(ref, MachineState.STOPPED)
        return force

    async def delete_machine(self, ref: MachineRef) -> bool:
        """Remove the VM; gone already is fine."""
        await self._call()
        machine = self._find(ref)
        if machine is not None:
            self._discard(machine)
        return True

    async def console(self, ref: MachineRef) -> AsyncIterator[bytes]:
        """What the guest says now, then whatever it says next; ends with the VM."""
        await self._call()
        machine = self._find(ref)
        if machine is None:
            raise NotFoundError(f"{ref.name} has no VM")
        said = None
        while machine.state is MachineState.RUNNING and not self._is_down():
            changed = machine.changed
            if machine.report is not None and machine.report is not said:
                said = machine.report
                yield encode_report(said)
                continue
            await changed.wait()

    async def changes(self) -> AsyncIterator[MachineRef]:
        """Machines that crash, are removed behind our back, or come back with the hypervisor."""
        queue: asyncio.Queue[MachineRef] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:
        """A client for the child's simulated API; the kubeconfig is checked as for a real one."""
        await self._call()
        credentials = parse_kubeconfig(kubeconfig)
        cluster = self.world.clusters.get(ref.uid)
        if cluster is None:
            raise UnreachableError("the cluster has no infrastructure")
        certificate = x509.load_pem_x509_certificate(credentials.cert_pem)

        def refuses() -> str | None:
            valid = certificate.not_valid_before_utc <= self.world.now() <= certificate.not_valid_after_utc
            return None if valid else "the client certificate is not valid at the child's time"

        lives, receiver = partial(self.world.child_lives, ref.uid), partial(self.world.find_receiver, ref.uid)
        return ChildClient(cluster.api, lives, refuses, receiver)

    async def close(self) -> None:
        """End the guests' tasks and listeners; the world keeps the machines."""
        for machine in self._machines():
            memory_boot.stop(machine)
        self._listeners.clear()

    # Knobs for tests: what a hypervisor's user or its hardware would do.

    def fail_bootstrap(self, machine_name: str, tail: str, *, stage: str = "kubeadm/preflight") -> None:
        """Let the bootstrap of machines of this name fail with that end of a log."""
        self.world.failures[machine_name] = (stage, tail)

    def withhold_node(self, machine_name: str) -> None:
        """Let machines of this name say that they are done, and register no node."""
        self.world.silent_nodes.add(machine_name)

    def crash(self, ref: MachineRef, state: MachineState = MachineState.CRASHED) -> None:
        """Crash or stop the VM."""
        machine = self.world.machines[ref.uid]
        memory_boot.stop(machine)
        machine.state = state
        machine.report = None
        machine.wake()
        self._break_watches(ref.cluster)
        self._announce(ref)

    def start_by_hand(self, ref: MachineRef) -> None:
        """Start the VM behind capn's back."""
        self.world.machines[ref.uid].state = MachineState.RUNNING
        self._announce(ref)

    def remove(self, ref: MachineRef) -> None:
        """Remove the VM behind capn's back."""
        self._discard(self.world.machines[ref.uid])
        self._break_watches(ref.cluster)
        self._announce(ref)

    def set_down(self, down: bool) -> None:  # noqa: FBT001 - a switch
        """Take the hypervisor off the network, or bring it back."""
        (self.world.down.add if down else self.world.down.discard)(self._host)
        for machine in self._machines():
            machine.wake()
            if not down:
                self._announce(machine.ref)

    async def _call(self) -> None:
        """Let others run, as a real call does; UnreachableError while the hypervisor is down."""
        await asyncio.sleep(0)
        if self._is_down():
            raise UnreachableError("the hypervisor does not answer", reason="HypervisorUnreachable")

    def _is_down(self) -> bool:
        return self._host in self.world.down

    def _machines(self) -> list[SimulatedMachine]:
        """Those of this host."""
        return [machine for machine in self.world.machines.values() if machine.host == self._host]

    def _find(self, ref: MachineRef) -> SimulatedMachine | None:
        machine = self.world.machines.get(ref.uid)
        return machine if machine is not None and machine.host == self._host else None

    def _observe(self, cluster: SimulatedCluster) -> ObservedCluster:
        return ObservedCluster(
            endpoint_host=cluster.endpoint,
            endpoint_port=API_PORT,
            machine_cidr=str(IPv4Network(cluster.subnet)),
            virtual=self.world.virtual_endpoints,
        )

    def _make(self, request: MachineRequest) -> SimulatedMachine:
        cluster = self.world.clusters.get(request.ref.cluster.uid)
        if cluster is None or self._host not in cluster.hosts:
            raise TransientError("the cluster's network is not there yet", reason="WaitingForNetwork")
        if request.bootstrap_data is None:
            raise build_machine_vanished()
        is_endpoint = request.role == names.ROLE_CONTROL_PLANE and request.ordinal == 0
        machine = SimulatedMachine(
            request=request,
            address=self.world.choose_address(cluster, is_endpoint=is_endpoint),
            host=self._host,
            seed=request.bootstrap_data,
        )
        self.world.machines[request.ref.uid] = machine
        self._start(machine)
        return machine

    def _start(self, machine: SimulatedMachine) -> None:
        memory_boot.start(self.world, machine, boot_s=self._endpoint.boot_s, sleep=self._sleep)

    def _discard(self, machine: SimulatedMachine) -> None:
        memory_boot.stop(machine)
        machine.state = MachineState.STOPPED
        machine.wake()
        self.world.machines.pop(machine.ref.uid, None)

    def _break_watches(self, ref: ClusterRef) -> None:
        cluster = self.world.clusters.get(ref.uid)
        if cluster is not None and not self.world.child_lives(ref.uid):
            cluster.api.drop_watches()

    def _announce(self, ref: MachineRef) -> None:
        for queue in self._listeners:
            queue.put_nowait(ref)


def _observe_machine(machine: SimulatedMachine) -> ObservedMachine:
    ref = machine.ref
    provider_id = names.build_provider_id(
        "memory",
        namespace=ref.cluster.namespace,
        cluster=ref.cluster.name,
        machine=ref.name,
        machine_uid=ref.uid,
    )
    return ObservedMachine(
        provider_id=provider_id,
        state=machine.state,
        addresses=(machine.address,),
        seed_attached=machine.seed is not None,
    )
