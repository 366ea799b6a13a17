"""Ordered phases over a scope: the shape that both reconcilers share.

Role: runs phases until one waits or fails, and keeps what each said, so that status is computed from it afterwards.
Inputs: phases and a scope; output: `Progress`. Must not: write status or know what a phase does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from capn.errors import CapnError, PendingError

log = structlog.get_logger(__name__)

ScopeT = TypeVar("ScopeT")


@dataclass(frozen=True, slots=True)
class Wait:
    """The phase is not there yet: why, and when to look again if no watch or report tells (None: something will)."""

    reason: str
    message: str
    after_s: float | None = None
    blocks: bool = True  # False: later phases run all the same


@dataclass(frozen=True, slots=True)
class Failed:
    """The phase raised; the error's reason and message go into its condition, the error back to the queue."""

    error: CapnError


Outcome = Wait | Failed | None
"""None: done."""


@dataclass(frozen=True, slots=True)
class Phase(Generic[ScopeT]):
    """One step, named by the condition that it makes true."""

    condition: str
    run: Callable[[ScopeT], Awaitable[Wait | None]]


@dataclass(slots=True)
class Progress:
    """What each phase that ran came to; phases that did not run are absent."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    stopped_at: str | None = None

    @property
    def error(self) -> CapnError | None:
        """The error that stopped the run, if one did."""
        return next((outcome.error for outcome in self.outcomes.values() if isinstance(outcome, Failed)), None)

    @property
    def requeue_after_s(self) -> float | None:
        """The soonest time that a waiting phase asked for."""
        times = [
            outcome.after_s
            for outcome in self.outcomes.values()
            if isinstance(outcome, Wait) and outcome.after_s is not None
        ]
        return min(times, default=None)


async def run_phases(phases: Sequence[Phase[ScopeT]], scope: ScopeT) -> Progress:
    """Run in order; stop at the first that blocks or fails."""
    progress = Progress()
    for phase in phases:
        try:
            outcome: Outcome = await phase.run(scope)
        except PendingError as pending:
            outcome = Wait(pending.reason, str(pending), pending.after_s)
        except CapnError as error:
            outcome = Failed(error)
        except Exception as error:
            # A bug, or an answer that nobody foresaw: the status must say that this phase failed, not stay as it was.
            log.exception("phase failed unexpectedly", phase=phase.condition)
            message = f"unexpected {type(error).__name__}; the controller's log has the details"
            outcome = Failed(CapnError(message, reason="InternalError"))
        progress.outcomes[phase.condition] = outcome
        if isinstance(outcome, Failed) or (isinstance(outcome, Wait) and outcome.blocks):
            progress.stopped_at = phase.condition
            break
    return progress


def describe(outcome: Outcome, *, done: tuple[str, str]) -> tuple[str, str]:
    """Reason and message of an outcome; `done` is what stands for one that is neither a wait nor a failure."""
    if isinstance(outcome, Wait):
        return outcome.reason, outcome.message
    if isinstance(outcome, Failed):
        return outcome.error.reason, str(outcome.error)
    return done
