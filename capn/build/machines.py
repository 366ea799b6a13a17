"""NestedMachine manifests that a cluster asks for.

Role: pure. Inputs: the cluster; outputs: manifests for server-side apply, holding only the fields that the cluster's
controller owns. Must not: copy the user's labels or annotations (Argo CD would prune what they mark).
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.cluster import NestedCluster, WorkerPool
from capn.api.machine import NestedMachine
from capn.build.owners import build_owner_reference
from capn.build.pool_size import compute_pool_size


def desired_machines(cluster: NestedCluster) -> list[dict[str, Any]]:
    """All machines of the cluster: control plane first, then each pool, in order of their numbers."""
    machines = [
        build_machine(cluster, role=names.ROLE_CONTROL_PLANE, ordinal=ordinal, pool=None)
        for ordinal in range(cluster.spec.control_plane.replicas)
    ]
    machines.extend(
        build_machine(cluster, role=names.ROLE_WORKER, ordinal=ordinal, pool=pool)
        for pool in cluster.spec.workers
        for ordinal in range(compute_pool_size(cluster, pool))
    )
    return machines


def build_machine(  # noqa: PLR0913 - which machine, and what is not in the spec
    cluster: NestedCluster,
    *,
    role: str,
    ordinal: int,
    pool: WorkerPool | None,
    version: str | None = None,
    restore: str | None = None,
) -> dict[str, Any]:
    """One NestedMachine (by default of the spec's version), with the finalizer on it before the first side effect.

    `restore`: the restore (`status.restore.startedAt`) that it is made for.
    """
    spec = cluster.spec
    owner = cluster.metadata.name
    size = (pool.machine if pool else spec.control_plane.machine) or spec.machine
    fields: dict[str, Any] = {
        "clusterName": owner,
        "role": role,
        "ordinal": ordinal,
        "version": version or spec.version,
        "machine": size.to_json(),
        "infrastructure": spec.infrastructure.to_json(),
    }
    if restore:
        fields["bootstrap"] = {"restore": restore}
    if pool is None:
        fields["kubeadm"] = spec.control_plane.arguments.to_json()
    else:
        fields["pool"] = pool.name
        if pool.labels:
            fields["labels"] = dict(pool.labels)
        if pool.taints:
            fields["taints"] = [taint.to_json() for taint in pool.taints]
    labels = {names.LABEL_CLUSTER: owner, names.LABEL_ROLE: role} | ({names.LABEL_POOL: pool.name} if pool else {})
    name = names.worker_machine(owner, pool.name, ordinal) if pool else names.control_plane_machine(owner, ordinal)
    return {
        "apiVersion": names.API_VERSION,
        "kind": "NestedMachine",
        "metadata": {
            "name": name,
            "namespace": cluster.metadata.namespace,
            "labels": labels,
            "finalizers": [names.FINALIZER],
            "ownerReferences": [build_owner_reference(cluster)],
        },
        "spec": fields,
    }


def compute_provider_id(machine: NestedMachine) -> str:
    """The ID that the machine's node is registered with."""
    return names.build_provider_id(
        machine.spec.infrastructure.kind.value,
        namespace=machine.metadata.namespace,
        cluster=machine.spec.cluster_name,
        machine=machine.metadata.name,
        machine_uid=machine.metadata.uid,
    )
