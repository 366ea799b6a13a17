"""A clock that tests move by hand: monotonic time, wall time, timers and sleeps."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class Handle:
    """A pending call."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualTime:
    """Serves as `capn.runtime.clock.Timer`, and gives `clock`, `now` and `sleep` for injection."""

    def __init__(self) -> None:
        self._time = 1000.0
        self._heap: list[tuple[float, int, Handle]] = []
        self._count = 0

    def time(self) -> float:
        return self._time

    clock = time

    def now(self) -> datetime:
        return START + timedelta(seconds=self._time - 1000.0)

    def call_at(self, when: float, callback: Callable[[], object]) -> Handle:
        handle = Handle(callback)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, handle))
        return handle

    async def sleep(self, seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not done.done():  # cancelled meanwhile
                done.set_result(None)

        self.call_at(self._time + seconds, wake)
        await done

    def advance(self, seconds: float) -> None:
        """Move on, with every call due on the way at its own time."""
        end = self._time + seconds
        while self._heap and self._heap[0][0] <= end:
            self._time, _, handle = heapq.heappop(self._heap)
            if handle.callback is not None:
                handle.callback()
        self._time = end

    async def run_for(self, seconds: float, step_s: float = 0.5) -> None:
        """Move on in steps, letting tasks run in between."""
        left = seconds
        while left > 0:
            await settle()
            self.advance(min(step_s, left))
            left -= step_s
        await settle()


async def settle(rounds: int = 30) -> None:
    """Let every task that can run do so (in-process clients yield a few times a call)."""
    for _ in range(rounds):
        await asyncio.sleep(0)
