"""The NestedMachine's status, computed from what the phases came to. Pure; runs after every attempt."""

from __future__ import annotations

from capn import names
from capn.api.conditions import ConditionSet, MachineCondition, find, is_true, overlay
from capn.api.machine import Address, BootstrapStatus, LeafCertificates, NestedMachineStatus, NodeReference
from capn.build.leaf_expiry import read_leaf_certificates
from capn.build.report import ReportState
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Outcome, Progress, Wait, describe
from capn.errors import TerminalError, TransientError

PHASED = (
    MachineCondition.BOOTSTRAP_DATA_READY,
    MachineCondition.INFRASTRUCTURE_READY,
    MachineCondition.BOOTSTRAP_SUCCEEDED,
    MachineCondition.NODE_HEALTHY,
    MachineCondition.NODE_CONFIGURED,
)
# Of a machine that a child claims: its node is the child's to look at.
CLAIMED = PHASED[:-2]
_OF_NODE = PHASED[-2:]
_PAUSED = ("Paused", "the cluster's spec.paused is true: nothing is changed")
DONE_REASON = {
    MachineCondition.BOOTSTRAP_DATA_READY: "Available",
    MachineCondition.INFRASTRUCTURE_READY: "MachineRunning",
    MachineCondition.BOOTSTRAP_SUCCEEDED: "KubeadmDone",
    MachineCondition.NODE_HEALTHY: "NodeReady",
    MachineCondition.NODE_CONFIGURED: "AsSpecified",
}


def compute_status(scope: MachineScope, progress: Progress, *, now: str) -> NestedMachineStatus:
    """The status of a machine that is neither paused nor being deleted."""
    previous, generation = scope.machine.status, scope.machine.metadata.generation
    conditions = ConditionSet(previous.conditions, now=now, generation=generation)
    kinds = CLAIMED if scope.claimed else PHASED
    for kind in kinds:
        _set_phased(conditions, kind, scope, progress)
    _set_ready(conditions, kinds)
    starting = _set_starting(conditions, scope)
    error = progress.error
    failed = isinstance(error, TerminalError)
    return NestedMachineStatus(
        observed_generation=generation,
        phase="Starting" if starting and not failed else _phase(conditions, failed=failed),
        provider_id=scope.provider_id if scope.observed is not None else previous.provider_id,
        addresses=_addresses(scope),
        node_ref=_node_ref(scope),
        bootstrap=_bootstrap(scope),
        certificates=_certificates(scope),
        failure_reason=error.reason if failed and error is not None else None,
        failure_message=str(error)[:4096] if failed else None,
        conditions=conditions.build(),
    )


def _set_starting(conditions: ConditionSet, scope: MachineScope) -> bool:
    """Say of a machine that was off that it comes back, until it is Ready; of others the condition says nothing.

    Not False: from False on a guest's time to shut down is counted.
    """
    if not scope.was_switched_off or conditions.is_true(MachineCondition.READY):
        return False
    conditions.set(MachineCondition.POWERED_OFF, "Unknown", "PoweringOn", "the VM was off and is being started")
    return True


def compute_paused_status(scope: MachineScope, *, now: str) -> NestedMachineStatus:
    """The previous status, with Paused set and nothing else changed."""
    return _overlay(scope, MachineCondition.PAUSED, _PAUSED, now=now, paused=True)


def compute_deleting_status(scope: MachineScope, outcome: Outcome, *, now: str) -> NestedMachineStatus:
    """The previous status, with what deletion is waiting for; a pause ends as if deletion were asked for then."""
    why = describe(outcome, done=("Deleting", "deletion has begun"))
    previous = scope.machine.status
    begun = find(previous.conditions, MachineCondition.DELETING)
    if begun is not None and begun.reason == "Paused" and why[0] != "Paused":
        kept = [condition for condition in previous.conditions if condition is not begun]
        previous = previous.model_copy(update={"conditions": kept})
    paused = scope.cluster is not None and scope.cluster.spec.paused
    return _overlay(scope, MachineCondition.DELETING, why, now=now, paused=paused, previous=previous)


def _overlay(  # noqa: PLR0913 - what a condition is made of
    scope: MachineScope,
    kind: MachineCondition,
    why: tuple[str, str],
    *,
    now: str,
    paused: bool,
    previous: NestedMachineStatus | None = None,
) -> NestedMachineStatus:
    previous, generation = previous or scope.machine.status, scope.machine.metadata.generation
    conditions = overlay(previous.conditions, kind, why, now=now, generation=generation, paused=paused)
    return previous.model_copy(
        update={"observed_generation": generation, "phase": kind.value, "conditions": conditions}
    )


def _set_phased(conditions: ConditionSet, kind: MachineCondition, scope: MachineScope, progress: Progress) -> None:
    if kind not in progress.outcomes:
        if is_true(scope.machine.status.conditions, kind) and kind is not MachineCondition.NODE_HEALTHY:
            conditions.set(kind, "True", DONE_REASON[kind])
        else:
            conditions.set(kind, "Unknown", "Waiting", f"waiting for {progress.stopped_at or 'earlier steps'}")
        return
    outcome = progress.outcomes[kind]
    if outcome is None:
        conditions.set(kind, "True", DONE_REASON[kind])
    elif isinstance(outcome, Wait):
        conditions.set(kind, "False", outcome.reason, outcome.message)
    else:
        silent = kind in _OF_NODE and isinstance(outcome.error, TransientError)
        conditions.set(kind, "Unknown" if silent else "False", outcome.error.reason, str(outcome.error))


def _set_ready(conditions: ConditionSet, kinds: tuple[MachineCondition, ...]) -> None:
    conditions.set(MachineCondition.PAUSED, "False", "NotPaused")
    lacking = next((kind for kind in kinds if not conditions.is_true(kind)), None)
    if lacking is None:
        conditions.set(MachineCondition.READY, "True", "MachineReady")
        return
    why = conditions.get(lacking)
    reason, message = (why.reason, why.message) if why is not None else ("Waiting", "")
    conditions.set(MachineCondition.READY, "False", reason, f"{lacking}: {message}")


def _phase(conditions: ConditionSet, *, failed: bool) -> str:
    if failed:
        return "Failed"
    if conditions.is_true(MachineCondition.READY):
        return "Running"
    if conditions.is_true(MachineCondition.INFRASTRUCTURE_READY):
        return "Bootstrapping"
    return "Provisioning" if conditions.is_true(MachineCondition.BOOTSTRAP_DATA_READY) else "Pending"


def _addresses(scope: MachineScope) -> list[Address]:
    if scope.observed is None:
        return scope.machine.status.addresses
    return [
        Address(type="Hostname", address=scope.name),
        *(Address(type="InternalIP", address=address) for address in scope.observed.addresses),
    ]


def _node_ref(scope: MachineScope) -> NodeReference | None:
    if scope.node is None:
        return scope.machine.status.node_ref
    return NodeReference(name=scope.name, uid=str(scope.node["metadata"].get("uid", ""))[:64])


def _certificates(scope: MachineScope) -> LeafCertificates | None:
    """What the guest said on its node; while nothing can be read, what it said last."""
    if scope.node is None or scope.machine.spec.role != names.ROLE_CONTROL_PLANE:
        return scope.machine.status.certificates
    return read_leaf_certificates(scope.node) or scope.machine.status.certificates


def _bootstrap(scope: MachineScope) -> BootstrapStatus | None:
    report = scope.report
    if report is None:
        return scope.machine.status.bootstrap
    failed = report.state is ReportState.FAILED
    return BootstrapStatus(
        stage=report.stage, failed=True if failed else None, log_tail=report.tail if failed and report.tail else None
    )
