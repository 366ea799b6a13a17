"""The status of a cluster that is off, or on its way there.

Role: pure. Off is a wish and no trouble: Ready is False for the reason PoweredOff, Reconciling and Stalled are False
too. Only a machine that cannot be switched off is one. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

from capn.api.cluster import MachineCounts, NestedClusterStatus
from capn.api.conditions import ClusterCondition, ConditionSet, MachineCondition, find, is_true
from capn.api.machine import NestedMachine
from capn.controllers.cluster.nested import compute_nested
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Failed, Outcome, describe
from capn.errors import TerminalError

_OFF = ("PoweredOff", 'spec.powerState is "Off": no machine runs; disks, addresses and certificates are kept')
# What is said of the machines; everything else that was reached once is still there.
_OF_MACHINES = (ClusterCondition.CONTROL_PLANE_READY, ClusterCondition.WORKERS_READY)


def compute_off_status(scope: ClusterScope, outcome: Outcome, *, now: str) -> NestedClusterStatus:
    """The previous status, with what switching off came to."""
    previous, generation = scope.cluster.status, scope.cluster.metadata.generation
    conditions = ConditionSet(previous.conditions, now=now, generation=generation)
    why, trouble = describe(outcome, done=_OFF), find_trouble(scope.machines, outcome)
    reason, message = trouble or why
    conditions.set(ClusterCondition.POWERED_OFF, "True" if outcome is None else "False", reason, message)
    conditions.set(ClusterCondition.READY, "False", reason, message)
    goes_on = outcome is not None and trouble is None
    conditions.set(ClusterCondition.RECONCILING, "True" if goes_on else "False", reason, message if goes_on else "")
    conditions.set(ClusterCondition.STALLED, "True" if trouble else "False", reason, message if trouble else "")
    conditions.set(ClusterCondition.PAUSED, "False", "NotPaused")
    for kind in _OF_MACHINES:
        if find(previous.conditions, kind) is not None:
            conditions.set(kind, "False", *_OFF if outcome is None else why)
    kept = [condition for condition in previous.conditions if conditions.get(condition.type) is None]
    return previous.model_copy(
        update={
            "observed_generation": generation,
            "phase": "Failed" if trouble else "Off" if outcome is None else "Stopping",
            "machines": _count(previous.machines, scope.machines),
            "control_plane": _count(previous.control_plane, scope.control_planes()),
            "workers": _count(previous.workers, scope.workers()),
            "nested": compute_nested(scope.cluster.path, scope.claims) if scope.cluster.spec.nests else None,
            "failure_reason": trouble[0] if trouble else None,
            "failure_message": trouble[1] if trouble else None,
            "conditions": [*conditions.build(), *kept],
        }
    )


def find_trouble(machines: Sequence[NestedMachine], outcome: Outcome) -> tuple[str, str] | None:
    """Why a person must act: an error that does not pass, here or of a machine that cannot be switched off."""
    if isinstance(outcome, Failed) and isinstance(outcome.error, TerminalError):
        return outcome.error.reason, str(outcome.error)
    for machine in machines:
        status = machine.status
        power = find(status.conditions, MachineCondition.POWERED_OFF)
        if power is not None and power.status == "False" and power.reason == status.failure_reason:
            return power.reason, f"{machine.metadata.name}: {power.message}"
    return None


def _count(before: MachineCounts | None, machines: Sequence[NestedMachine]) -> MachineCounts | None:
    if before is None:
        return None
    ready = sum(is_true(machine.status.conditions, MachineCondition.READY) for machine in machines)
    return before.model_copy(update={"created": len(machines), "ready": ready})
