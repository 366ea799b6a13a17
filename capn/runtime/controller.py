"""The controller loop: takes keys from a queue, reconciles each, decides when to look again.

Role: the contract of a reconcile. Done: the key's failures are forgotten. `Result.after`: looked at again then. A
`TerminalError` needs a person: looked at again slowly. Any other error: backoff of its own. A failing key never stops
others. Must not: know kinds, or swallow cancellation.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog

from capn.errors import CapnError, TerminalError
from capn.runtime.metrics import Metrics
from capn.runtime.queue import QueueClosedError, WorkQueue
from capn.runtime.result import Result

TERMINAL_RETRY_S = 60.0

_log = structlog.get_logger(__name__)


class Key(NamedTuple):
    """Which object; the namespace is empty for cluster-scoped ones."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Reconciler(Protocol):
    """Brings one object a step nearer to its spec. May be called at any time, for any key, again."""

    async def reconcile(self, key: Key) -> Result:
        """One attempt. Raise errors of `capn.errors`; waiting is `Result.after`."""
        ...


class Controller:
    """`workers` reconciles at once, each key by one worker at a time."""

    def __init__(  # noqa: PLR0913 - the rest is for tests
        self,
        name: str,
        reconciler: Reconciler,
        *,
        queue: WorkQueue[Key] | None = None,
        workers: int = 8,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        # An empty queue is falsy, so no `or` here.
        self.queue = WorkQueue[Key](name, metrics=metrics) if queue is None else queue
        self._reconciler = reconciler
        self._workers = workers
        self._metrics = metrics
        self._clock = clock
        self._ids = itertools.count(1)

    def stop(self) -> None:
        """Begin no more reconciles; `run` returns when those that run have ended."""
        self.queue.close()

    async def run(self) -> None:
        """Work until `stop`; cancelled, the running reconciles are cancelled too."""
        if self._metrics:
            self._metrics.workers.labels(self.name).set(self._workers)
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._workers):
                tasks.create_task(self._work(), name=f"{self.name}-{number}")

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except QueueClosedError:
                return
            try:
                await self._reconcile(key)
            finally:
                self.queue.done(key)

    async def _reconcile(self, key: Key) -> None:
        began = self._clock()
        reconcile_id = f"{self.name}-{next(self._ids)}"
        with structlog.contextvars.bound_contextvars(controller=self.name, object=str(key), reconcile=reconcile_id):
            if self._metrics:
                self._metrics.active.labels(self.name).inc()
            outcome = "cancelled"
            try:
                outcome = self._settle(key, await self._reconciler.reconcile(key))
            except TerminalError as error:
                outcome = self._give_up(key, error)
            except Exception as error:  # noqa: BLE001 - a bug in one reconcile must not stop the others
                outcome = self._back_off(key, error)
            finally:
                self._measure(outcome, self._clock() - began)

    def _settle(self, key: Key, result: Result) -> str:
        self.queue.forget(key)
        _log.debug("reconciled", requeue_after_s=result.requeue_after_s)
        if result.requeue_after_s is None:
            return "success"
        self.queue.add_after(key, result.requeue_after_s)
        return "requeue_after"

    def _give_up(self, key: Key, error: TerminalError) -> str:
        # A condition says the same to the user; a change of the object comes by the watch.
        _log.warning("needs a person", reason=error.reason, error=str(error))
        self.queue.add_after(key, TERMINAL_RETRY_S)
        return "terminal"

    def _back_off(self, key: Key, error: Exception) -> str:
        delay_s = self.queue.add_rate_limited(key)
        expected = isinstance(error, CapnError)
        _log.log(
            30 if expected else 40,  # warning, or error with the traceback of a bug
            "reconcile failed",
            error=str(error) or type(error).__name__,
            retry_s=round(delay_s, 1),
            exc_info=None if expected else error,
        )
        return "error"

    def _measure(self, outcome: str, seconds: float) -> None:
        if not self._metrics:
            return
        self._metrics.active.labels(self.name).dec()
        self._metrics.reconciles.labels(self.name, outcome).inc()
        self._metrics.reconcile_seconds.labels(self.name).observe(seconds)
        if outcome in {"error", "terminal"}:
            self._metrics.errors.labels(self.name).inc()
        if outcome == "terminal":
            self._metrics.terminal.labels(self.name).inc()
