"""Work beside the reconciles: quick work is done at once, slow work is fetched later, nothing is left of either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from capn.controllers.chores import Chores
from capn.errors import TransientError
from capn.providers.base import ClusterRef

ONE, TWO = (ClusterRef("team", name, f"uid-{name}") for name in ("one", "two"))


@dataclass
class Slow:
    """Work that ends when it is told to, and notes how it went."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0
    cancelled: int = 0

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "done"


@dataclass
class Rig:
    """Chores, and who was woken."""

    chores: Chores
    woken: list[ClusterRef]
    came: asyncio.Event

    async def poll(self, ref: ClusterRef, work: Callable[[], Coroutine[Any, Any, str]]) -> asyncio.Task[str] | None:
        return await self.chores.poll(ref, "copy", work)

    async def ends(self, slow: Slow) -> None:
        """Let it end, and wait until its cluster is woken."""
        slow.go.set()
        async with asyncio.timeout(5):
            await self.came.wait()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    woken: list[ClusterRef] = []
    came = asyncio.Event()

    def wake(ref: ClusterRef) -> None:
        woken.append(ref)
        came.set()

    rig = Rig(Chores(wake, limit=1, patience_s=0.01, keep_s=0.05), woken, came)
    yield rig
    await rig.chores.close()


async def test_quick_work_is_done_in_the_first_call_and_wakes_nobody(rig: Rig) -> None:
    async def quick() -> str:
        return "done"

    task = await rig.poll(ONE, quick)
    assert task is not None
    assert task.result() == "done"
    await asyncio.sleep(0)
    assert rig.woken == []
    assert not rig.chores.is_known(ONE, "copy")


async def test_slow_work_goes_on_once_and_is_handed_over_once(rig: Rig) -> None:
    slow = Slow()
    assert await rig.poll(ONE, slow) is None
    assert await rig.poll(ONE, slow) is None
    assert rig.chores.is_known(ONE, "copy")
    await rig.ends(slow)
    assert rig.woken == [ONE]
    task = await rig.poll(ONE, slow)
    assert task is not None
    assert task.result() == "done"
    assert slow.begun == 1
    assert await rig.poll(ONE, slow) is not None
    assert slow.begun == 2


async def test_what_the_work_raises_comes_to_who_fetches_it(rig: Rig) -> None:
    slow = Slow()

    async def fail() -> str:
        await slow()
        raise TransientError("no room")

    assert await rig.poll(ONE, fail) is None
    await rig.ends(slow)
    task = await rig.poll(ONE, fail)
    assert task is not None
    with pytest.raises(TransientError, match="no room"):
        task.result()


async def test_only_so_many_of_a_kind_at_once_and_other_kinds_beside(rig: Rig) -> None:
    first, second, other = Slow(), Slow(), Slow()
    await rig.poll(ONE, first)
    await rig.poll(TWO, second)
    await rig.chores.poll(TWO, "another kind", other)
    assert (first.begun, second.begun, other.begun) == (1, 0, 1)
    await rig.ends(first)
    second.go.set()
    task = None
    async with asyncio.timeout(5):
        while task is None:
            await asyncio.sleep(0.01)
            task = await rig.poll(TWO, second)
    assert task.result() == "done"


async def test_a_cluster_that_is_gone_has_its_work_ended_and_is_not_woken(rig: Rig) -> None:
    gone, stays = Slow(), Slow()
    await rig.poll(ONE, gone)
    await rig.chores.poll(TWO, "another kind", stays)
    rig.chores.forget(ONE.uid)
    await asyncio.sleep(0.02)
    assert (gone.cancelled, stays.cancelled) == (1, 0)
    assert rig.woken == []
    assert not rig.chores.is_known(ONE, "copy")


async def test_what_nobody_fetches_is_dropped(rig: Rig) -> None:
    slow = Slow()
    await rig.poll(ONE, slow)
    await rig.ends(slow)
    async with asyncio.timeout(5):
        while rig.chores.is_known(ONE, "copy"):
            await asyncio.sleep(0.01)
    await rig.poll(ONE, slow)
    assert slow.begun == 2


async def test_what_ends_late_says_nothing_of_its_successor(rig: Rig) -> None:
    """Forgotten, it still tidies up, while the same work was begun anew."""
    tidy, second = asyncio.Event(), Slow()

    async def first() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await tidy.wait()
        return ""

    await rig.poll(ONE, first)
    rig.chores.forget(ONE.uid)
    rig.chores._limit = 2
    rig.chores._turns.clear()
    await rig.poll(ONE, second)
    tidy.set()
    await asyncio.sleep(0.1)  # longer than what is kept
    assert rig.woken == []
    assert second.cancelled == 0
    assert rig.chores.is_known(ONE, "copy")


async def test_close_waits_until_all_has_ended(rig: Rig) -> None:
    slow = Slow()
    await rig.poll(ONE, slow)
    await rig.chores.close()
    assert slow.cancelled == 1
    assert rig.woken == []
