"""Phase BootstrapSucceeded: what the guest says of its own bootstrap, over its console.

Success and failure both come from the guest's report; a failure is explained and named a person's to mend.
Must not: need a route into the VM.
"""

from __future__ import annotations

from capn.api.resources import NESTED_MACHINE
from capn.build.diagnosis import describe_retry, diagnose
from capn.build.owners import build_subject
from capn.build.report import ReportState
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import TerminalError

# The guest wakes us; this look is for the token's renewal and the deadline.
POLL_S = 60.0
# A guest repeats its last word every few seconds; a reader that has listened so long has heard it.
PATIENCE_S = 15.0


async def reconcile_bootstrap(scope: MachineScope) -> Wait | None:
    """Done when the guest says so; failed when it says that or when its time is over."""
    if scope.bootstrapped:
        return None
    _tell_retry(scope)
    scope.report = report = scope.deps.consoles.latest(scope.ref.uid)
    if report is None:
        return _wait_for_word(scope)
    if report.state is ReportState.SUCCEEDED:
        return None
    if report.state is ReportState.FAILED:
        diagnosis = diagnose(report)
        raise TerminalError(diagnosis.message, reason=diagnosis.reason)
    return _wait(scope, "Bootstrapping", f"the guest is at stage {report.stage}", last=report.stage)


def _tell_retry(scope: MachineScope) -> None:
    """An event of an attempt that failed: what the guest says next covers it, and its log goes with the machine."""
    failed = scope.deps.consoles.take_retry(scope.ref.uid)
    if failed is not None:
        obj = build_subject(NESTED_MACHINE, scope.machine.metadata)
        scope.deps.recorder.event(obj, "Warning", "BootstrapRetried", describe_retry(failed))


def _wait_for_word(scope: MachineScope) -> Wait:
    """Nothing heard yet: a new VM, or a controller that has just started and keeps what its predecessor wrote."""
    status = scope.machine.status
    if scope.fresh_vm or status.bootstrap is None:
        return _wait(scope, "WaitingForGuest", "the VM runs; the guest has said nothing yet", last=None)
    if status.bootstrap.failed:
        raise TerminalError(status.failure_message or "", reason=status.failure_reason)
    stage = status.bootstrap.stage
    return _wait(scope, "Bootstrapping", f"the guest is at stage {stage}", last=stage)


def _wait(scope: MachineScope, reason: str, message: str, *, last: str | None) -> Wait:
    """Wait until the deadline; past it TerminalError, unless the console was opened only just now."""
    deadline = scope.deadline()
    left_s = POLL_S if deadline is None else (deadline - scope.deps.now()).total_seconds()
    if left_s <= 0:
        heard_s = scope.deps.consoles.listened_s(scope.ref.uid)
        if heard_s >= PATIENCE_S:
            raise TerminalError(
                f"the guest has not finished in {scope.deps.bootstrap_timeout_s:.0f} s; it last reported"
                f" {last or 'nothing at all'}: look at its console, then delete this NestedMachine to try again",
                reason="BootstrapTimedOut",
            )
        left_s = PATIENCE_S - heard_s
    return Wait(reason, message, min(POLL_S, max(left_s, 1.0)))
