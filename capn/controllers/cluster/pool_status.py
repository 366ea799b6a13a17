"""What the status says of each worker pool, and of the scalers' annotations.

Role: pure. Inputs: the scope, the conditions that are being collected; outputs: counts and one condition. Must not:
keep a cluster from being Ready because a scaler asked for what it may not have.
"""

from __future__ import annotations

from capn import names
from capn.api.cluster import PoolCounts
from capn.api.conditions import ClusterCondition, ConditionSet, MachineCondition, is_true
from capn.build.pool_size import compute_pool_size, find_refusals
from capn.controllers.cluster.scope import ClusterScope


def compute_pools(scope: ClusterScope) -> list[PoolCounts]:
    """Counts of each pool in the order of the spec; none of a claim, whose pools are the child's."""
    if scope.cluster.spec.claim is not None:
        return []
    counts = []
    for pool in scope.cluster.spec.workers:
        machines = [machine for machine in scope.workers() if machine.spec.pool == pool.name]
        ready = sum(is_true(machine.status.conditions, MachineCondition.READY) for machine in machines)
        desired = compute_pool_size(scope.cluster, pool)
        counts.append(PoolCounts(name=pool.name, desired=desired, created=len(machines), ready=ready))
    return counts


def set_scaling(conditions: ConditionSet, scope: ClusterScope) -> None:
    """Whether scalers get what they ask for; the condition is there only where one may ask or does."""
    cluster = scope.cluster
    if cluster.spec.claim is not None:
        return
    asked = any(key.startswith(names.ANNOTATION_REPLICAS) for key in cluster.metadata.annotations)
    if not asked and all(pool.autoscaling is None for pool in cluster.spec.workers):
        return
    refusals = list(find_refusals(cluster))
    if refusals:
        message = "; ".join(refusal.message for refusal in refusals)
        conditions.set(ClusterCondition.SCALING_ACCEPTED, "False", refusals[0].reason, message)
    else:
        conditions.set(ClusterCondition.SCALING_ACCEPTED, "True", "Accepted")
