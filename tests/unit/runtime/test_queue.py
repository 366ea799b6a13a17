"""The work queue: its invariants in any order of calls (a model), and each of them by name."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from capn.runtime.metrics import Metrics
from capn.runtime.queue import QueueClosedError, WorkQueue
from tests.harness.virtual_time import VirtualTime, settle

KEYS = st.sampled_from(["a", "b", "c"])


class QueueModel(RuleBasedStateMachine):
    """Every change must be followed by a `get` that begins after it."""

    def __init__(self) -> None:
        super().__init__()
        self.time = VirtualTime()
        self.queue = WorkQueue[str](timer=self.time, rng=random.Random(1))
        self.waiting: list[str] = []
        self.working: list[str] = []
        self.again: set[str] = set()
        self.due: dict[str, float] = {}

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self._expect(key)

    @rule(key=KEYS, delay=st.sampled_from([0.5, 1.0, 7.0]))
    def add_after(self, key: str, delay: float) -> None:
        self.queue.add_after(key, delay)
        self.due[key] = min(self.time.time() + delay, self.due.get(key, float("inf")))

    @rule(seconds=st.sampled_from([0.25, 1.0, 10.0]))
    def advance(self, seconds: float) -> None:
        now = self.time.time() + seconds
        for key, due in sorted(self.due.items(), key=lambda item: item[1]):
            if due <= now:
                del self.due[key]
                self._expect(key)
        self.time.advance(seconds)

    @precondition(lambda self: self.waiting)
    @rule()
    def get(self) -> None:
        key = asyncio.run(self.queue.get())
        assert key in self.waiting
        assert key not in self.working
        self.waiting.remove(key)
        self.working.append(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.working))
        self.working.remove(key)
        self.queue.done(key)
        if key in self.again:
            self.again.discard(key)
            self.waiting.append(key)

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.waiting) == len(set(self.waiting))
        assert self.queue.delayed == len(self.due)
        assert self.queue.idle == (not self.waiting and not self.working)

    def _expect(self, key: str) -> None:
        if key in self.working:
            self.again.add(key)
        elif key not in self.waiting:
            self.waiting.append(key)


QueueModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueModel = QueueModel.TestCase


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def queue(time: VirtualTime) -> WorkQueue[str]:
    return WorkQueue[str]("q", timer=time, rng=random.Random(1))


async def test_first_in_first_out(queue: WorkQueue[str]) -> None:
    for key in ("b", "a", "c", "a"):
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == ["b", "a", "c"]


async def test_a_key_added_while_it_is_worked_on_comes_again(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.idle


async def test_get_waits(queue: WorkQueue[str]) -> None:
    waiting = asyncio.create_task(queue.get())
    await settle()
    assert not waiting.done()
    queue.add("a")
    assert await waiting == "a"


async def test_a_cancelled_getter_leaves_its_key_to_another(queue: WorkQueue[str]) -> None:
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await settle()
    queue.add("a")
    first.cancel()  # after the wake-up, before it ran
    assert await asyncio.wait_for(second, 1) == "a"
    assert first.cancelled() or first.done()


async def test_delay(queue: WorkQueue[str], time: VirtualTime) -> None:
    queue.add_after("late", 10)
    queue.add_after("soon", 1)
    queue.add_after("late", 5)  # the earlier counts
    queue.add_after("soon", 3)
    time.advance(1)
    assert len(queue) == 1
    time.advance(3.9)
    assert len(queue) == 1
    time.advance(0.2)
    assert [await queue.get(), await queue.get()] == ["soon", "late"]
    time.advance(60)
    assert len(queue) == 0


def test_no_delay_is_now(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0)
    assert len(queue) == 1


def test_backoff_doubles_up_to_its_limit_and_is_forgotten(queue: WorkQueue[str]) -> None:
    delays = [queue.add_rate_limited("a") for _ in range(20)]
    for index, delay in enumerate(delays):
        assert 0.8 * min(0.2 * 2**index, 300) <= delay <= min(0.2 * 2**index, 300)
    assert queue.failures("a") == 20
    assert queue.add_rate_limited("b") <= 0.2
    queue.forget("a")
    assert queue.failures("a") == 0
    assert queue.add_rate_limited("a") <= 0.2


def test_jitter_spreads(time: VirtualTime) -> None:
    queues = [WorkQueue[str](timer=time, rng=random.Random(seed)) for seed in range(20)]
    assert len({queue.add_rate_limited("a") for queue in queues}) == 20


async def test_close(queue: WorkQueue[str], time: VirtualTime) -> None:
    queue.add("a")
    await queue.get()
    waiting = asyncio.create_task(queue.get())
    await settle()
    queue.add_after("b", 1)
    queue.close()
    with pytest.raises(QueueClosedError):
        await waiting
    time.advance(5)
    queue.add("c")
    queue.done("a")
    assert len(queue) == 0
    with pytest.raises(QueueClosedError):
        await queue.get()


async def test_metrics(time: VirtualTime) -> None:
    metrics = Metrics(CollectorRegistry())
    queue = WorkQueue[str]("q", timer=time, metrics=metrics)
    queue.add("a")
    queue.add("b")
    assert metrics.registry.get_sample_value("workqueue_depth", {"name": "q"}) == 2
    time.advance(2)
    await queue.get()
    time.advance(3)
    queue.done("a")
    queue.add_rate_limited("a")
    values = {
        "workqueue_depth": 1, "workqueue_adds_total": 2, "workqueue_retries_total": 1,
        "workqueue_queue_duration_seconds_sum": 2, "workqueue_work_duration_seconds_sum": 3,
    }  # fmt: skip
    for name, value in values.items():
        assert metrics.registry.get_sample_value(name, {"name": "q"}) == value, name


async def test_the_loop_is_the_default_timer() -> None:
    queue = WorkQueue[str]()
    queue.add_after("a", 0.01)
    assert await asyncio.wait_for(queue.get(), 5) == "a"
