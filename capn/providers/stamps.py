"""Stamps of providers' references: whose an object that is there already is.

Role: between `capn.build.stamps` and references. Must not: do I/O, or read anything from a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capn.build.stamps import Stamp, read_stamp
from capn.errors import OwnershipError
from capn.providers.base import ClusterRef, MachineRef


def build_stamp(ref: MachineRef) -> Stamp:
    """The stamp of what belongs to a machine."""
    cluster = build_cluster_stamp(ref.cluster)
    return Stamp(
        namespace=cluster.namespace,
        cluster=cluster.cluster,
        cluster_uid=cluster.cluster_uid,
        machine=ref.name,
        machine_uid=ref.uid,
    )


def build_cluster_stamp(ref: ClusterRef) -> Stamp:
    """The stamp of what belongs to a cluster."""
    return Stamp(namespace=ref.namespace, cluster=ref.name, cluster_uid=ref.uid)


def read_machine_ref(obj: Mapping[str, Any]) -> MachineRef | None:
    """The machine whose object this is; None when it is no machine's."""
    stamp = read_stamp(obj)
    if stamp is None or not stamp.machine:
        return None
    cluster = ClusterRef(namespace=stamp.namespace, name=stamp.cluster, uid=stamp.cluster_uid)
    return MachineRef(cluster=cluster, name=stamp.machine, uid=stamp.machine_uid)


def read_cluster_ref(obj: Mapping[str, Any]) -> ClusterRef | None:
    """The cluster whose object this is; None when it is nobody's, or a machine's."""
    stamp = read_stamp(obj)
    if stamp is None or stamp.machine:
        return None
    return ClusterRef(namespace=stamp.namespace, name=stamp.cluster, uid=stamp.cluster_uid)


def is_owned(obj: Mapping[str, Any], uid: str) -> bool:
    """Whether the object carries our stamp with this UID."""
    stamp = read_stamp(obj)
    return stamp is not None and stamp.owner_uid == uid


def refuse_foreign(obj: Mapping[str, Any], uid: str, *, kind: str) -> None:
    """OwnershipError when an object that has our name is not ours; it is never changed or deleted."""
    if not is_owned(obj, uid):
        meta = obj["metadata"]
        raise OwnershipError(
            f"{kind} {meta['namespace']}/{meta['name']} exists and does not carry this object's UID; capn leaves it"
            " alone: rename or remove it"
        )
