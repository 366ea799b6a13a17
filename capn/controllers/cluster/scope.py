"""What one reconcile of a NestedCluster knows: the objects it was given, and the facts that phases find.

Role: the hand-over between phases and to the status. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capn import names
from capn.api.addons import AddonStatus
from capn.api.cluster import BackupStatus, NestedCluster
from capn.api.conditions import ClusterCondition, is_true
from capn.api.machine import NestedMachine
from capn.api.pools import Remediation
from capn.api.restore import RestoreStatus
from capn.build.upgrade_stage import UpgradeState
from capn.controllers.child_pool import Child
from capn.controllers.credentials import Credentials
from capn.controllers.deps import Deps
from capn.errors import InvalidSpecError, TransientError
from capn.providers.base import ClusterRef, MachineRef, ObservedCluster, Provider, Route


@dataclass
class ClusterScope:
    """`cluster`, `machines` and the `claims` of clusters below are as the cache has them; phases fill in the others."""

    deps: Deps
    cluster: NestedCluster
    machines: Sequence[NestedMachine]
    claims: Sequence[dict[str, Any]] = ()
    infrastructure: ObservedCluster | None = None
    credentials: Credentials | None = field(default=None, repr=False)
    child: Child | None = None
    child_version: str | None = None
    restore: RestoreStatus | None = None
    # The child's ConfigMap `kubeadm-config`; where an upgrade is; what of CoreDNS has not changed to its version yet.
    kubeadm_config: Mapping[str, Any] | None = None
    upgrade: UpgradeState | None = None
    dns_waits: str | None = None
    backup: BackupStatus | None = None
    backup_due_s: float | None = None
    # Of unhealthy machines: what the status has to remember, and who is being replaced and needs no person.
    remediations: Sequence[Remediation] | None = None
    healing: frozenset[str] = frozenset()
    # Rows of status.addons; None when the phase did not run.
    addons: list[AddonStatus] | None = None
    # What a condition that is True has to say all the same: reason and message, by condition.
    notices: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def ref(self) -> ClusterRef:
        """The cluster as providers address it."""
        meta = self.cluster.metadata
        return ClusterRef(namespace=meta.namespace, name=meta.name, uid=meta.uid)

    @property
    def provider(self) -> Provider:
        """The provider that the spec names. InvalidSpecError when the administrator defined no such endpoint."""
        return self.deps.providers.get(self.cluster.spec.infrastructure)

    def machine_ref(self, machine: NestedMachine) -> MachineRef:
        """A machine of the cluster as providers address it."""
        domain = machine.spec.failure_domain or ""
        return MachineRef(self.ref, machine.metadata.name, machine.metadata.uid, domain)

    @property
    def route(self) -> Route | None:
        """The way to the child's API for those who cannot reach its endpoint: the provider's, or our own gate."""
        if self.infrastructure is None or self.infrastructure.route is not None:
            return None if self.infrastructure is None else self.infrastructure.route
        gate = self.deps.gate
        return None if gate is None else Route(gate.host, gate.port, names.build_gate_name(self.cluster.metadata.uid))

    @property
    def initialized(self) -> bool:
        """Whether the child's control plane is known to have been initialized, now or in an earlier reconcile."""
        if self.restoring is not None:
            return False
        return self.child_version is not None or self.was_true(ClusterCondition.CONTROL_PLANE_INITIALIZED)

    @property
    def restoring(self) -> RestoreStatus | None:
        """The restore that goes on."""
        found = self.restore or self.cluster.status.restore
        return found if found is not None and found.active else None

    def was_true(self, condition: ClusterCondition) -> bool:
        """Whether the last written status has the condition as True."""
        return is_true(self.cluster.status.conditions, condition)

    def control_planes(self) -> list[NestedMachine]:
        """Control-plane machines, by ordinal."""
        found = [machine for machine in self.machines if machine.spec.role == names.ROLE_CONTROL_PLANE]
        return sorted(found, key=lambda machine: machine.spec.ordinal)

    def workers(self) -> list[NestedMachine]:
        """Worker machines of all pools, by name."""
        found = [machine for machine in self.machines if machine.spec.role == names.ROLE_WORKER]
        return sorted(found, key=lambda machine: machine.metadata.name)

    def require_child(self) -> Child:
        """The child's API, which an earlier phase has opened. TransientError when it has not."""
        if self.child is None:
            raise TransientError("the child's API is not open yet")
        return self.child

    def require_infrastructure(self) -> ObservedCluster:
        """The infrastructure that an earlier phase has found."""
        if self.infrastructure is None:
            raise InvalidSpecError("status.endpoint", "the infrastructure phase has not run")
        return self.infrastructure
