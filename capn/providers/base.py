"""The provider Protocol: what a hypervisor must do for capn.

Role: the seam between reconcilers and machines. `libvirt`, `kubevirt` and `memory` (later `parent`) implement it and
pass one contract suite (tests/contract). Every call is idempotent and may be repeated after any crash; observe writes
nothing; what is gone is `None`. Must not: touch objects of capn's own kinds, or keep state that a restart loses and
correctness needs.

Errors: `InvalidSpecError` / `TerminalError` (unknown image, no capacity, not ours), `UnreachableError` (hypervisor
down). Reasons used: ImageNotFound, InsufficientMemory, CIDRCollision, OwnedByAnother, HypervisorUnreachable,
DomainNotFound.
A hypervisor that is itself asynchronous (KubeVirt) answers `ensure_machine` with CREATING and tells by `changes` when
there is more to see, and `ensure_cluster` with PendingError; what keeps a VM from running is its `Problem`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from capn.build.claim_report import ClaimReport
from capn.kube.client import KubeClient


@dataclass(frozen=True, slots=True)
class ClusterRef:
    """Which cluster: enough to find and to delete what a provider made for it."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class ClusterRequest:
    """Desired infrastructure of a cluster. CIDRs are those of the child, so that the provider can refuse overlaps.

    `endpoint_host` is what an earlier call returned: certificates hold it, so an endpoint that has to be made again
    must be there again. `path` says whose the cluster is, namespace/name a level, when a child of ours asks for it.
    """

    ref: ClusterRef
    path: str
    version: str
    pod_cidr: str
    service_cidr: str
    endpoint_host: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a child's API server other than its endpoint: TLS to `host`:`port` with this server name."""

    host: str
    port: int
    server_name: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a VM from running, or a domain from being used: a CamelCase reason and a steady message with the fix.

    `passes` says that it may go away by itself (no room now), so that nobody has to call it failed.
    """

    reason: str
    message: str
    passes: bool = False


@dataclass(frozen=True, slots=True)
class FailureDomain:
    """A part of an endpoint that fails as a whole, such as one hypervisor. `problem`: why it takes no machine now."""

    name: str
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class ObservedCluster:
    """What the provider has for the cluster. `endpoint_host` is fixed before the first machine exists.

    `machine_cidr` is the network of the cluster's machines; None where they have none of their own. `route` is set
    where this controller cannot reach the endpoint itself. `virtual`: no machine's card has the endpoint's address and
    nothing leads to it; the control planes hold it among themselves. `failure_domains`: those of the endpoint, in the
    administrator's order; none where it is one whole.
    """

    endpoint_host: str
    endpoint_port: int
    machine_cidr: str | None
    message: str = ""
    route: Route | None = None
    virtual: bool = False
    failure_domains: tuple[FailureDomain, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineRef:
    """Which machine: enough to find, to watch and to delete its VM.

    `failure_domain`: where it is; empty for one of an endpoint that is one whole, or was when the machine was made.
    """

    cluster: ClusterRef
    name: str
    uid: str
    failure_domain: str = ""


@dataclass(frozen=True, slots=True)
class MachineRequest:
    """Desired machine.

    `bootstrap_data` is cloud-init user-data (secret; in memory and in the seed image only); None means that the machine
    is past its bootstrap and needs no seed.
    """

    ref: MachineRef
    role: str  # names.ROLE_CONTROL_PLANE | names.ROLE_WORKER
    ordinal: int  # control plane 0 has the cluster's endpoint address, unless that is virtual
    version: str  # v1.37.2
    image: str | None  # None: the provider's image for `version`
    cpus: int
    memory_mib: int
    disk_gib: int
    bootstrap_data: bytes | None = field(repr=False, default=None)


class MachineState(StrEnum):
    """The VM's own state, whatever the guest does."""

    CREATING = "Creating"
    RUNNING = "Running"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    CRASHED = "Crashed"


@dataclass(frozen=True, slots=True)
class ObservedMachine:
    """The VM as the hypervisor has it. `provider_id` is `capn-<kind>://<namespace>/<cluster>/<machine>/<vm uuid>`."""

    provider_id: str
    state: MachineState
    addresses: tuple[str, ...]
    seed_attached: bool
    problem: Problem | None = None


class Provider(Protocol):
    """One endpoint (one hypervisor connection) that the administrator named in the settings."""

    kind: str
    # Whether `ensure_address` makes an address for each machine; where not, it need not be asked.
    keeps_addresses: bool

    async def observe_cluster(self, ref: ClusterRef) -> ObservedCluster | None:
        """What exists for the cluster, or None."""
        ...

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        """Make the cluster's network (and the like) if it is missing; adopt it if it is ours."""
        ...

    async def tell_cluster(self, ref: ClusterRef, report: ClaimReport, *, paused: bool) -> None:
        """Pass on how the cluster is, and that it is paused, to whoever makes the machines; nothing if we do."""
        ...

    async def delete_cluster(self, ref: ClusterRef) -> bool:
        """Remove what is ours; True when nothing is left (False: call again)."""
        ...

    async def ensure_address(self, ref: MachineRef) -> str | None:
        """The address that leads to the machine's node, kept for it before there is a VM; None: its card has it."""
        ...

    async def observe_machine(self, ref: MachineRef) -> ObservedMachine | None:
        """The VM, or None. Never writes."""
        ...

    async def plan_machine(self, request: MachineRequest) -> None:
        """Raise what would make `ensure_machine` fail for good (image, memory, disk), writing nothing."""
        ...

    async def ensure_machine(self, request: MachineRequest) -> ObservedMachine:
        """Volume, seed, address and VM: make what is missing, start what is stopped, adopt what is ours."""
        ...

    async def release_bootstrap_data(self, ref: MachineRef) -> None:
        """Detach and delete the seed image. Called once the node has joined."""
        ...

    async def stop_machine(self, ref: MachineRef, *, force: bool) -> bool:
        """Ask the guest to shut down, or (`force`) cut its power; True when the VM is off, or there is none.

        The disk, the address and all else stay, and `ensure_machine` starts it again. Until it does nothing brings the
        VM back. `changes` tells when it is off. TerminalError (DiskNotPersistent) when the disk would not survive it.
        """
        ...

    async def delete_machine(self, ref: MachineRef) -> bool:
        """Stop and remove VM, volumes, seed and address entry; True when nothing is left."""
        ...

    def console(self, ref: MachineRef) -> AsyncIterator[bytes]:
        """The guest's serial console from now on, in chunks; ends when the VM stops or the stream breaks (reopen it).

        Raises NotFoundError when there is no VM. At most one reader a machine is needed.
        """
        ...

    def changes(self) -> AsyncIterator[MachineRef | ClusterRef]:
        """Machines whose VM changed state without our doing (stopped, crashed, undefined), as they happen.

        Clusters too, where their network is made by somebody else (`ensure_cluster` raised PendingError).
        """
        ...

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:
        """A client for the child's API with this (validated) kubeconfig, by the route that this provider has."""
        ...

    async def close(self) -> None:
        """End connections and threads; machines go on."""
        ...
