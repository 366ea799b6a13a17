"""Keyed work queue: what to reconcile next.

Role: turns many changes into few reconciles. Inputs are keys, now or later; output is one key at a time for each
worker. Must not: know what keys mean, or do work.

Invariants, held whatever the order of calls:
  1. A key waits at most once: adding it again while it waits changes nothing.
  2. A key is worked on by one worker at a time; added meanwhile, it waits again after `done`, so no change is lost.
  3. Keys are given out in the order in which they began to wait.
  4. A delayed key comes no earlier than asked; of two delays for one key the earlier counts.
  5. Failures of a key double its own delay (with jitter, up to a limit) until `forget`, and no other key's.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from capn.runtime.clock import LoopTimer, Timer, TimerHandle
from capn.runtime.metrics import Metrics

K = TypeVar("K", bound=Hashable)

BASE_S = 0.2
MAX_S = 300.0
_MAX_EXPONENT = 20


class QueueClosedError(Exception):
    """`get` on a closed queue: the worker ends. Not an error of capn's tree, it never leaves the controller."""


class WorkQueue(Generic[K]):
    """See the module's invariants. Not thread-safe: one event loop."""

    def __init__(  # noqa: PLR0913 - the rest is for tests
        self,
        name: str = "",
        *,
        timer: Timer | None = None,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
        base_s: float = BASE_S,
        max_s: float = MAX_S,
    ) -> None:
        self.name = name
        self._timer = timer or LoopTimer()
        self._metrics = metrics
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._base_s, self._max_s = base_s, max_s
        self._order: deque[K] = deque()
        self._waiting: dict[K, float] = {}  # key -> since when
        self._working: dict[K, float] = {}
        self._again: set[K] = set()  # added while worked on
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}  # the entry of the heap that counts
        self._sequence = 0
        self._alarm: tuple[float, TimerHandle] | None = None
        self._failures: dict[K, int] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """True when no key waits or is worked on (delayed ones do not count)."""
        return not self._waiting and not self._working

    @property
    def delayed(self) -> int:
        """How many keys wait for their time."""
        return len(self._due)

    def add(self, key: K) -> None:
        """Work on `key` as soon as a worker is free."""
        if self._closed or key in self._waiting:
            return
        if self._metrics:
            self._metrics.adds.labels(self.name).inc()
        if key in self._working:
            self._again.add(key)
            return
        self._enqueue(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Work on `key` in `delay_s` seconds, or at the earlier moment that it already waits for."""
        if self._closed:
            return
        if delay_s <= 0:
            self.add(key)
            return
        due = self._timer.time() + delay_s
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        self._set_alarm()

    def add_rate_limited(self, key: K) -> float:
        """Work on `key` after its backoff, which this call doubles; the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        longest: float = min(self._base_s * 2 ** min(failures, _MAX_EXPONENT), self._max_s)
        delay_s = longest * self._rng.uniform(0.8, 1.0)
        if self._metrics:
            self._metrics.retries.labels(self.name).inc()
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: K) -> None:
        """Let the next failure of `key` start from the shortest delay."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Failures of `key` in a row."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key, which the caller must give back by `done`. QueueClosedError once the queue is closed."""
        while not self._closed:
            if self._order:
                return self._take()
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                self._getters = deque(other for other in self._getters if other is not getter)
                if self._order:
                    self._wake()  # the wake-up that we swallow is another worker's
                raise
        raise QueueClosedError

    def done(self, key: K) -> None:
        """End the work on `key`."""
        began = self._working.pop(key)
        if self._metrics:
            self._metrics.work_seconds.labels(self.name).observe(self._timer.time() - began)
        if key in self._again:
            self._again.discard(key)
            if not self._closed:
                self._enqueue(key)

    def close(self) -> None:
        """Give out no more keys; those being worked on may be given back."""
        self._closed = True
        if self._alarm:
            self._alarm[1].cancel()
            self._alarm = None
        for getter in self._getters:
            if not getter.done():
                getter.set_result(None)
        self._getters.clear()

    def _enqueue(self, key: K) -> None:
        self._waiting[key] = self._timer.time()
        self._order.append(key)
        self._measure_depth()
        self._wake()

    def _take(self) -> K:
        key = self._order.popleft()
        since = self._waiting.pop(key)
        now = self._timer.time()
        self._working[key] = now
        if self._metrics:
            self._metrics.queue_seconds.labels(self.name).observe(now - since)
        self._measure_depth()
        return key

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _set_alarm(self) -> None:
        if not self._heap:
            return
        first = self._heap[0][0]
        if self._alarm and self._alarm[0] <= first:
            return
        if self._alarm:
            self._alarm[1].cancel()
        self._alarm = first, self._timer.call_at(first, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._timer.time()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:  # else an earlier entry has been served
                del self._due[key]
                self.add(key)
        self._set_alarm()

    def _measure_depth(self) -> None:
        if self._metrics:
            self._metrics.depth.labels(self.name).set(len(self._waiting))
