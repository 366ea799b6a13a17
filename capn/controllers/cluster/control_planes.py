"""Phase ControlPlaneReady: the first control-plane machine, and once it has made a cluster, one change at a time.

Must not: touch a hypervisor or change etcd; that is the machine's own reconciler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from capn import names
from capn.api.conditions import ClusterCondition
from capn.api.machine import NestedMachine
from capn.build.control_plane_plan import (
    ControlPlanePlan,
    compute_control_plane_plan,
    is_outdated,
    is_stillborn,
    select_needed,
    select_outdated,
    select_replaceable,
)
from capn.build.fixed_endpoint import REASON, describe_staying, has_to_stay, is_fixed
from capn.build.health import is_ready
from capn.build.machines import build_machine
from capn.build.remediation import CONTROL_PLANES, Verdict
from capn.build.said import Said
from capn.build.upgrade_stage import compute_plane_version
from capn.controllers.cluster import preflight
from capn.controllers.cluster.components import record_components
from capn.controllers.cluster.healing import examine, keep_verdict, replace, tell_gravest
from capn.controllers.cluster.machines import delete_machines, list_live_machines, restore_stamps
from capn.controllers.cluster.placement import PLACE_POLL_S, create_placed, find_unknown
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait

POLL_S = 5.0


async def reconcile_first_control_plane(scope: ClusterScope) -> Wait | None:
    """Create the machine that initializes the cluster; put stamps back on those that somebody has stripped."""
    existing = scope.control_planes()
    if not existing and (said := await create_placed(scope, _build(scope, 0))) is not None:
        return Wait(said.reason, said.message, PLACE_POLL_S)
    for machine in existing:
        await restore_stamps(scope, machine, _build(scope, machine.spec.ordinal))
    return None if scope.initialized or scope.restoring is not None else await _begin_anew(scope, existing)


async def _begin_anew(scope: ClusterScope, existing: Sequence[NestedMachine]) -> Wait | None:
    """Give up a machine that failed to make a cluster of what the spec does not ask for any more."""
    for machine in existing:
        if is_stillborn(machine) and is_outdated(machine, _build(scope, machine.spec.ordinal)):
            await delete_machines(scope, [machine])
            message = f"{machine.metadata.name} failed and is made again as the spec asks for now"
            return Wait("ReplacingControlPlane", message)
    return None


async def reconcile_control_planes(scope: ClusterScope) -> Wait | None:
    """Make the next change of the control planes: add one, replace one, remove one, or wait until that is safe."""
    replicas = scope.cluster.spec.control_plane.replicas
    version = None if scope.upgrade is None else compute_plane_version(scope.upgrade)
    wanted = [_build(scope, ordinal, version) for ordinal in range(replicas + 1)]
    obstacle = find_unknown(scope, None)
    # Nobody leaves a domain for one that is not there.
    allowed = scope.cluster.spec.control_plane.failure_domains if obstacle is None else ()
    verdict = _examine(scope, replicas)
    patients = {patient.machine.metadata.name: patient for patient in verdict.delete}
    plan = _plan(scope, wanted, allowed, patients)
    _note_drift(scope, wanted[0], allowed)
    if _is_needed_for_dns(scope, plan.delete):
        return Wait("WaitingForDNS", f"{scope.dns_waits}; until then no control plane leaves", POLL_S, blocks=False)
    if wait := await _check_child(scope, plan, select_needed(plan, scope.control_planes(), wanted[0], allowed)):
        return wait
    if plan.create is not None:
        await record_components(scope, plan.create["spec"]["version"])
        obstacle = await create_placed(scope, plan.create)
    if plan.delete is not None and await _is_still_due(scope, plan, partial(_plan, scope, wanted, allowed, patients)):
        patient = patients.get(plan.delete.metadata.name)
        await (delete_machines(scope, [plan.delete]) if patient is None else replace(scope, patient))
    if obstacle is not None:
        return Wait(obstacle.reason, obstacle.message, PLACE_POLL_S, blocks=False)
    return _conclude(scope, plan, verdict)


def _plan(
    scope: ClusterScope, wanted: Sequence[dict[str, Any]], allowed: Sequence[str], dying: Collection[str]
) -> ControlPlanePlan:
    fixed = _has_fixed_endpoint(scope)
    return compute_control_plane_plan(wanted, scope.control_planes(), allowed=allowed, dying=dying, fixed=fixed)


async def _is_still_due(scope: ClusterScope, plan: ControlPlanePlan, again: Callable[[], ControlPlanePlan]) -> bool:
    """Whether the same one would be chosen by what there is now: by a cache that is behind two would leave at once."""
    scope.machines = await list_live_machines(scope)
    chosen = again().delete
    return chosen is not None and plan.delete is not None and chosen.metadata.uid == plan.delete.metadata.uid


def _examine(scope: ClusterScope, replicas: int) -> Verdict:
    """Which of the control planes that can be replaced are ill, and what the health check says of it."""
    existing = select_replaceable(scope.control_planes(), fixed=_has_fixed_endpoint(scope))
    verdict = examine(scope, {CONTROL_PLANES: existing}, replicas)
    keep_verdict(scope, verdict, planes=True)
    return verdict


def _conclude(scope: ClusterScope, plan: ControlPlanePlan, verdict: Verdict) -> Wait | None:
    """What the plan does, or, while it waits for one that is ill, what becomes of that."""
    said = Said(reason=plan.reason, message=plan.because)
    if plan.reason == "WaitingForMachines" and verdict.said:
        [said] = verdict.said
        tell_gravest(scope, ClusterCondition.CONTROL_PLANE_READY, said)
    if not said.reason and verdict.after_s is None:
        return None
    return Wait(said.reason or "WaitingForMachines", said.message, verdict.after_s, blocks=False)


async def _check_child(scope: ClusterScope, plan: ControlPlanePlan, needed: Sequence[NestedMachine]) -> Wait | None:
    """What in the child holds the next operation up, or keeps the last one from being over.

    Nodes are Ready minutes before their API servers are where all share few CPUs. Not asked of a cluster at rest.
    """
    is_over = plan.create is None and plan.delete is None
    if is_over and scope.was_true(ClusterCondition.CONTROL_PLANE_READY):
        return None
    said = await preflight.find_unready_components(scope, needed) if needed else None
    if said is None and plan.create is not None:
        said = await preflight.find_obstacle_to_joining(scope)
    if said is None:
        return None
    message = said.message if is_over else f"{plan.because}; the next step waits: {said.message}"
    return Wait(said.reason, message, preflight.POLL_S, blocks=False)


def _note_drift(scope: ClusterScope, manifest: dict[str, Any], allowed: Sequence[str]) -> None:
    """Say of a control plane that has to stay that it is not as the spec asks for."""
    fixed = _has_fixed_endpoint(scope)
    staying = [machine for machine in scope.control_planes() if has_to_stay(machine, fixed=fixed)]
    for machine in select_outdated(staying, manifest, allowed):
        scope.notices[ClusterCondition.CONTROL_PLANE_READY] = (REASON, describe_staying(machine.metadata.name))


def _has_fixed_endpoint(scope: ClusterScope) -> bool:
    virtual = scope.infrastructure is not None and scope.infrastructure.virtual
    return is_fixed(scope.cluster.spec.infrastructure.kind, virtual=virtual)


def _is_needed_for_dns(scope: ClusterScope, leaving: NestedMachine | None) -> bool:
    """Whether CoreDNS may have nobody but this one: its new pods do not all serve yet, and old ones have no other node.

    One that is not Ready serves nothing. While there is no control plane of the version that they go to there is nobody
    to wait for, and the old pods go to old ones that stay.
    """
    if leaving is None or scope.upgrade is None or scope.dns_waits is None or not is_ready(leaving):
        return False
    version = compute_plane_version(scope.upgrade)
    return leaving.spec.version != version and version in scope.upgrade.planes


def _build(scope: ClusterScope, ordinal: int, version: str | None = None) -> dict[str, Any]:
    restore = None if scope.restoring is None else scope.restoring.started_at
    return build_machine(
        scope.cluster, role=names.ROLE_CONTROL_PLANE, ordinal=ordinal, pool=None, version=version, restore=restore
    )
