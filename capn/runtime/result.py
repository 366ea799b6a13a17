"""What a reconcile returns: done, or look again later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """`requeue_after_s` None means: nothing to do until something changes. An error is raised, never returned."""

    requeue_after_s: float | None = None

    @classmethod
    def done(cls) -> Result:
        """Converged as far as this key is concerned."""
        return cls()

    @classmethod
    def after(cls, seconds: float) -> Result:
        """Waiting for something that no watch tells of; look again after so many seconds."""
        return cls(requeue_after_s=seconds)
