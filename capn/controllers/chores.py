"""Work that takes minutes, beside the reconciles that asked for it.

Role: a snapshot of gigabytes must not keep a worker of the queue, nor its cluster from being healed or deleted. A
reconcile asks again and again by `poll`; quick work is done within the first call, and when slow work ends, its cluster
is woken to fetch what came of it. In memory only: work of a controller that stops is ended, and begun anew by the next.
Must not: know what the work is, or run more of one kind at once than `limit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog

from capn.providers.base import ClusterRef

T = TypeVar("T")

# So long a reconcile stays for work that may be quick, so that no condition goes to and fro for it.
PATIENCE_S = 2.0
# What nobody fetches is out of date.
KEEP_S = 300.0
# Of each kind at once: a disk and a network are shared by all clusters.
LIMIT = 3

log = structlog.get_logger(__name__)


class Chores:
    """At most one piece of work of each kind (`name`) for each cluster."""

    def __init__(
        self,
        wake: Callable[[ClusterRef], None],
        *,
        limit: int = LIMIT,
        patience_s: float = PATIENCE_S,
        keep_s: float = KEEP_S,
    ) -> None:
        self._wake = wake
        self._limit = limit
        self._patience_s = patience_s
        self._keep_s = keep_s
        self._tasks: dict[tuple[str, str], asyncio.Task[Any]] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}

    def is_known(self, ref: ClusterRef, name: str) -> bool:
        """Whether such work of the cluster goes on, or has ended and was not fetched."""
        return (ref.uid, name) in self._tasks

    async def poll(
        self, ref: ClusterRef, name: str, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> asyncio.Task[T] | None:
        """Begin `work` unless it goes on already. The task when it has ended (`result()` gives or raises), else None.

        An ended task is handed over once; the next call begins anew.
        """
        key = (ref.uid, name)
        task: asyncio.Task[T] | None = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._run(name, work), name=f"{name} of {ref.name}")
            await asyncio.wait([task], timeout=self._patience_s)
            if not task.done():
                log.info("goes on beside", what=name, cluster=ref.name, namespace=ref.namespace)
                task.add_done_callback(partial(self._end, ref, name))
        if not task.done():
            return None
        if self._tasks.get(key) is task:
            del self._tasks[key]
        return task

    def forget(self, uid: str) -> None:
        """End the cluster's work: it is gone, or stands still."""
        for key in [key for key in self._tasks if key[0] == uid]:
            self._discard(self._tasks.pop(key))

    async def close(self) -> None:
        """End all work, and wait until it has ended."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turns.setdefault(name, asyncio.Semaphore(self._limit)):
            return await work()

    def _end(self, ref: ClusterRef, name: str, task: asyncio.Task[Any]) -> None:
        if self._tasks.get((ref.uid, name)) is not task:
            return  # forgotten, or fetched by a reconcile that came first
        self._wake(ref)
        asyncio.get_running_loop().call_later(self._keep_s, self._drop, (ref.uid, name), task)

    def _drop(self, key: tuple[str, str], task: asyncio.Task[Any]) -> None:
        if self._tasks.get(key) is task:
            self._discard(self._tasks.pop(key))

    @staticmethod
    def _discard(task: asyncio.Task[Any]) -> None:
        """End it; what it ended with before is looked at, so that asyncio does not complain of it."""
        if not task.cancel() and not task.cancelled():
            task.exception()
