"""The user's side of a run: creates NestedClusters, changes them, and sees by a watch when they are answered.

Role: load and stop-watch, the same for every contestant. Inputs: a bare client; outputs: times in seconds of the
monotonic clock. Must not: poll (a poll would cost the API server what is being measured).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle

import msgspec

from bench.api import MERGE_PATCH, Api
from bench.job import NAMESPACE, build_manifest, build_pool
from capn.api.resources import NESTED_CLUSTER
from capn.errors import ApiStatusError
from capn.kube.paths import build_path

_CREATORS = 8
# Changes under way at once. An API server that is slower than the wanted rate shows as a lower rate, not as timeouts.
_CHANGERS = 64


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct, rename="camel"):
    observed_generation: int = 0
    conditions: list[_Condition] = []


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    generation: int = 0
    resource_version: str = ""


class _Cluster(msgspec.Struct):
    metadata: _Meta
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct):
    type: str
    object: _Cluster


_DECODER = msgspec.json.Decoder(_Event)


@dataclass(slots=True)
class Observer:
    """What the watch has shown: which clusters are Ready, and how long each generation waited for its status."""

    ready: set[str] = field(default_factory=set)
    latencies: list[float] = field(default_factory=list)
    last_ready: float = 0.0
    _pending: dict[str, dict[int, float]] = field(default_factory=dict)
    _generation: dict[str, int] = field(default_factory=dict)
    _failure: BaseException | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, line: bytes, now: float) -> None:
        """Take in one watch event."""
        cluster = _DECODER.decode(line).object
        meta, status = cluster.metadata, cluster.status
        if meta.name not in self.ready and any(c.type == "Ready" and c.status == "True" for c in status.conditions):
            self.ready.add(meta.name)
            self.last_ready = now
        if meta.generation > self._generation.get(meta.name, 0):
            self._generation[meta.name] = meta.generation
            self._pending.setdefault(meta.name, {})[meta.generation] = now
        waiting = self._pending.get(meta.name, {})
        for generation in [number for number in waiting if number <= status.observed_generation]:
            self.latencies.append(now - waiting.pop(generation))
        self._changed.set()

    @property
    def unanswered(self) -> int:
        """Generations that no status has answered yet."""
        return sum(len(waiting) for waiting in self._pending.values())

    def forget(self) -> None:
        """Begin a new measurement of latencies."""
        self.latencies.clear()
        self._pending.clear()

    def fail(self, error: BaseException) -> None:
        """The watch broke: whoever waits is told so instead of waiting in vain."""
        self._failure = error
        self._changed.set()

    async def until(self, reached: Callable[[], bool], *, limit_s: float) -> bool:
        """Wait until `reached()`; False when the time is over. Raises what broke the watch."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not reached():
                    if self._failure is not None:
                        raise self._failure
                    self._changed.clear()
                    await self._changed.wait()
        return reached()


@asynccontextmanager
async def observe(api: Api) -> AsyncIterator[Observer]:
    """An observer that watches all NestedClusters for the length of a `with` block."""
    observer = Observer()

    async def follow() -> None:
        try:
            while True:  # what is shown again after a break changes nothing
                async for line in api.watch(NESTED_CLUSTER):
                    observer.see(line, time.monotonic())
        except Exception as error:  # noqa: BLE001 - raised again in `until`
            observer.fail(error)

    task = asyncio.create_task(follow())
    try:
        yield observer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def create_clusters(api: Api, names: Sequence[str]) -> float:
    """Create them, a few at a time, in order; the time of the first request."""
    queue = list(reversed(names))

    async def work() -> None:
        while queue:
            await api.create(NESTED_CLUSTER, build_manifest(queue.pop()))

    begun = time.monotonic()
    await asyncio.gather(*(work() for _ in range(_CREATORS)))
    return begun


@dataclass(frozen=True, slots=True)
class Load:
    """What a load came to: changes a second that the API server took, and changes that it refused."""

    rate: float
    refused: int


class Changer:
    """Changes specs, one cluster after the other; each change is a real one, so each makes a new generation."""

    def __init__(self, api: Api, names: Sequence[str]) -> None:
        self._api = api
        self._slots = asyncio.Semaphore(_CHANGERS)
        self._names = cycle(names)
        self._numbers = count()

    async def run(self, *, rate: float, seconds: float) -> Load:
        """`rate` changes a second for so long, answered or not; fewer when the API server takes no more."""
        begun = time.monotonic()
        running: list[asyncio.Task[bool]] = []
        while (due := len(running) / rate) < seconds and time.monotonic() - begun < seconds:
            await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
            await self._slots.acquire()
            running.append(asyncio.create_task(self._change(next(self._names), next(self._numbers))))
        taken = await asyncio.gather(*running)
        return Load(rate=sum(taken) / (time.monotonic() - begun), refused=len(taken) - sum(taken))

    async def _change(self, name: str, number: int) -> bool:
        """Whether the API server took it. The pool's rollout.maxSurge: always a new value, never more work."""
        path = build_path(NESTED_CLUSTER, namespace=NAMESPACE, name=name)
        try:
            await self._api.call("PATCH", path, {"spec": {"workers": [build_pool(number)]}}, content_type=MERGE_PATCH)
        except (ApiStatusError, TimeoutError):
            return False
        finally:
            self._slots.release()
        return True
