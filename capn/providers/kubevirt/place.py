"""Where a cluster's objects go: namespace and names, and whose an object that is there already is.

Role: pure. Inputs: references and the endpoint's namespace setting. Outputs: names that fit Kubernetes' limits. Must
not: do I/O, or read anything from a name (stamps say whose an object is).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.build.kubevirt_objects import Stamp, read_stamp
from capn.errors import OwnershipError
from capn.providers.base import ClusterRef, MachineRef

_LIMIT = 63
_SHORT = 6


@dataclass(frozen=True, slots=True)
class Place:
    """`namespace` None: each object goes where its NestedCluster is; else all of them go into that one."""

    namespace: str | None

    def of(self, ref: ClusterRef) -> str:
        """The namespace of a cluster's objects."""
        return self.namespace or ref.namespace

    def machine(self, ref: MachineRef) -> str:
        """Name of a machine's VM: the machine's own, with a mark where namespaces share one."""
        return self._name(ref.name, ref.uid)

    def seed(self, ref: MachineRef) -> str:
        """Name of the Secret with a machine's bootstrap data for its seed disk."""
        return f"{self.machine(ref)}-seed"

    def volume(self, ref: MachineRef) -> str:
        """Name of a machine's volume: always with a mark, so a successor never finds its predecessor's disk."""
        return f"{_mark(ref.name, ref.uid, limit=_LIMIT - len('-root'))}-root"

    def node_service(self, ref: MachineRef) -> str:
        """Name of the Service whose address is the machine's node address (a letter first: RFC 1035)."""
        return self._name(f"node-{ref.name}", ref.uid)

    def api_service(self, ref: ClusterRef) -> str:
        """Name of the Service in front of the cluster's API servers."""
        return self._name(f"api-{ref.name}", ref.uid)

    def _name(self, name: str, uid: str) -> str:
        if self.namespace is None and len(name) <= _LIMIT:
            return name
        return _mark(name, uid, limit=_LIMIT)


def _mark(name: str, uid: str, *, limit: int) -> str:
    mark = names.build_short_id(uid)[:_SHORT]
    return f"{name[: limit - len(mark) - 1].rstrip('-')}-{mark}"


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
