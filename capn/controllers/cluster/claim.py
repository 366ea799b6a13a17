"""A cluster that a child claims: its network and endpoint are made here, everything else is the child's.

Role: which phases and conditions such a cluster has, and what is refused whatever admission let through. Must not: read
a Secret of it, there is none here.
"""

from __future__ import annotations

from capn.api.cluster import DeletionPolicy, NestedCluster, Nesting
from capn.api.conditions import ClusterCondition
from capn.api.machine_template import Infrastructure
from capn.build.claims import PARTS_A_LEVEL
from capn.controllers.claimants import find_claimant
from capn.controllers.cluster.infrastructure import reconcile_infrastructure
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Phase, Wait
from capn.errors import InvalidSpecError


async def reconcile_claim(scope: ClusterScope) -> Wait | None:
    """Ensure the network, if the cluster whose child asks may have this one."""
    check_claim(scope.cluster, find_claimant(scope.deps, scope.ref.namespace))
    return await reconcile_infrastructure(scope)


def check_claim(cluster: NestedCluster, claimant: NestedCluster) -> None:
    """InvalidSpecError when the claim is not below its claimant, too deep, or not of its claimant's infrastructure."""
    path = cluster.path
    if not path.startswith(f"{claimant.path}/"):
        raise InvalidSpecError(
            "spec.claim.path", f"must begin with {claimant.path}/, the cluster whose claims are in this namespace"
        )
    depth = (path.count("/") - claimant.path.count("/")) // PARTS_A_LEVEL
    allowed = (claimant.spec.nesting or Nesting()).max_depth
    if depth > allowed:
        raise InvalidSpecError(
            "spec.claim.path",
            f"is {depth} levels below {claimant.path}, which allows {allowed} (its spec.nesting.maxDepth)",
            reason="TooDeep",
        )
    check_infrastructure(cluster.spec.infrastructure, claimant)
    if cluster.spec.deletion_policy is DeletionPolicy.ORPHAN:
        raise InvalidSpecError("spec.deletionPolicy", "a claim's machines go with it: leave it at Delete")


def check_infrastructure(infrastructure: Infrastructure, claimant: NestedCluster) -> None:
    """InvalidSpecError when machines are asked of another endpoint than the claimant's own are on."""
    allowed = claimant.spec.infrastructure
    if (infrastructure.kind, infrastructure.endpoint) != (allowed.kind, allowed.endpoint):
        raise InvalidSpecError(
            "spec.infrastructure",
            f"must be kind {allowed.kind.value}, endpoint {allowed.endpoint}, as that of {claimant.path}",
        )


PHASES: tuple[Phase[ClusterScope], ...] = (Phase(ClusterCondition.INFRASTRUCTURE_READY, reconcile_claim),)
CONDITIONS = (ClusterCondition.INFRASTRUCTURE_READY,)
