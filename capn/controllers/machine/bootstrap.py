"""Phase BootstrapSucceeded: what the guest says of its own bootstrap, over its console.

Success and failure both come from the guest's report; a failure is explained and named a person's to mend.
Must not: need a route into the VM.
"""

from __future__ import annotations

from capn.build.diagnosis import diagnose
from capn.build.report import ReportState
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import TerminalError

# The guest wakes us; this look is for the token's renewal and the deadline.
POLL_S = 60.0


async def reconcile_bootstrap(scope: MachineScope) -> Wait | None:
    """Done when the guest says so; failed when it says that or when its time is over."""
    if scope.bootstrapped:
        return None
    scope.report = report = scope.deps.consoles.latest(scope.ref.uid)
    if report is not None and report.state is ReportState.SUCCEEDED:
        return None
    if report is not None and report.state is ReportState.FAILED:
        diagnosis = diagnose(report)
        raise TerminalError(diagnosis.message, reason=diagnosis.reason)
    stage = report.stage if report is not None else None
    left_s = (scope.deadline() - scope.deps.now()).total_seconds()
    if left_s <= 0:
        raise TerminalError(
            f"the guest has not finished in {scope.deps.bootstrap_timeout_s:.0f} s; it last reported"
            f" {stage or 'nothing at all'}: look at its console, then delete this NestedMachine to try again",
            reason="BootstrapTimedOut",
        )
    if stage is None:
        return Wait("WaitingForGuest", "the VM runs; the guest has said nothing yet", min(POLL_S, left_s))
    return Wait("Bootstrapping", f"the guest is at stage {stage}", min(POLL_S, left_s))
