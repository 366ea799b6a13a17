"""Owner references and labels that every object of a cluster carries, and how one is named in an event.

Role: pure. Must not: be used for objects in a child cluster, whose API knows nothing of the parent's UIDs.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.api.meta import ObjectMeta
from capn.api.resources import Resource


def build_owner_reference(owner: NestedCluster | NestedMachine) -> dict[str, Any]:
    """The controlling owner reference to a cluster or a machine."""
    kind = "NestedCluster" if isinstance(owner, NestedCluster) else "NestedMachine"
    return {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def build_cluster_labels(cluster: str) -> dict[str, str]:
    """Labels by which capn and Cluster API's tools find what belongs to a cluster."""
    return {names.LABEL_CLUSTER: cluster, names.LABEL_CAPI_CLUSTER: cluster}


def build_subject(resource: Resource, meta: ObjectMeta) -> dict[str, Any]:
    """An object by kind, name and UID: what an event is about, and the head of a status that is applied."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
    }
