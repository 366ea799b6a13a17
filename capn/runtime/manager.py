"""Manager: starts everything in order, ends everything in order.

Role: probes first, then informers, then (once they are synced) the lease, then the controllers. SIGTERM (`stop`): no
new reconciles, the running ones may finish, the lease is released. Any part that fails ends the whole with its error,
so that a supervisor starts it afresh. Must not: build the parts (the composition root does) or handle signals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from capn.errors import TerminalError
from capn.runtime.controller import Controller
from capn.runtime.health import HealthServer
from capn.runtime.informer import Informer
from capn.runtime.lease import LeaderElector

Background = Callable[[], Coroutine[Any, Any, None]]
"""Something that runs until it is cancelled."""

STOP_LIMIT_S = 20.0
# The API server sends bookmarks about every minute: so old a cache is no base for decisions any more.
STALE_S = 300.0

_log = structlog.get_logger(__name__)


@dataclass(kw_only=True)
class Manager:
    """All parts of a controller process. `always` run from the start, `leading` only under the lease."""

    informers: Sequence[Informer]
    controllers: Sequence[Controller]
    health: HealthServer | None = None
    elector: LeaderElector | None = None
    always: Sequence[Background] = ()
    leading: Sequence[Background] = ()
    stop_limit_s: float = STOP_LIMIT_S
    _led: bool = field(default=False, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set (returns) or a part fails (raises; LeaseLostError when the lease is lost)."""
        if self.health is None:
            await self._run(stop)
            return
        self.health.ready["informers"] = self._check_informers
        async with self.health:
            await self._run(stop)

    async def _run(self, stop: asyncio.Event) -> None:
        support = [_start(f"informer {part.resource.plural}", part.run()) for part in self.informers]
        support += [_start(f"background {number}", run()) for number, run in enumerate(self.always)]
        work = _start("work", self._work(stop))
        giving_up = _start("stop", self._give_up_waiting(stop, work))
        try:
            await _first_end([work, *support])
        finally:
            await _cancel([giving_up])
            await _cancel([work])
            await _cancel(support)
        if not work.cancelled() and work.exception() is None:
            _log.info("stopped")

    async def _work(self, stop: asyncio.Event) -> None:
        for informer in self.informers:
            await informer.wait_synced()
        _log.info("caches are synced")
        if self.elector is None:
            await self._lead(stop)
        else:
            await self.elector.run(lambda: self._lead(stop))

    async def _give_up_waiting(self, stop: asyncio.Event, work: asyncio.Task[None]) -> None:
        """End the wait for caches or lease when told to stop; once leading, `_lead` itself stops in order."""
        await stop.wait()
        if not self._led:
            work.cancel()

    async def _lead(self, stop: asyncio.Event) -> None:
        self._led = True
        controllers = [_start(f"controller {part.name}", part.run()) for part in self.controllers]
        others = [_start(f"leading {number}", run()) for number, run in enumerate(self.leading)]
        stopping = _start("stopping", _wait(stop))
        try:
            await _first_end([stopping, *controllers, *others])
            _log.info("stopping: running reconciles may finish", limit_s=self.stop_limit_s)
            await self._drain(controllers)
        finally:
            await _cancel([stopping, *controllers, *others])

    async def _drain(self, controllers: Sequence[asyncio.Task[None]]) -> None:
        for controller in self.controllers:
            controller.stop()
        if not controllers:
            return
        _, pending = await asyncio.wait(controllers, timeout=self.stop_limit_s)
        if pending:
            _log.warning("reconciles cut off", controllers=[task.get_name() for task in pending])

    def _check_informers(self) -> str | None:
        for informer in self.informers:
            name = informer.resource.plural
            age_s = informer.age_s()
            if not informer.synced or age_s is None:
                return f"{name} not listed yet"
            if age_s > STALE_S:
                return f"no word of {name} for more than {STALE_S:g} s"
        return None


def _start(name: str, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(run, name=name)


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _first_end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the first of `tasks`, which is the one that may end; raise the error of any that ended with one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task in done and not task.cancelled() and (error := task.exception()) is not None:
            raise _single(error)
    if tasks[0] not in done:
        raise TerminalError(f"{next(iter(done)).get_name()} ended by itself; this is a bug of capn", reason="Bug")


def _single(error: BaseException) -> BaseException:
    """The one error inside a task group's group of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel and await, whatever they end with."""
    waited: list[Awaitable[None]] = []
    for task in tasks:
        task.cancel()
        waited.append(task)
    await asyncio.gather(*waited, return_exceptions=True)
