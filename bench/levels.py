"""B12: what a cluster costs its ancestors. `python -m bench levels` measures, judges and publishes it.

Role: real controllers and real `parent` providers, a level's controllers on the API of a cluster above; API servers,
hypervisor and guests are the simulated ones that the scenario tests use, all in this process. Outputs: counts of writes
by level, times from a leaf to the root, memory. Must not: compare seconds of one run with those of another.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from statistics import median

import msgspec

from capn.api.resources import NESTED_CLUSTER
from tests.harness.levels import Level, running_levels
from tests.harness.scenario import NAMESPACE_NAME, Scenario

_READS = frozenset({"get", "list", "watch"})
_REST_S = 5.0
_SPIN_S = 0.0005
_LIMIT_S = 3600.0
_KIB = 1024
_NESTING = {"maxDepth": 16}


class ChainCost(msgspec.Struct, frozen=True, kw_only=True):
    """One more cluster at `level`: writes at each level from the root (first) down to its own (last)."""

    level: int
    writes: list[int]


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """Clusters by level (first: the root's own), writes that making them took, and what came of them."""

    by_level: list[int]
    ready: int
    seconds: float
    root_writes_by_level: list[float]
    rest_seconds: float
    rest_writes: int
    rss_mib_before: float
    rss_mib: float
    leaf_to_root_ms: list[float]


class LevelResults(msgspec.Struct, frozen=True, kw_only=True):
    """All of B12."""

    date: str
    machine: str
    chain: list[ChainCost]
    tree: Tree


async def measure_chain(depth: int) -> list[ChainCost]:
    """Make one more cluster at each level of a settled chain, one after the other, and count."""
    costs = []
    async with running_levels(depth) as levels:
        for number, level in enumerate(levels, start=1):
            await _settle(levels)
            before = [_writes(one) for one in levels[:number]]
            await level.create("extra")
            await level.ready("extra")
            await _settle(levels)
            costs.append(
                ChainCost(
                    level=number,
                    writes=[_writes(one) - then for one, then in zip(levels, before, strict=False)],
                )
            )
    return costs


async def measure_tree(shape: Sequence[int], say: Callable[[str], None], *, samples: int = 10) -> Tree:
    """`shape` is how many clusters each level's clusters have; all but the last level's nest."""
    async with AsyncExitStack() as stack:
        before_mib, started = _rss_mib(), time.monotonic()
        root = Scenario()
        await root.start()
        stack.push_async_callback(_stop, root)
        levels: list[list[Scenario]] = [[root]]
        writes = []
        for depth, wide in enumerate(shape, start=1):
            then = _writes(root)
            last = depth == len(shape)
            await _fill_all(levels[-1], wide, last=last)
            made = [Level.over(upper, f"c{number}") for upper in levels[-1] for number in range(wide) if not last]
            if not last:
                below: list[Scenario] = [await level for level in made]
                for level in below:
                    stack.push_async_callback(_stop, level)
                levels.append(below)
            count = len(levels[depth - 1]) * wide
            writes.append((_writes(root) - then) / count)
            say(f" * level {depth}: {count} clusters Ready ({time.monotonic() - started:.0f} s)")
        everybody = [one for level in levels for one in level]
        await _settle(everybody)
        seconds = time.monotonic() - started
        then = sum(_writes(one) for one in everybody)
        await asyncio.sleep(_REST_S)
        rest_writes = sum(_writes(one) for one in everybody) - then
        ready = 0
        for one in everybody:
            ready += sum(
                _is_ready(item) for item in (await one.api.list(NESTED_CLUSTER, namespace=NAMESPACE_NAME)).items
            )
        rss = _rss_mib()
        latencies = [await _measure_latency(root, level[0], samples) for level in levels]
    return Tree(
        by_level=[len(level) * wide for level, wide in zip(levels, shape, strict=True)],
        ready=ready,
        seconds=seconds,
        root_writes_by_level=writes,
        rest_seconds=_REST_S,
        rest_writes=rest_writes,
        rss_mib_before=before_mib,
        rss_mib=rss,
        leaf_to_root_ms=latencies,
    )


async def _fill(upper: Scenario, wide: int, *, last: bool) -> None:
    if last:
        for number in range(wide):
            await upper.create(f"c{number}")
        for number in range(wide):
            await _until_ready(upper, f"c{number}")
    else:
        for number in range(wide):
            await upper.nest(f"c{number}", **_NESTING)


async def _until_ready(level: Scenario, name: str) -> None:
    await level.until(lambda: _has_ready(level, name), limit_s=_LIMIT_S)


async def _fill_all(uppers: Sequence[Scenario], wide: int, *, last: bool) -> None:
    """All at once, a few at a time: as many tenants as there may well be."""
    room = asyncio.Semaphore(16)

    async def one(upper: Scenario) -> None:
        async with room:
            await _fill(upper, wide, last=last)

    await asyncio.gather(*(one(upper) for upper in uppers))


async def _measure_latency(root: Scenario, level: Scenario, samples: int) -> float:
    """Median time, in ms, from a cluster's Ready in its own API until the root's summary counts it."""
    found = []
    if level is root:
        return 0.0
    for number in range(samples):
        before = await _count_ready(root)
        await level.create(f"late{number}")
        while not await _has_ready(level, f"late{number}"):  # noqa: ASYNC110 - a look costs next to nothing
            await asyncio.sleep(_SPIN_S)
        begun = time.monotonic()
        while await _count_ready(root) <= before:  # noqa: ASYNC110
            await asyncio.sleep(_SPIN_S)
        found.append((time.monotonic() - begun) * 1000)
    return median(found)


async def _has_ready(level: Scenario, name: str) -> bool:
    return (await level.condition(name, "Ready")).get("status") == "True"


async def _count_ready(root: Scenario) -> int:
    """Clusters that the root's summaries count as Ready."""
    items = (await root.api.list(NESTED_CLUSTER, namespace=NAMESPACE_NAME)).items
    return sum((item.get("status", {}).get("nested") or {}).get("readyClusters", 0) for item in items)


async def _settle(levels: Sequence[Scenario]) -> None:
    """Until nobody writes any more, however often one wakes another."""
    while True:
        before = sum(_writes(level) for level in levels)
        for level in levels:
            await level.settle()
        if sum(_writes(level) for level in levels) == before:
            return


async def _stop(level: Scenario) -> None:
    await level.kill()
    await level.provider.close()


def _writes(level: Scenario) -> int:
    return sum(count for (verb, _), count in level.api.requests.items() if verb not in _READS)


def _is_ready(item: dict[str, object]) -> bool:
    conditions = item.get("status", {}).get("conditions", [])  # type: ignore[attr-defined]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB
