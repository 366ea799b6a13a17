"""The simulated hypervisor behind the memory provider: what would exist in a real one.

Role: plain state, so that it can outlive a provider (a controller that restarts finds its machines). Must not: act.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path

from capn import names
from capn.api.resources import ENDPOINT_SLICE, Resource
from capn.build.report import Report, ReportState
from capn.errors import ApiStatusError, TerminalError, UnreachableError
from capn.kube.client import ExecResult
from capn.kube.exec import ExecCall
from capn.kube.memory import MemoryKubeClient
from capn.kube.memory_store import State
from capn.providers.base import ClusterRef, MachineRef, MachineRequest, MachineState
from capn.providers.memory_etcd import SimulatedEtcd

# 10.100.0.0/24 to 10.199.255.0/24: apart from the usual networks of pods and Services.
_FIRST_NETWORK = 100
_NETWORKS_PER_BYTE = 256
_NETWORKS = 100 * _NETWORKS_PER_BYTE
_ENDPOINT_OFFSET = 10


class ChildClient(MemoryKubeClient):
    """A child's API as a client sees it: silent while its etcd has no quorum; `refuses` says why it is not let in."""

    def __init__(
        self,
        api: MemoryKubeClient,
        alive: Callable[[], bool],
        refuses: Callable[[], str | None] = lambda: None,
        receiver: Callable[[], SimulatedMachine | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._receiver = receiver
        self.store, self.raw, self.exec_handler = api.store, api.raw, api.exec_handler
        self._alive = alive
        self._refuses = refuses
        self._closed = False

    async def close(self) -> None:
        """From here on this client is of no use, as a real one is not."""
        self._closed = True

    async def get_raw(self, path: str) -> tuple[int, str]:
        """GET of a path; UnreachableError while the child is down. A machine that waits for a snapshot says so."""
        if not self._alive() and self._receiver() is not None:
            self._check_certificate()
            return 200, '{"capn": "restore", "state": "waiting", "received": 0}'
        self._check()
        return await super().get_raw(path)

    async def upload(self, path: str, source: Path, *, sha256: str, timeout_s: float) -> tuple[int, str]:
        """PUT of a snapshot to the machine that waits for it, which checks the digest."""
        machine = None if self._alive() else self._receiver()
        if machine is None:
            self._check()
            return await super().upload(path, source, sha256=sha256, timeout_s=timeout_s)
        self._check_certificate()
        data = await asyncio.to_thread(source.read_bytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            return 422, "these bytes have another SHA-256"
        machine.snapshot = data
        machine.wake()
        return 201, "{}"

    async def _count(self, verb: str, resource: Resource, subresource: str | None = None) -> None:
        self._check()
        await super()._count(verb, resource, subresource)

    def _check(self) -> None:
        if not self._alive():
            raise UnreachableError("the child's API server does not answer: its control plane does not run")
        self._check_certificate()

    def _check_certificate(self) -> None:
        if self._closed:
            raise UnreachableError("the connection was closed")
        if (why := self._refuses()) is not None:
            raise ApiStatusError(401, why, reason="Unauthorized")


@dataclass(eq=False)
class SimulatedMachine:
    """One VM. `report` is what its guest repeats on the console; `changed` wakes console readers."""

    request: MachineRequest
    address: str
    host: str = ""
    state: MachineState = MachineState.RUNNING
    seed: bytes | None = field(repr=False, default=None)
    report: Report | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    guest: asyncio.Task[None] | None = None
    receives: bool = False  # it waits for a snapshot, and for nothing else
    snapshot: bytes | None = field(repr=False, default=None)
    restored: bool = False

    @property
    def ref(self) -> MachineRef:
        """Which machine."""
        return self.request.ref

    def say(self, stage: str, state: ReportState = ReportState.RUNNING, tail: str = "") -> None:
        """Say something new on the console."""
        seq = self.report.seq + 1 if self.report else 1
        self.report = Report(stage=stage, state=state, seq=seq, tail=tail)
        self.wake()

    def wake(self) -> None:
        """Wake everybody who waits for this machine to change."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(eq=False)
class SimulatedCluster:
    """One cluster's network, which reaches over hosts, and its child API. `hosts`: those that it was made on."""

    ref: ClusterRef
    subnet: IPv4Network
    api: MemoryKubeClient
    etcd: SimulatedEtcd
    hosts: set[str] = field(default_factory=set)
    next_offset: int = _ENDPOINT_OFFSET + 1
    initialized: bool = False

    @property
    def endpoint(self) -> str:
        """Address of the first control plane."""
        return str(self.subnet[_ENDPOINT_OFFSET])

    async def exec(self, call: ExecCall) -> ExecResult:
        """Run a command in a pod of etcd, by which a machine may be told to leave."""
        result = await self.etcd.exec(call)
        if self.etcd.left:
            await self.publish_servers()
        return result

    async def publish_servers(self) -> None:
        """Say which control planes serve the API, as API servers themselves do."""
        voters = [member.machine for member in self.etcd.members if not member.is_learner]
        addresses = [machine.address for machine in voters if machine not in self.etcd.left]
        meta = {"name": "kubernetes", "namespace": "default"}
        endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
        found = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints}
        await self.api.as_manager("kube-apiserver").apply(ENDPOINT_SLICE, found)


class MemoryWorld:
    """Everything that the simulated hypervisors hold, by UID. A host is known by its name; one alone has none."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.clusters: dict[str, SimulatedCluster] = {}
        self.machines: dict[str, SimulatedMachine] = {}
        self.failures: dict[str, tuple[str, str]] = {}
        # Names of machines whose guest does not shut down when it is asked to.
        self.deaf: set[str] = set()
        self.silent_nodes: set[str] = set()
        self.unready_pods: set[str] = set()  # static pods that start and do not answer their probe
        # What the snapshots that were ever taken stand for.
        self.states: dict[str, State] = {}
        # Names of hosts that do not answer; what runs there is out of everybody's reach too.
        self.down: set[str] = set()
        # Whether control planes hold the endpoint among themselves, as on libvirt; else nothing is said of it.
        self.virtual_endpoints = False

    def add_cluster(self, ref: ClusterRef) -> SimulatedCluster:
        """A network and an empty child for the cluster."""
        api = MemoryKubeClient(clock=self.now, uid_seed=ref.uid)
        etcd = SimulatedEtcd(self._runs, lambda: api.store.revision, content=lambda: self._keep_state(api))
        cluster = SimulatedCluster(ref=ref, subnet=self._choose_subnet(ref.uid), api=api, etcd=etcd)
        api.exec_handler = cluster.exec
        self.clusters[ref.uid] = cluster
        return cluster

    def _keep_state(self, api: MemoryKubeClient) -> str:
        word = f"state {len(self.states)}"
        self.states[word] = api.store.copy_state()
        return word

    def find_receiver(self, cluster_uid: str) -> SimulatedMachine | None:
        """The machine that the cluster's endpoint leads to, if it waits for a snapshot there."""
        return next((m for m in self.machines_of(cluster_uid) if m.receives and self._runs(m)), None)

    def _choose_subnet(self, uid: str) -> IPv4Network:
        """The first free network from one that the UID picks: most often the same again in another process."""
        taken = {cluster.subnet for cluster in self.clusters.values()}
        start = int(names.build_short_id(uid), 16)
        for step in range(_NETWORKS):
            second, third = divmod((start + step) % _NETWORKS, _NETWORKS_PER_BYTE)
            subnet = IPv4Network(f"10.{_FIRST_NETWORK + second}.{third}.0/24")
            if subnet not in taken:
                return subnet
        raise TerminalError("the simulated hypervisor has no network left: delete clusters", reason="NetworksExhausted")

    def choose_address(self, cluster: SimulatedCluster, *, is_endpoint: bool) -> str:
        """The next machine's address; the endpoint's own for the first control plane."""
        if is_endpoint:
            return cluster.endpoint
        offset = cluster.next_offset
        cluster.next_offset += 1
        # Wide enough for any simulated pool: the /24 is only the cluster's first part.
        return str(cluster.subnet.network_address + offset)

    def machines_of(self, cluster_uid: str) -> list[SimulatedMachine]:
        """The cluster's machines."""
        return [machine for machine in self.machines.values() if machine.ref.cluster.uid == cluster_uid]

    def child_lives(self, cluster_uid: str) -> bool:
        """Whether the child was initialized and a quorum of its etcd's members runs."""
        cluster = self.clusters.get(cluster_uid)
        return cluster is not None and cluster.initialized and cluster.etcd.has_quorum

    def _runs(self, machine: SimulatedMachine) -> bool:
        """Whether this very machine exists, runs and can be reached; a later one of its UID has an empty disk."""
        runs = machine.state is MachineState.RUNNING and machine.host not in self.down
        return runs and self.machines.get(machine.ref.uid) is machine
