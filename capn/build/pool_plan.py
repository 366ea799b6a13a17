"""Which machines of a worker pool are made, deleted and updated next.

Role: pure; the one place that chooses. Inputs: the pool as the spec has it, its machines as they are, limits; output:
a `PoolPlan`. All that it knows is what exists, so that a rollout goes on from wherever a controller died. Never more
machines than wanted + maxSurge, those that are being deleted included; no Ready one is taken for a change while that
leaves fewer than wanted - maxUnavailable. Must not: do I/O, read the clock, or choose who is unhealthy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.api.cluster import NestedCluster, WorkerPool
from capn.api.machine import NestedMachine
from capn.api.pools import Rollout
from capn.build.failure_domains import compute_depths, is_outside
from capn.build.health import is_ready
from capn.build.machines import build_machine
from capn.build.said import Said


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """`version`: the one that workers have now. `room`: how many nodes more the pod network serves.

    `dying`: names of machines that the health check deletes in this step.
    """

    cluster: NestedCluster
    pool: WorkerPool
    wanted: int
    machines: Sequence[NestedMachine]
    version: str
    room: int | None = None
    dying: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One step: what to make, to delete and to give new labels or taints; `said`: how far a rollout is."""

    create: tuple[dict[str, Any], ...] = ()
    delete: tuple[NestedMachine, ...] = ()
    update: tuple[NestedMachine, ...] = ()
    said: Said | None = None


@dataclass(frozen=True, slots=True)
class _State:
    """The pool's machines, sorted out. `alive`: not being deleted; `outdated`: names of those that need a new VM."""

    alive: tuple[NestedMachine, ...]
    outdated: frozenset[str]
    total: int
    failed: NestedMachine | None

    @property
    def ready(self) -> int:
        return sum(map(is_ready, self.alive))

    @property
    def current(self) -> int:
        return len(self.alive) - len(self.outdated)


def compute_pool_plan(request: PoolRequest) -> PoolPlan:
    """The next step; empty when the pool is as it shall be, or waits for machines to become Ready or to go."""
    state = _sort(request)
    rollout = request.pool.rollout or Rollout()
    delete = _choose_deletions(request, state, rollout)
    going = {machine.metadata.name for machine in delete}
    count, said = _count_creations(request, state, rollout)
    return PoolPlan(
        create=tuple(_build(request, ordinal) for ordinal in find_free_ordinals(request.machines, count)),
        delete=delete,
        update=tuple(
            machine
            for machine in state.alive
            if machine.metadata.name not in going
            # Before that, its node will register with what it was made with.
            and machine.status.node_ref is not None
            and not is_labelled(machine, request.pool)
        ),
        said=said,
    )


def is_outdated(cluster: NestedCluster, pool: WorkerPool, machine: NestedMachine, version: str) -> bool:
    """Whether it takes a new VM to make the machine what the pool asks for."""
    spec, size = machine.spec, pool.machine or cluster.spec.machine
    is_same = spec.machine.is_like(size) and spec.infrastructure == cluster.spec.infrastructure
    return spec.version != version or not is_same or is_outside(machine, pool.failure_domains)


def is_labelled(machine: NestedMachine, pool: WorkerPool) -> bool:
    """Whether the machine has the pool's labels and taints; what order taints are in says nothing."""
    mine = {(taint.key, taint.effect): taint.value for taint in machine.spec.taints}
    return machine.spec.labels == pool.labels and mine == {(one.key, one.effect): one.value for one in pool.taints}


def count_updated(cluster: NestedCluster, machines: Sequence[NestedMachine]) -> int:
    """How many workers are as the spec has them now, in its version."""
    pools = {pool.name: pool for pool in cluster.spec.workers}
    return sum(
        not machine.metadata.deleting
        and (pool := pools.get(machine.spec.pool or "")) is not None
        and is_labelled(machine, pool)
        and not is_outdated(cluster, pool, machine, cluster.spec.version)
        for machine in machines
    )


def find_free_ordinals(machines: Sequence[NestedMachine], count: int) -> list[int]:
    """The lowest numbers that no machine has, as far as names have room for them."""
    used = {machine.spec.ordinal for machine in machines}
    free: list[int] = []
    for ordinal in range(names.MAX_WORKER_ORDINAL + 1):
        if len(free) >= count:
            break
        if ordinal not in used:
            free.append(ordinal)
    return free


def _sort(request: PoolRequest) -> _State:
    alive = [
        machine
        for machine in request.machines
        if not machine.metadata.deleting and machine.metadata.name not in request.dying
    ]
    outdated = frozenset(
        machine.metadata.name
        for machine in alive
        if is_outdated(request.cluster, request.pool, machine, request.version)
    )
    failed = (one for one in alive if one.status.failure_reason and one.metadata.name not in outdated)
    return _State(tuple(alive), outdated, len(request.machines), next(failed, None))


def _build(request: PoolRequest, ordinal: int) -> dict[str, Any]:
    return build_machine(
        request.cluster, role=names.ROLE_WORKER, ordinal=ordinal, pool=request.pool, version=request.version
    )


def _rank(machine: NestedMachine, *, outdated: bool) -> tuple[bool, bool, bool, bool, int]:
    """Who goes first: asked for by annotation, failed, not Ready, outdated, then the highest number."""
    asked = names.ANNOTATION_DELETE_MACHINE in machine.metadata.annotations
    failed = machine.status.failure_reason is not None
    return not asked, not failed, is_ready(machine), not outdated, -machine.spec.ordinal


def _order(state: _State) -> list[NestedMachine]:
    """Who goes first; of those that are alike, who is in the fullest failure domain."""

    def rank(machine: NestedMachine) -> tuple[bool, bool, bool, bool, int]:
        return _rank(machine, outdated=machine.metadata.name in state.outdated)

    order = sorted(state.alive, key=rank)
    depths = compute_depths(order)
    return sorted(order, key=lambda machine: (*rank(machine)[:-1], -depths[machine.metadata.name]))


def _choose_deletions(request: PoolRequest, state: _State, rollout: Rollout) -> tuple[NestedMachine, ...]:
    order = _order(state)
    excess = len(order) - request.wanted
    if not state.outdated or request.wanted == 0:
        return tuple(order[: max(0, excess)])
    # While a change is rolled out, those beyond the surge go at once (the pool was made smaller) ...
    at_once = max(0, excess - rollout.max_surge)
    chosen, order = order[:at_once], order[at_once:]
    if state.failed is not None:
        return tuple(chosen)
    # ... and of the outdated as many as others are Ready in their place.
    floor = max(0, request.wanted - rollout.max_unavailable)
    left, ready = len(order), sum(map(is_ready, order))
    for machine in order:
        after = ready - is_ready(machine)
        if machine.metadata.name in state.outdated and left > floor and (after == ready or after >= floor):
            left, ready = left - 1, after
            chosen.append(machine)
    return tuple(chosen)


def _count_creations(request: PoolRequest, state: _State, rollout: Rollout) -> tuple[int, Said | None]:
    """How many to make, and what is said of the rollout. A machine that goes keeps its place until it is gone."""
    missing = max(0, request.wanted - state.total)
    if not state.outdated:
        return missing, None
    progress = f"pool {request.pool.name}: {min(state.current, request.wanted)} of {request.wanted} updated"
    if state.failed is not None:
        name, why = state.failed.metadata.name, state.failed.status.failure_reason
        return missing, Said(
            reason="RolloutStopped",
            message=f"{progress}; it stopped since the new {name} failed ({why}): correct the pool, or mend the cause"
            f" and delete that NestedMachine",
        )
    surge = max(0, min(request.wanted + rollout.max_surge - state.total, request.wanted - state.current))
    fitting = min(surge, _compute_room(request))
    if surge > 0 and fitting <= 0 and rollout.max_unavailable == 0:
        return missing, Said(
            reason="RolloutBlocked",
            message=f"{progress}; there is no node address range or machine number left for one more: set its"
            " rollout.maxUnavailable to 1",
        )
    return max(missing, fitting), Said(reason="RollingOut", message=f"{progress}, {state.ready} Ready")


def _compute_room(request: PoolRequest) -> int:
    """How many more machines there can be: each node takes a /24 of the pod network, names end at 999."""
    numbers = names.MAX_WORKER_ORDINAL + 1 - len(request.machines)
    return numbers if request.room is None else max(0, min(numbers, request.room))
