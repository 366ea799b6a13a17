"""The NestedCluster's status, computed from what the phases came to.

Role: pure; runs after every attempt, failed ones too. Inputs: scope, progress, time; output: the whole status.
Must not: do I/O, or put anything into a message that changes while nothing happens.
"""

from __future__ import annotations

from collections.abc import Sequence

from capn import names
from capn.api.addons import AddonStatus
from capn.api.cluster import Access, BackupStatus, Endpoint, MachineCounts, NestedClusterStatus
from capn.api.conditions import ClusterCondition, ConditionSet, MachineCondition, find, is_true, overlay
from capn.api.machine import NestedMachine
from capn.build.pool_plan import count_updated
from capn.build.version_skew import parse_version
from capn.controllers.cluster import claim
from capn.controllers.cluster.domain_status import compute_domains
from capn.controllers.cluster.nested import compute_nested
from capn.controllers.cluster.pool_status import compute_pools, set_scaling
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Outcome, Progress, Wait, describe
from capn.errors import TerminalError

# In the order in which they become true; a condition whose phase was not reached names the one that it waits for.
PHASED = (
    ClusterCondition.INFRASTRUCTURE_READY,
    ClusterCondition.CERTIFICATES_AVAILABLE,
    ClusterCondition.KUBECONFIG_READY,
    ClusterCondition.CONTROL_PLANE_INITIALIZED,
    ClusterCondition.CNI_READY,
)
_PAUSED = ("Paused", "spec.paused is true: nothing is changed")
BY_MACHINES = (ClusterCondition.CONTROL_PLANE_READY, ClusterCondition.WORKERS_READY)
DONE_REASON = {
    ClusterCondition.NESTING_READY: "ControllerRuns",
    ClusterCondition.BACKUP_READY: "BackedUp",
    ClusterCondition.UPGRADED: "Upgraded",
    ClusterCondition.INFRASTRUCTURE_READY: "NetworkReady",
    ClusterCondition.CERTIFICATES_AVAILABLE: "Available",
    ClusterCondition.KUBECONFIG_READY: "Available",
    ClusterCondition.CONTROL_PLANE_INITIALIZED: "KubeadmInitDone",
    ClusterCondition.CNI_READY: "NodesHaveNetwork",
    ClusterCondition.ADDONS_READY: "Applied",
}


def compute_status(scope: ClusterScope, progress: Progress, *, now: str) -> NestedClusterStatus:
    """The status of a cluster that is neither paused nor being deleted."""
    previous = scope.cluster.status
    conditions = ConditionSet(previous.conditions, now=now, generation=scope.cluster.metadata.generation)
    kinds = _condition_kinds(scope)
    for kind in kinds:
        if kind not in BY_MACHINES:
            _set_phased(conditions, kind, scope, progress)
    control_planes = _count(scope.control_planes(), _desired_control_planes(scope))
    workers = _count_workers(scope)
    if ClusterCondition.WORKERS_READY in kinds:
        _set_machines(conditions, ClusterCondition.CONTROL_PLANE_READY, control_planes, scope, progress)
        _set_machines(conditions, ClusterCondition.WORKERS_READY, workers, scope, progress)
    _set_restored(conditions, scope, progress)
    set_scaling(conditions, scope)
    starting = _set_starting(conditions, progress)
    _set_backup(conditions, scope, progress)
    if _set_upgraded(conditions, scope, progress):
        kinds = (*kinds, ClusterCondition.UPGRADED)
    _set_summary(conditions, kinds, scope, progress)
    failure = _failure(scope, progress)
    return NestedClusterStatus(
        observed_generation=scope.cluster.metadata.generation,
        phase=_phase(conditions, scope, failed=failure is not None, starting=starting),
        endpoint=_endpoint(scope),
        access=_access(scope),
        version=_version(scope),
        machines=MachineCounts(
            desired=control_planes.desired + workers.desired,
            created=control_planes.created + workers.created,
            ready=control_planes.ready + workers.ready,
        ),
        control_plane=control_planes,
        workers=workers,
        pools=compute_pools(scope),
        failure_domains=compute_domains(scope),
        remediations=previous.remediations if scope.remediations is None else list(scope.remediations) or None,
        nested=compute_nested(scope.cluster.path, scope.claims) if scope.cluster.spec.nests else None,
        backup=_backup(scope),
        restore=scope.restore or previous.restore,
        addons=_addons(scope),
        selector=f"{names.LABEL_CLUSTER}={scope.ref.name},{names.LABEL_ROLE}={names.ROLE_CONTROL_PLANE}",
        failure_reason=failure[0] if failure else None,
        failure_message=failure[1] if failure else None,
        conditions=conditions.build(),
    )


def _set_starting(conditions: ConditionSet, progress: Progress) -> bool:
    """Say of a cluster that was off that it comes back; of others the condition says nothing."""
    outcome = progress.outcomes.get(ClusterCondition.POWERED_OFF)
    if not isinstance(outcome, Wait):
        return False
    conditions.set(ClusterCondition.POWERED_OFF, "False", outcome.reason, outcome.message)
    return True


def compute_paused_status(scope: ClusterScope, *, now: str) -> NestedClusterStatus:
    """The previous status, with Paused set and nothing else changed."""
    return _overlay(scope, ClusterCondition.PAUSED, _PAUSED, now=now, paused=True)


def compute_deleting_status(scope: ClusterScope, outcome: Outcome, *, now: str) -> NestedClusterStatus:
    """The previous status, with what deletion is waiting for."""
    why, paused = describe(outcome, done=("Deleting", "deletion has begun")), scope.cluster.spec.paused
    return _overlay(scope, ClusterCondition.DELETING, why, now=now, paused=paused)


def _overlay(
    scope: ClusterScope, kind: ClusterCondition, why: tuple[str, str], *, now: str, paused: bool
) -> NestedClusterStatus:
    previous, generation = scope.cluster.status, scope.cluster.metadata.generation
    conditions = overlay(previous.conditions, kind, why, now=now, generation=generation, paused=paused)
    return previous.model_copy(
        update={"observed_generation": generation, "phase": kind.value, "conditions": conditions}
    )


def _condition_kinds(scope: ClusterScope) -> tuple[ClusterCondition, ...]:
    spec = scope.cluster.spec
    if spec.claim is not None:
        return claim.CONDITIONS
    nesting = (ClusterCondition.NESTING_READY,) if spec.nests else ()
    addons = (ClusterCondition.ADDONS_READY,) if spec.addons or _addons(scope) else ()
    return (*PHASED, *BY_MACHINES, *addons, *nesting)


def _addons(scope: ClusterScope) -> list[AddonStatus]:
    return scope.cluster.status.addons if scope.addons is None else scope.addons


def _desired_control_planes(scope: ClusterScope) -> int:
    """What the spec asks for; of a claim's machines the child decides."""
    spec = scope.cluster.spec
    return spec.control_plane.replicas if spec.claim is None else len(scope.control_planes())


def _desired_workers(scope: ClusterScope) -> int:
    spec = scope.cluster.spec
    return sum(pool.desired for pool in compute_pools(scope)) if spec.claim is None else len(scope.workers())


def _set_phased(conditions: ConditionSet, kind: ClusterCondition, scope: ClusterScope, progress: Progress) -> None:
    if kind is ClusterCondition.CONTROL_PLANE_INITIALIZED and scope.restoring is not None:
        conditions.set(kind, "False", *_describe_restore(progress))
        return
    if kind not in progress.outcomes:
        if scope.was_true(kind):  # an earlier phase failed just now; what was reached is still there
            conditions.set(kind, "True", *_describe_done(scope, kind))
        else:
            conditions.set(kind, "False", "Waiting", f"waiting for {progress.stopped_at or 'earlier steps'}")
        return
    outcome = progress.outcomes[kind]
    if outcome is None:
        conditions.set(kind, "True", *_describe_done(scope, kind))
    elif isinstance(outcome, Wait):
        conditions.set(kind, "False", outcome.reason, outcome.message)
    elif kind is ClusterCondition.CONTROL_PLANE_INITIALIZED and scope.initialized:
        # Initialization happened and cannot be undone; that the API is silent now shows in Ready and Stalled.
        conditions.set(kind, "True", *_describe_done(scope, kind))
    else:
        conditions.set(kind, "False", outcome.error.reason, str(outcome.error))


def _describe_restore(progress: Progress) -> tuple[str, str]:
    return describe(
        progress.outcomes.get(ClusterCondition.RESTORED), done=("Restoring", "a snapshot is being restored")
    )


def _set_restored(conditions: ConditionSet, scope: ClusterScope, progress: Progress) -> None:
    """Of a restore that goes on, is over, cannot begin or may have to; of others the condition says nothing."""
    restore = scope.restore or scope.cluster.status.restore
    if scope.restoring is not None or progress.outcomes.get(ClusterCondition.RESTORED) is not None:
        conditions.set(ClusterCondition.RESTORED, "False", *_describe_restore(progress))
    elif restore is not None:
        conditions.set(ClusterCondition.RESTORED, "True", "Restored", f"{restore.snapshot}, taken {restore.taken}")


def _describe_done(scope: ClusterScope, kind: ClusterCondition) -> tuple[str, str]:
    return scope.notices.get(kind, (DONE_REASON[kind], ""))


def _count(machines: Sequence[NestedMachine], desired: int) -> MachineCounts:
    ready = sum(is_true(machine.status.conditions, MachineCondition.READY) for machine in machines)
    return MachineCounts(desired=desired, created=len(machines), ready=ready)


def _count_workers(scope: ClusterScope) -> MachineCounts:
    counts = _count(scope.workers(), _desired_workers(scope))
    if scope.cluster.spec.claim is not None:
        return counts
    return counts.model_copy(update={"updated": count_updated(scope.cluster, scope.workers())})


def _set_machines(
    conditions: ConditionSet,
    kind: ClusterCondition,
    counts: MachineCounts,
    scope: ClusterScope,
    progress: Progress,
) -> None:
    machines = scope.control_planes() if kind is ClusterCondition.CONTROL_PLANE_READY else scope.workers()
    changing = progress.outcomes.get(kind)
    if isinstance(changing, Wait) and changing.reason != "WaitingForMachines":
        conditions.set(kind, "False", changing.reason, changing.message)
        return
    if counts.ready >= counts.desired and counts.created == counts.desired:
        conditions.set(
            kind, "True", *scope.notices.get(kind, ("AllReady", f"{counts.ready} of {counts.desired} ready"))
        )
        return
    failed = next((machine for machine in machines if machine.status.failure_reason), None)
    if failed is not None:
        message = f"{failed.metadata.name}: {failed.status.failure_message}"
        conditions.set(kind, "False", failed.status.failure_reason or "MachineFailed", message)
        return
    conditions.set(kind, "False", "WaitingForMachines", f"{counts.ready} of {counts.desired} ready")


def _set_summary(
    conditions: ConditionSet, kinds: tuple[ClusterCondition, ...], scope: ClusterScope, progress: Progress
) -> None:
    lacking = next((kind for kind in kinds if not conditions.is_true(kind)), None)
    failure = _failure(scope, progress)
    conditions.set(ClusterCondition.PAUSED, "False", "NotPaused")
    if failure is not None:
        reason, message = failure
        conditions.set(ClusterCondition.STALLED, "True", reason, message)
        conditions.set(ClusterCondition.RECONCILING, "False", "Stalled")
        conditions.set(ClusterCondition.READY, "False", reason, message)
        return
    conditions.set(ClusterCondition.STALLED, "False", "Progressing" if lacking else "Settled")
    starting = conditions.get(ClusterCondition.POWERED_OFF)
    if starting is not None:
        conditions.set(ClusterCondition.RECONCILING, "True", starting.reason, starting.message)
        conditions.set(ClusterCondition.READY, "False", starting.reason, starting.message)
    elif progress.error is not None:
        conditions.set(ClusterCondition.RECONCILING, "True", progress.error.reason, str(progress.error))
        conditions.set(ClusterCondition.READY, "False", progress.error.reason, str(progress.error))
    elif lacking is None:
        conditions.set(ClusterCondition.RECONCILING, "False", "Settled")
        conditions.set(ClusterCondition.READY, "True", "ClusterReady")
    else:
        why = conditions.get(lacking)
        reason, message = (why.reason, why.message) if why is not None else ("Waiting", "")
        conditions.set(ClusterCondition.RECONCILING, "True", reason, f"{lacking}: {message}")
        conditions.set(ClusterCondition.READY, "False", reason, f"{lacking}: {message}")


def _failure(scope: ClusterScope, progress: Progress) -> tuple[str, str] | None:
    """Why a person must act: a terminal error of a phase, or of one machine."""
    if isinstance(progress.error, TerminalError):
        return progress.error.reason, str(progress.error)
    restoring = scope.restoring
    for machine in scope.machines:
        healed = machine.metadata.deleting or machine.metadata.name in scope.healing
        # Workers cannot be Ready, and control planes of before are on their way out.
        healed = healed or (restoring is not None and machine.spec.bootstrap.restore != restoring.started_at)
        if machine.status.failure_reason and not healed:
            message = f"{machine.metadata.name}: {machine.status.failure_message or ''}"
            return machine.status.failure_reason, message[:4096]
    return None


def _phase(conditions: ConditionSet, scope: ClusterScope, *, failed: bool, starting: bool) -> str:
    if failed:
        return "Failed"
    if scope.restoring is not None:
        return "Restoring"
    if starting:
        return "Starting"
    if conditions.is_true(ClusterCondition.READY):
        return "Ready"
    return "Provisioning" if conditions.is_true(ClusterCondition.INFRASTRUCTURE_READY) else "Pending"


def _set_upgraded(conditions: ConditionSet, scope: ClusterScope, progress: Progress) -> bool:
    """Say of a cluster that has been upgraded, or shall be, how far that is; of others the condition says nothing."""
    known = find(scope.cluster.status.conditions, ClusterCondition.UPGRADED)
    kind, outcomes = ClusterCondition.UPGRADED, progress.outcomes
    if outcomes.get(kind) is not None:
        _set_phased(conditions, kind, scope, progress)
    elif known is None:
        return False
    elif kind in outcomes:
        conditions.set(kind, "True", DONE_REASON[kind], f"all machines are of {scope.cluster.spec.version}")
    else:  # an earlier phase failed just now
        conditions.set(kind, known.status, known.reason, known.message)
    return True


def _version(scope: ClusterScope) -> str | None:
    """The version that all control planes have: while they are of two, whose API server answers says nothing."""
    found = {machine.spec.version for machine in scope.control_planes()}
    if scope.child_version is not None and len(found) > 1:
        return min(found, key=parse_version)
    return scope.child_version or scope.cluster.status.version


def _set_backup(conditions: ConditionSet, scope: ClusterScope, progress: Progress) -> None:
    """Beside the others: a cluster is Ready without a backup, and says that it has none."""
    if scope.cluster.spec.backup is not None and scope.cluster.spec.claim is None:
        _set_phased(conditions, ClusterCondition.BACKUP_READY, scope, progress)


def _backup(scope: ClusterScope) -> BackupStatus | None:
    """What the phase came to, or what was before; kept when backups are switched off."""
    found = scope.backup or scope.cluster.status.backup
    return found if found is not None and found.to_json() else None


def _endpoint(scope: ClusterScope) -> Endpoint | None:
    if scope.infrastructure is None:
        return scope.cluster.status.endpoint
    seen = scope.infrastructure
    return Endpoint(host=seen.endpoint_host, port=seen.endpoint_port, virtual=seen.virtual or None)


def _access(scope: ClusterScope) -> Access | None:
    if scope.infrastructure is None:
        return scope.cluster.status.access
    route = scope.route
    return None if route is None else Access(host=route.host, port=route.port, server_name=route.server_name)
