"""Condition types of both kinds, and how a list of conditions is computed.

Role: pure. Inputs: the previous conditions, the time as a string, what was observed. Output: the new list, in which
`lastTransitionTime` moves only when a status does, so that an unchanged world gives an unchanged list. Must not: read
the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from capn.api.meta import Condition

Status = Literal["True", "False", "Unknown"]
# metav1.Condition allows 32768; a status is kept small because every watcher receives it.
MAX_MESSAGE = 4096


class ClusterCondition(StrEnum):
    """Condition types of NestedCluster, in the order in which they become true."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    PAUSED = "Paused"
    INFRASTRUCTURE_READY = "InfrastructureReady"
    CERTIFICATES_AVAILABLE = "CertificatesAvailable"
    KUBECONFIG_READY = "KubeconfigReady"
    RESTORED = "Restored"
    CONTROL_PLANE_INITIALIZED = "ControlPlaneInitialized"
    CONTROL_PLANE_READY = "ControlPlaneReady"
    WORKERS_READY = "WorkersReady"
    CNI_READY = "CNIReady"
    ADDONS_READY = "AddonsReady"
    NESTING_READY = "NestingReady"
    SCALING_ACCEPTED = "ScalingAccepted"
    POWERED_OFF = "PoweredOff"
    BACKUP_READY = "BackupReady"
    UPGRADED = "Upgraded"
    DELETING = "Deleting"


class MachineCondition(StrEnum):
    """Condition types of NestedMachine, in the order in which they become true."""

    READY = "Ready"
    PAUSED = "Paused"
    BOOTSTRAP_DATA_READY = "BootstrapDataReady"
    INFRASTRUCTURE_READY = "InfrastructureReady"
    BOOTSTRAP_SUCCEEDED = "BootstrapSucceeded"
    NODE_HEALTHY = "NodeHealthy"
    POWERED_OFF = "PoweredOff"
    NODE_CONFIGURED = "NodeConfigured"
    DELETING = "Deleting"


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def find_condition(obj: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """The condition of that type of an object in JSON's shape (one of ours, a child's node), or None."""
    conditions: Iterable[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == kind), None)


class ConditionSet:
    """Collects one reconcile's conditions over the previous ones."""

    def __init__(self, previous: Sequence[Condition], *, now: str, generation: int) -> None:
        self._previous = {condition.type: condition for condition in previous}
        self._now = now
        self._generation = generation
        self._current: dict[str, Condition] = {}

    def set(self, kind: str, status: Status, reason: str, message: str = "") -> None:
        """Record an observation; the last one of a type wins."""
        before = self._previous.get(kind)
        same = before is not None and before.status == status
        self._current[kind] = Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message[:MAX_MESSAGE],
            last_transition_time=before.last_transition_time if before is not None and same else self._now,
            observed_generation=self._generation,
        )

    def get(self, kind: str) -> Condition | None:
        """What was recorded in this set."""
        return self._current.get(kind)

    def is_true(self, kind: str) -> bool:
        """Whether this set holds the condition as True."""
        condition = self._current.get(kind)
        return condition is not None and condition.status == "True"

    def build(self) -> list[Condition]:
        """The conditions in the order in which they were set."""
        return list(self._current.values())


def overlay(  # noqa: PLR0913 - what a condition is made of
    previous: Sequence[Condition], kind: str, why: tuple[str, str], *, now: str, generation: int, paused: bool
) -> list[Condition]:
    """The previous conditions with `kind` True and Ready False, both for `why`: an object that is paused or going.

    Each stays at its place in the list, as an API server leaves it: another order would be another status.
    """
    conditions = ConditionSet(previous, now=now, generation=generation)
    conditions.set("Paused", "True" if paused else "False", "Paused" if paused else "NotPaused")
    conditions.set(kind, "True", *why)
    conditions.set("Ready", "False", *why)
    kinds = {condition.type for condition in previous}
    kept = [conditions.get(condition.type) or condition for condition in previous]
    return [*kept, *(condition for condition in conditions.build() if condition.type not in kinds)]


def compute_transitions(before: Sequence[Condition], after: Sequence[Condition]) -> list[Condition]:
    """Conditions of `after` that are new or whose status or reason differs: what deserves an event."""
    old = {condition.type: condition for condition in before}
    changed = []
    for condition in after:
        previous = old.get(condition.type)
        if previous is None or (previous.status, previous.reason) != (condition.status, condition.reason):
            changed.append(condition)
    return changed
