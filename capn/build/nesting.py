"""What a cluster with `spec.nesting` needs in its parent: a namespace for its claims, and an account for nothing else.

Role: pure. Inputs: whose claims, how deep, how many. Outputs: objects in the order in which they are applied. Must not:
give the account any right beyond ClusterRole `capn-child` in that one namespace (config/nesting has role and policy).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.build.claims import PARTS_A_LEVEL
from capn.build.stamps import Stamp, build_labels, build_metadata

_NAME_LIMIT = 53
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class ClaimsInput:
    """Whose claims. `depth` counts the levels below the cluster; `infrastructure` is what makes the machines here."""

    stamp: Stamp
    path: str
    depth: int
    infrastructure: tuple[str, str]  # kind, endpoint
    clusters: int | None = None
    machines: int | None = None

    @property
    def namespace(self) -> str:
        """Where the claims are."""
        return claims_namespace(self.stamp.cluster, self.stamp.cluster_uid)

    @property
    def max_path_parts(self) -> int:
        """The longest path of a claim: two names a level."""
        return self.path.count("/") + 1 + PARTS_A_LEVEL * self.depth


def claims_namespace(cluster: str, uid: str) -> str:
    """Name of the namespace of a cluster's claims: at most 63 characters, unique by the UID."""
    return f"capn-{names.build_marked_name(cluster, uid, limit=_NAME_LIMIT, mark=8)}"


def build_claims_namespace(claims: ClaimsInput, *, applied: str | None = None) -> dict[str, Any]:
    """The namespace; `applied` is the digest of all that belongs to it, once that is there."""
    meta = build_metadata("", claims.namespace, claims.stamp)
    del meta["namespace"]
    meta["labels"] |= {names.LABEL_CLAIMS: "true"}
    meta["annotations"] |= {
        names.ANNOTATION_PATH: claims.path,
        names.ANNOTATION_MAX_PATH_PARTS: str(claims.max_path_parts),
        names.ANNOTATION_INFRASTRUCTURE: "/".join(claims.infrastructure),
        **({names.ANNOTATION_APPLIED: applied} if applied else {}),
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def build_claims_objects(claims: ClaimsInput) -> list[dict[str, Any]]:
    """What is in the namespace: the account, its one right, and the counts that admission keeps."""
    account = {"kind": "ServiceAccount", "name": names.CHILD_ACCOUNT, "namespace": claims.namespace}
    counts = {"clusters": claims.clusters, "machines": claims.machines}
    hard = {f"count/nested{kind}.{names.GROUP}": str(count) for kind, count in counts.items() if count is not None}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _in_namespace(claims, names.CHILD_ACCOUNT),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": _in_namespace(claims, names.CHILD_ACCOUNT),
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": names.CHILD_ROLE},
            "subjects": [account],
        },
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": _in_namespace(claims, "budget"),
            "spec": {"hard": hard},
        },
    ]


def compute_digest(*objects: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Hex digest of objects, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(objects, sort_keys=True).encode()).hexdigest()[:16]


def _in_namespace(claims: ClaimsInput, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": claims.namespace, "labels": build_labels(claims.stamp)}
