"""What one reconcile of a NestedMachine knows.

Role: the hand-over between phases and to the status. Must not: do I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.conditions import ClusterCondition, MachineCondition, find, is_true
from capn.api.machine import NestedMachine
from capn.api.restore import RestoreStatus
from capn.build.machines import compute_provider_id
from capn.build.report import Report
from capn.build.restore_plan import is_of
from capn.controllers.child_pool import Child
from capn.controllers.deps import INDEX_CLUSTER, Deps
from capn.providers.base import ClusterRef, MachineRef, ObservedMachine, Provider


@dataclass
class MachineScope:
    """`cluster` is None when its NestedCluster is not (or no longer) there."""

    deps: Deps
    machine: NestedMachine
    cluster: NestedCluster | None
    observed: ObservedMachine | None = None
    fresh_vm: bool = False  # made in this reconcile, so that nothing heard before is about it
    bootstrap_data: bytes | None = field(default=None, repr=False)
    report: Report | None = None
    child: Child | None = None
    node: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The machine's name, which is its node's too."""
        return self.machine.metadata.name

    @property
    def internal_addresses(self) -> list[str]:
        """The machine's own addresses, as its status has them."""
        return [entry.address for entry in self.machine.status.addresses if entry.type == "InternalIP"]

    @property
    def ref(self) -> MachineRef:
        """The machine as providers address it; the cluster's UID is the owner's, so that it outlives the cluster."""
        meta, spec = self.machine.metadata, self.machine.spec
        uid = meta.controller_uid or (self.cluster.metadata.uid if self.cluster is not None else "")
        return MachineRef(
            cluster=ClusterRef(namespace=meta.namespace, name=spec.cluster_name, uid=uid),
            name=meta.name,
            uid=meta.uid,
            failure_domain=spec.failure_domain or "",
        )

    @property
    def provider(self) -> Provider:
        """The provider that the spec names. InvalidSpecError when the administrator defined no such endpoint."""
        return self.deps.providers.get(self.machine.spec.infrastructure)

    @property
    def provider_id(self) -> str:
        """The ID that the node is registered with."""
        return compute_provider_id(self.machine)

    @property
    def claimed(self) -> bool:
        """Whether a child claims this machine, and manages the node that it becomes."""
        return self.cluster is not None and self.cluster.spec.claim is not None

    @property
    def bootstrapped(self) -> bool:
        """Whether the last written status says that the machine has joined."""
        return self.was_true(MachineCondition.BOOTSTRAP_SUCCEEDED)

    @property
    def power_off(self) -> str | None:
        """What whoever makes the machine says of its power: off (asked or forced), or None: it shall run."""
        return self.machine.metadata.annotations.get(names.ANNOTATION_POWER_OFF)

    @property
    def was_switched_off(self) -> bool:
        """Whether the last written status says that the VM was switched off, or was to be."""
        return find(self.machine.status.conditions, MachineCondition.POWERED_OFF) is not None

    def was_true(self, condition: MachineCondition) -> bool:
        """Whether the last written status has the condition as True."""
        return is_true(self.machine.status.conditions, condition)

    @property
    def initializes(self) -> bool:
        """Whether this machine runs kubeadm init; all others join, a successor of the first beside others too."""
        first = self.is_control_plane and self.machine.spec.ordinal == 0
        return first and (not self.cluster_initialized or self.stands_alone)

    @property
    def restoring(self) -> bool:
        """Whether the cluster is being restored, so that there is no child to be asked."""
        restore = self._restore
        return restore is not None and restore.active

    @property
    def superseded(self) -> bool:
        """Whether this is a control plane of before the restore that goes on: it must not begin anything."""
        restore = self._restore
        return self.is_control_plane and restore is not None and restore.active and not is_of(self.machine, restore)

    @property
    def _restore(self) -> RestoreStatus | None:
        """The cluster's last restore, or the one that goes on."""
        return None if self.cluster is None else self.cluster.status.restore

    @property
    def is_control_plane(self) -> bool:
        """Whether this machine has an API server and an etcd member."""
        return self.machine.spec.role == names.ROLE_CONTROL_PLANE

    @property
    def stands_alone(self) -> bool:
        """Whether this is a control plane and the cluster has no other: without it there is no child to be asked."""
        meta = self.machine.metadata
        others = self.deps.machines.by_index(INDEX_CLUSTER, f"{meta.namespace}/{self.machine.spec.cluster_name}")
        return self.is_control_plane and not any(
            other["metadata"]["uid"] != meta.uid and (other.get("spec") or {}).get("role") == names.ROLE_CONTROL_PLANE
            for other in others
        )

    @property
    def cluster_initialized(self) -> bool:
        """Whether the child's control plane is there to be joined and asked."""
        return self.cluster is not None and is_true(
            self.cluster.status.conditions, ClusterCondition.CONTROL_PLANE_INITIALIZED
        )

    def deadline(self) -> datetime | None:
        """When a bootstrap that has not ended counts as failed; None while there is no VM that could end it."""
        running = find(self.machine.status.conditions, MachineCondition.INFRASTRUCTURE_READY)
        if running is None or running.status != "True":
            return None
        start = datetime.fromisoformat(running.last_transition_time)
        restore = self._restore
        if restore is not None and is_of(self.machine, restore):
            if restore.uploaded_at is None:
                return None  # it waits for us
            start = max(start, datetime.fromisoformat(restore.uploaded_at))
        return start + timedelta(seconds=self.deps.bootstrap_timeout_s)
