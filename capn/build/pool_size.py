"""How many machines a worker pool shall have: what its spec says, or a scaler where the spec lets one decide.

Role: pure. Inputs: the cluster with its annotations and its last status; outputs: a number, and what is wrong with an
annotation. An autoscaled pool keeps its size when a scaler's word is missing or cannot be read: only a first word
changes it. Must not: know how a pool's machines are chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from capn import names
from capn.api.cluster import Autoscaling, NestedCluster, WorkerPool

_COUNT = re.compile(r"[0-9]{1,9}")
# Of a value that cannot be read so much is repeated.
_SHOWN = 32


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an annotation does not hold as it is: a CamelCase reason, and a message that names the fix."""

    reason: str
    message: str


def compute_pool_size(cluster: NestedCluster, pool: WorkerPool) -> int:
    """The number of machines that the pool shall have now."""
    limits = pool.autoscaling
    if limits is None:
        return pool.replicas
    asked = _read_count(cluster.metadata.annotations.get(names.annotation_replicas(pool.name)))
    if asked is None:
        asked = next((known.desired for known in cluster.status.pools if known.name == pool.name), pool.replicas)
    return _clamp(asked, limits)


def find_refusals(cluster: NestedCluster) -> Iterator[Refusal]:
    """What is wrong with the annotations of scalers, by their keys."""
    pools = {names.annotation_replicas(pool.name): pool for pool in cluster.spec.workers}
    for key, value in sorted(cluster.metadata.annotations.items()):
        if key.startswith(names.ANNOTATION_REPLICAS):
            refusal = _judge(cluster, key, value, pools.get(key))
            if refusal is not None:
                yield refusal


def _judge(cluster: NestedCluster, key: str, value: str, pool: WorkerPool | None) -> Refusal | None:
    if pool is None or pool.autoscaling is None:
        name = key.removeprefix(names.ANNOTATION_REPLICAS)
        fix = "no pool has that name" if pool is None else f"set spec.workers[{name}].autoscaling, or its replicas"
        return Refusal("NotAutoscaled", f"the annotation {key} has no effect: {fix}")
    limits, size = pool.autoscaling, compute_pool_size(cluster, pool)
    asked = _read_count(value)
    if asked is None:
        shown = "".join(char if char.isprintable() else " " for char in value[:_SHOWN])
        fix = f"write a whole number from {limits.min} to {limits.max}"
        return Refusal("InvalidReplicas", f'the annotation {key} is "{shown}": {fix}; until then it is {size}')
    if asked != size:
        fix = f"spec.workers[{pool.name}].autoscaling allows {limits.min} to {limits.max}"
        return Refusal("ReplicasOutOfRange", f"the annotation {key} is {asked}, and {fix}: it is {size}")
    return None


def _read_count(text: str | None) -> int | None:
    return int(text) if text is not None and _COUNT.fullmatch(text) else None


def _clamp(count: int, limits: Autoscaling) -> int:
    return max(limits.min, min(count, limits.max))
