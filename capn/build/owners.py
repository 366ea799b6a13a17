"""Owner references and labels that every object of a cluster carries.

Role: pure. Must not: be used for objects in a child cluster, whose API knows nothing of the parent's UIDs.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine


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
