"""Claims: what a child asks of its parent, as objects of capn's own kinds in a namespace of the parent.

Role: pure. A claimed cluster is a NestedCluster with `spec.claim`, a claimed machine a NestedMachine whose bootstrap
data is given; so a parent needs no third kind, and may be a child itself. Must not: hold a key or a kubeconfig of the
child but what the bootstrap data holds.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.build.stamps import Stamp, build_metadata

# A path has namespace and name of each level.
PARTS_A_LEVEL = 2


@dataclass(frozen=True, slots=True)
class ClaimedClusterInput:
    """A network and an endpoint to be claimed. `infrastructure` is kind and endpoint as the parent names them."""

    namespace: str
    name: str
    stamp: Stamp
    path: str
    version: str
    infrastructure: Mapping[str, str]
    pod_cidr: str
    service_cidr: str


@dataclass(frozen=True, slots=True)
class ClaimedMachineInput:
    """A machine to be claimed. `machine` is size and image, `secret` has the bootstrap data."""

    name: str
    stamp: Stamp
    role: str
    ordinal: int
    version: str
    machine: Mapping[str, Any]
    infrastructure: Mapping[str, str]
    secret: str
    failure_domain: str = ""  # as the parent names it


def build_claimed_cluster(claim: ClaimedClusterInput) -> dict[str, Any]:
    """The claim of a network and an endpoint."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "NestedCluster",
        "metadata": _relabel(build_metadata(claim.namespace, claim.name, claim.stamp), claim.name),
        "spec": {
            "version": claim.version,
            "claim": {"path": claim.path},
            "infrastructure": dict(claim.infrastructure),
            "network": {"podCIDR": claim.pod_cidr, "serviceCIDR": claim.service_cidr},
        },
    }


def build_claimed_machine(claim: ClaimedMachineInput, cluster: dict[str, Any]) -> dict[str, Any]:
    """The claim of a machine; `cluster` is the claimed cluster as the parent has it."""
    owner = cluster["metadata"]
    meta = build_metadata(owner["namespace"], claim.name, claim.stamp, **{names.LABEL_ROLE: claim.role})
    meta |= {"finalizers": [names.FINALIZER], "ownerReferences": [_build_owner(cluster, controller=True)]}
    spec: dict[str, Any] = {
        "clusterName": owner["name"],
        "role": claim.role,
        "ordinal": claim.ordinal,
        "version": claim.version,
        "machine": dict(claim.machine),
        "infrastructure": dict(claim.infrastructure),
        "bootstrap": {"dataSecretName": claim.secret},
    }
    if claim.failure_domain:
        spec["failureDomain"] = claim.failure_domain
    if claim.role == names.ROLE_WORKER:
        spec["pool"] = "claimed"
    return {
        "apiVersion": names.API_VERSION,
        "kind": "NestedMachine",
        "metadata": _relabel(meta, owner["name"]),
        "spec": spec,
    }


def build_claimed_data(name: str, cluster: dict[str, Any], stamp: Stamp, user_data: bytes) -> dict[str, Any]:
    """The bootstrap data of a claimed machine; it ends with the claimed cluster if nobody removes it before."""
    owner = cluster["metadata"]
    meta = _relabel(build_metadata(owner["namespace"], name, stamp), owner["name"])
    meta["ownerReferences"] = [_build_owner(cluster, controller=False)]
    data = {"value": base64.b64encode(user_data).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": names.SECRET_TYPE_CLAIM, "data": data}


def _relabel(meta: dict[str, Any], cluster: str) -> dict[str, Any]:
    """The parent's own tools look for the name that the claim has there."""
    return meta | {"labels": meta["labels"] | {names.LABEL_CLUSTER: cluster}}


def _build_owner(cluster: dict[str, Any], *, controller: bool) -> dict[str, Any]:
    owner = cluster["metadata"]
    reference = {"apiVersion": names.API_VERSION, "kind": "NestedCluster", "name": owner["name"], "uid": owner["uid"]}
    return reference | ({"controller": True, "blockOwnerDeletion": True} if controller else {})
