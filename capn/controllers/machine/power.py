"""Phase PoweredOff of a machine that shall be off: the guest is asked to shut down; past its time the power is cut.

Whoever makes the machine says so by an annotation: its cluster, in the order that it chose, or the child that claimed
it. Nothing else happens to the machine meanwhile: no VM is started, no child asked, no token kept alive, no deadline
runs. Must not: need anything but the hypervisor.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from capn import names
from capn.api.conditions import ConditionSet, MachineCondition, Status, find
from capn.api.machine import NestedMachineStatus
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Failed, Outcome, Phase, Wait
from capn.errors import TerminalError

# The provider tells when the VM is off; this is for a guest that missed the power button because it was just booting.
POLL_S = 10.0
REASON_ON_ITS_WAY = "ShuttingDown"
REASON_OFF = "PoweredOff"
_OFF = (REASON_OFF, "the VM is off; its disk, addresses and certificates are kept")


async def reconcile_power_off(scope: MachineScope) -> Wait | None:
    """Done when the VM is off, or there is none."""
    scope.deps.consoles.forget(scope.ref.uid)
    left_s = compute_left_s(scope)
    forced = left_s <= 0 or scope.power_off == names.POWER_OFF_FORCED
    if await scope.provider.stop_machine(scope.ref, force=forced):
        return None
    if forced:
        return Wait(REASON_ON_ITS_WAY, "the guest did not shut down in time; its power is cut", POLL_S)
    return Wait(REASON_ON_ITS_WAY, "the guest was asked to shut down", min(POLL_S, max(left_s, 1.0)))


def compute_left_s(scope: MachineScope) -> float:
    """How long the guest may still take: it was first asked when the condition became False."""
    asked = find(scope.machine.status.conditions, MachineCondition.POWERED_OFF)
    limit = timedelta(seconds=scope.deps.shutdown_timeout_s)
    if asked is None or asked.status != "False":
        return limit.total_seconds()
    return (datetime.fromisoformat(asked.last_transition_time) + limit - scope.deps.now()).total_seconds()


PHASES: tuple[Phase[MachineScope], ...] = (Phase(MachineCondition.POWERED_OFF, reconcile_power_off),)


def compute_power_status(scope: MachineScope, outcome: Outcome, *, now: str) -> NestedMachineStatus:
    """The previous status, with what the power is; what is off is neither unhealthy nor failed."""
    previous, generation = scope.machine.status, scope.machine.metadata.generation
    conditions = ConditionSet(previous.conditions, now=now, generation=generation)
    status, reason, message = _describe(outcome)
    conditions.set(MachineCondition.POWERED_OFF, status, reason, message)
    conditions.set(MachineCondition.READY, "False", reason, message)
    conditions.set(MachineCondition.PAUSED, "False", "NotPaused")
    if outcome is None:
        quiet: tuple[tuple[MachineCondition, Status], ...] = (
            (MachineCondition.INFRASTRUCTURE_READY, "False"),
            (MachineCondition.NODE_HEALTHY, "Unknown"),
        )
        for kind, value in quiet:
            if find(previous.conditions, kind) is not None:
                conditions.set(kind, value, *_OFF)
    kept = [condition for condition in previous.conditions if conditions.get(condition.type) is None]
    update = {
        "observed_generation": generation,
        "phase": "Off" if outcome is None else "Stopping",
        "conditions": [*conditions.build(), *kept],
    }
    if isinstance(outcome, Failed) and isinstance(outcome.error, TerminalError):
        update |= {"phase": "Failed", "failure_reason": reason, "failure_message": message}
    return previous.model_copy(update=update)


def _describe(outcome: Outcome) -> tuple[Status, str, str]:
    """The guest's time begins with False; a hypervisor that gives no answer has not asked it yet."""
    if outcome is None:
        return "True", *_OFF
    if isinstance(outcome, Wait):
        return "False", outcome.reason, outcome.message
    refused = isinstance(outcome.error, TerminalError)
    return "False" if refused else "Unknown", outcome.error.reason, str(outcome.error)
