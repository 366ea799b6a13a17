"""Phase WorkersReady: the machines of the worker pools, as `capn.build.pool_plan` and `remediation` choose them.

Runs only when the child's API has answered in this reconcile: of a silent child nothing is known, so nothing is
replaced.
Must not: touch a hypervisor; that is the machine's own reconciler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capn import names
from capn.api.checks import node_capacity
from capn.api.cluster import WorkerPool
from capn.api.conditions import ClusterCondition
from capn.api.machine import NestedMachine
from capn.build.machines import build_machine
from capn.build.pool_plan import PoolPlan, PoolRequest, compute_pool_plan
from capn.build.pool_size import compute_pool_size
from capn.build.remediation import Verdict
from capn.build.said import Said
from capn.build.version_skew import compute_worker_version
from capn.controllers.cluster.healing import examine, keep_verdict, replace, tell_gravest
from capn.controllers.cluster.machines import delete_machines, list_live_machines, restore_stamps, update_labels
from capn.controllers.cluster.placement import PLACE_POLL_S, create_placed, find_unknown
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait

# The first of these that a pool says is the condition's reason, unless there is no place for a machine; all messages
# are told.
_GRAVEST_FIRST = (
    "RemediationExhausted",
    "RemediationBlocked",
    "RolloutStopped",
    "RolloutBlocked",
    "Remediating",
    "RemediationWaiting",
    "RollingOut",
    "WaitingForControlPlane",
    "NodesNotReady",
)


@dataclass(frozen=True, slots=True)
class _Step:
    """What all pools together come to."""

    plans: Mapping[str, PoolPlan]
    verdict: Verdict
    surplus: Sequence[NestedMachine]

    @property
    def deletes(self) -> bool:
        return bool(self.verdict.delete or self.surplus or any(plan.delete for plan in self.plans.values()))


async def reconcile_workers(scope: ClusterScope) -> Wait | None:
    """Take the next step of every pool: heal, scale, roll out, and give nodes their labels and taints."""
    await _restore(scope)
    step = _compute_step(scope)
    if step.deletes:
        # A cache that is behind would have another one deleted for one that is going already.
        scope.machines = await list_live_machines(scope)
        step = _compute_step(scope)
    keep_verdict(scope, step.verdict, planes=False)
    obstacles: list[Said] = []
    for pool in scope.cluster.spec.workers:
        if (obstacle := await _create(scope, pool, step.plans[pool.name])) is not None:
            obstacles.append(obstacle)
        for machine in step.plans[pool.name].update:
            await update_labels(scope, machine, pool)
        await delete_machines(scope, step.plans[pool.name].delete)
    await delete_machines(scope, step.surplus)
    for patient in step.verdict.delete:
        await replace(scope, patient)
    return _conclude(scope, step, obstacles)


async def _create(scope: ClusterScope, pool: WorkerPool, plan: PoolPlan) -> Said | None:
    """Make the pool's new machines, up to the first for which there is no place; why that is so."""
    for manifest in plan.create:
        if (obstacle := await create_placed(scope, manifest)) is not None:
            return obstacle
    return find_unknown(scope, pool)


async def _restore(scope: ClusterScope) -> None:
    pools = {pool.name: pool for pool in scope.cluster.spec.workers}
    for machine in scope.workers():
        if (pool := pools.get(machine.spec.pool or "")) is not None:
            ordinal = machine.spec.ordinal
            manifest = build_machine(scope.cluster, role=names.ROLE_WORKER, ordinal=ordinal, pool=pool)
            await restore_stamps(scope, machine, manifest)


def _compute_step(scope: ClusterScope) -> _Step:
    spec, workers = scope.cluster.spec, scope.workers()
    by_pool: dict[str, list[NestedMachine]] = {pool.name: [] for pool in spec.workers}
    surplus: list[NestedMachine] = []
    for machine in workers:
        by_pool.get(machine.spec.pool or "", surplus).append(machine)
    wanted = {pool.name: compute_pool_size(scope.cluster, pool) for pool in spec.workers}
    verdict = examine(scope, by_pool, sum(wanted.values()))
    capacity = node_capacity(spec.network.pod_cidr)
    dying = frozenset(patient.machine.metadata.name for patient in verdict.delete)
    version = compute_worker_version(scope.control_planes(), spec.version)
    plans = {
        pool.name: compute_pool_plan(
            PoolRequest(
                cluster=scope.cluster,
                # Nobody leaves a domain for one that is not there.
                pool=pool if find_unknown(scope, pool) is None else pool.model_copy(update={"failure_domains": []}),
                wanted=wanted[pool.name],
                machines=by_pool[pool.name],
                version=version,
                room=None if capacity is None else capacity - len(scope.machines),
                dying=dying,
            )
        )
        for pool in spec.workers
    }
    return _Step(plans, verdict, surplus)


def _conclude(scope: ClusterScope, step: _Step, obstacles: Sequence[Said]) -> Wait | None:
    said = [*step.verdict.said, *(plan.said for plan in step.plans.values() if plan.said is not None)]
    version = scope.cluster.spec.version
    if scope.workers() and compute_worker_version(scope.control_planes(), version) != version:
        message = f"workers go to {version} when every control plane has it"
        said.append(Said(reason="WaitingForControlPlane", message=message))
    said = [*obstacles, *sorted(said, key=lambda one: _GRAVEST_FIRST.index(one.reason))]
    after_s = step.verdict.after_s
    if not said:
        if after_s is None:
            return None
        return Wait("WaitingForMachines", "new workers are starting", after_s, blocks=False)
    if obstacles:
        after_s = PLACE_POLL_S if after_s is None else min(after_s, PLACE_POLL_S)
    tell_gravest(scope, ClusterCondition.WORKERS_READY, said[0])
    message = "; ".join(one.message for one in said)
    return Wait(said[0].reason, message, after_s, blocks=False)
