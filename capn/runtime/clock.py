"""Time as the runtime sees it; tests bring their own.

Role: the one seam for clocks, so that backoff and leases run in virtual time. Must not: be asked for by pure code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    """A monotonic clock that can call back. An asyncio event loop is one."""

    def time(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def call_at(self, when: float, callback: Callable[[], object]) -> TimerHandle:
        """Call back once at `when`."""
        ...


class TimerHandle(Protocol):
    """A pending call."""

    def cancel(self) -> None:
        """Do not call any more."""
        ...


class LoopTimer:
    """The running event loop, found at each use so that objects can be built before the loop runs."""

    def time(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[[], object]) -> TimerHandle:
        """As the loop's own."""
        return asyncio.get_running_loop().call_at(when, callback)


def boot_seconds() -> float:
    """A monotonic clock that goes on while the machine sleeps, where there is one: a lease expires then too."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
