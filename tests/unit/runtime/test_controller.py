"""The controller loop: what each outcome of a reconcile leads to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from prometheus_client import CollectorRegistry

from capn.errors import InvalidSpecError, UnreachableError
from capn.runtime.controller import Controller, Key
from capn.runtime.metrics import Metrics
from capn.runtime.queue import WorkQueue
from capn.runtime.result import Result
from tests.harness.virtual_time import VirtualTime, settle

A = Key("ns", "a")
B = Key("ns", "b")
Script = Callable[[Key], Awaitable[Result]]


class Reconciler:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Key] = []

    async def reconcile(self, key: Key) -> Result:
        self.seen.append(key)
        return await self.script(key)


class Bench:
    """A controller in virtual time."""

    def __init__(self, script: Script, workers: int = 2) -> None:
        self.time = VirtualTime()
        self.metrics = Metrics(CollectorRegistry())
        self.reconciler = Reconciler(script)
        self.queue = WorkQueue[Key]("c", timer=self.time, rng=random.Random(1))
        self.controller = Controller(
            "c", self.reconciler, queue=self.queue, workers=workers, metrics=self.metrics, clock=self.time.clock
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.controller.run())
        try:
            yield
        finally:
            self.controller.stop()
            await asyncio.wait_for(task, 5)

    def count(self, result: str) -> float | None:
        labels = {"controller": "c", "result": result}
        return self.metrics.registry.get_sample_value("controller_runtime_reconcile_total", labels)


async def test_done_is_not_looked_at_again() -> None:
    async def script(_: Key) -> Result:
        return Result.done()

    bench = Bench(script)
    async with bench.running():
        bench.queue.add(A)
        await bench.time.run_for(600, 60)
        assert bench.reconciler.seen == [A]
        assert bench.count("success") == 1


async def test_after_is_looked_at_again_then() -> None:
    async def script(_: Key) -> Result:
        return Result.after(30)

    bench = Bench(script)
    async with bench.running():
        bench.queue.add(A)
        await bench.time.run_for(29)
        assert len(bench.reconciler.seen) == 1
        await bench.time.run_for(2)
        assert len(bench.reconciler.seen) == 2


async def test_errors_back_off_until_success() -> None:
    fails = 5

    async def script(_: Key) -> Result:
        nonlocal fails
        fails -= 1
        if fails >= 0:
            raise UnreachableError("gone")
        return Result.done()

    bench = Bench(script)
    async with bench.running():
        bench.queue.add(A)
        await settle()
        assert bench.queue.failures(A) == 1
        await bench.time.run_for(0.1, 0.1)
        assert len(bench.reconciler.seen) == 1
        await bench.time.run_for(10)
        assert len(bench.reconciler.seen) == 6
        assert bench.queue.failures(A) == 0
        assert bench.count("error") == 5


async def test_a_terminal_error_is_looked_at_slowly() -> None:
    async def script(_: Key) -> Result:
        raise InvalidSpecError("spec.version", "no image; build one")

    bench = Bench(script)
    async with bench.running():
        bench.queue.add(A)
        await bench.time.run_for(59)
        assert len(bench.reconciler.seen) == 1
        await bench.time.run_for(2)
        assert len(bench.reconciler.seen) == 2
        assert bench.count("terminal") == 2
        bench.queue.add(A)  # the user changed it: at once
        await settle()
        assert len(bench.reconciler.seen) == 3


async def test_a_failing_key_does_not_stop_others() -> None:
    async def script(key: Key) -> Result:
        if key == A:
            raise ZeroDivisionError
        return Result.done()

    bench = Bench(script, workers=1)
    async with bench.running():
        for _ in range(3):
            bench.queue.add(A)
            bench.queue.add(B)
            await settle()
        assert bench.reconciler.seen.count(B) == 3


async def test_one_worker_a_key_and_bounded_concurrency() -> None:
    active: list[Key] = []
    worst = 0

    async def script(key: Key) -> Result:
        nonlocal worst
        assert key not in active
        active.append(key)
        worst = max(worst, len(active))
        await asyncio.sleep(0.001)
        active.remove(key)
        return Result.done()

    bench = Bench(script, workers=3)
    keys = [Key("ns", str(number)) for number in range(10)]
    async with bench.running():
        for _ in range(5):
            for key in keys:
                bench.queue.add(key)
            await asyncio.sleep(0.002)
        while not bench.queue.idle:
            await asyncio.sleep(0.001)
    assert worst == 3
    assert bench.count("error") is None


async def test_stop_lets_running_reconciles_finish() -> None:
    release = asyncio.Event()

    async def script(_: Key) -> Result:
        await release.wait()
        return Result.done()

    bench = Bench(script, workers=1)
    task = asyncio.create_task(bench.controller.run())
    bench.queue.add(A)
    bench.queue.add(B)
    await settle()
    bench.controller.stop()
    await settle()
    assert not task.done()
    release.set()
    await asyncio.wait_for(task, 5)
    assert bench.reconciler.seen == [A]


async def test_cancellation_reaches_reconciles_and_is_not_swallowed() -> None:
    cancelled = False

    async def script(_: Key) -> Result:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise
        return Result.done()

    bench = Bench(script)
    task = asyncio.create_task(bench.controller.run())
    bench.queue.add(A)
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled


async def test_lines_within_a_reconcile_carry_its_key_and_id() -> None:
    lines: list[dict[str, object]] = []

    async def script(key: Key) -> Result:
        lines.append(dict(structlog.contextvars.get_contextvars()))
        if key == A:
            await asyncio.sleep(0)
        return Result.done()

    bench = Bench(script)
    async with bench.running():
        bench.queue.add(A)
        bench.queue.add(B)
        await settle()
    assert [line["object"] for line in lines] == ["ns/a", "ns/b"]
    assert {line["controller"] for line in lines} == {"c"}
    assert len({line["reconcile"] for line in lines}) == 2
    assert structlog.contextvars.get_contextvars() == {}
