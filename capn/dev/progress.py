"""How long work tells a person what it does: steps with details, timed.

Role: the Protocol that `capn.dev` reports to; `capn.cli.progress` draws it. Must not: print.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from capn.parts.source import Report


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one step took, in seconds."""

    title: str
    seconds: float


class Progress(Protocol):
    """Draws steps. `timings` grows by one with every step that ended well."""

    timings: list[Timing]

    def step(self, title: str) -> AbstractContextManager[Report]:
        """One step; what it yields takes lines of detail. An exception marks the step as failed and goes on up."""
        ...

    def line(self, text: str) -> None:
        """One line of text between steps."""
        ...


def format_elapsed(seconds: float) -> str:
    """Minutes and seconds, such as 2:05."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
