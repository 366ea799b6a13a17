"""Stamps: whose an object is that capn makes in a cluster other than the one that its owner is in.

Role: pure. Owner references do not reach across clusters or namespaces, so labels find such objects and annotations,
with UIDs, say whose they are. Must not: be parsed from a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capn import names

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "capn"
# Of a machine's objects and launcher pods; the value is the VM's UUID.
LABEL_VM = f"{names.GROUP}/vm"
# Of everything of one cluster; the value is a UUID made from the cluster's UID.
LABEL_CLUSTER_ID = f"{names.GROUP}/cluster-id"
ANNOTATION_NAMESPACE = f"{names.GROUP}/owner-namespace"
# The label of that name may be another's: a claim has the one of its own cluster in the parent.
ANNOTATION_CLUSTER = f"{names.GROUP}/owner-cluster"
ANNOTATION_MACHINE = f"{names.GROUP}/owner-machine"
ANNOTATION_CLUSTER_UID = f"{names.GROUP}/owner-cluster-uid"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Whose an object is. `machine` and `machine_uid` are empty for what belongs to a whole cluster."""

    namespace: str
    cluster: str
    cluster_uid: str
    machine: str = ""
    machine_uid: str = ""

    @property
    def owner_uid(self) -> str:
        """The UID that decides whose the object is."""
        return self.machine_uid or self.cluster_uid


def build_labels(stamp: Stamp) -> dict[str, str]:
    """Labels that find an object: by cluster, and by machine if it is a machine's."""
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_CLUSTER_ID: names.build_network_uuid(stamp.cluster_uid),
        names.LABEL_CLUSTER: stamp.cluster,
    }
    return labels | ({LABEL_VM: names.build_domain_uuid(stamp.machine_uid)} if stamp.machine_uid else {})


def build_metadata(namespace: str, name: str, stamp: Stamp, **labels: str) -> dict[str, Any]:
    """Metadata with the owner's stamp."""
    annotations = {
        names.ANNOTATION_OWNER_UID: stamp.owner_uid,
        ANNOTATION_CLUSTER_UID: stamp.cluster_uid,
        ANNOTATION_CLUSTER: stamp.cluster,
        ANNOTATION_NAMESPACE: stamp.namespace,
        **({ANNOTATION_MACHINE: stamp.machine} if stamp.machine else {}),
    }
    return {
        "name": name,
        "namespace": namespace,
        "labels": build_labels(stamp) | labels,
        "annotations": annotations,
    }


def read_stamp(obj: Mapping[str, Any]) -> Stamp | None:
    """The stamp of an object as a server returned it; None when it has none of ours."""
    meta = obj.get("metadata") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    owner = annotations.get(names.ANNOTATION_OWNER_UID)
    cluster_uid = annotations.get(ANNOTATION_CLUSTER_UID)
    if not owner or not cluster_uid:
        return None
    machine = annotations.get(ANNOTATION_MACHINE, "")
    return Stamp(
        namespace=annotations.get(ANNOTATION_NAMESPACE, ""),
        cluster=annotations.get(ANNOTATION_CLUSTER) or labels.get(names.LABEL_CLUSTER, ""),
        cluster_uid=cluster_uid,
        machine=machine,
        machine_uid=owner if machine else "",
    )
