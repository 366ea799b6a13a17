"""The informer: a faithful copy through restarts, compaction, broken streams, own writes and stale ones."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, SECRET
from capn.errors import UnreachableError
from capn.kube.client import WatchEvent
from capn.kube.decode import CompactList, Object, ObjectEvent
from capn.kube.memory import MemoryKubeClient
from capn.runtime.controller import Key
from capn.runtime.handlers import enqueue_mapped, enqueue_self, has_new_spec
from capn.runtime.informer import Informer
from capn.runtime.metrics import Metrics
from capn.runtime.queue import WorkQueue
from tests.harness.virtual_time import VirtualTime, settle


def cluster(name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "namespace": "ns", **({"labels": labels} if labels else {})}
    return {"metadata": meta, "spec": {"version": "v1.37.2", **spec}}


class Changes:
    """A handler that notes what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, old: Object | None, new: Object | None) -> None:
        kind = "added" if old is None else "deleted" if new is None else "changed"
        obj = new or old
        assert obj is not None
        self.seen.append((kind, obj.metadata.name))


class Bench:
    def __init__(self, client: Any = None, **scope: Any) -> None:
        self.time = VirtualTime()
        self.memory = MemoryKubeClient()
        self.metrics = Metrics(CollectorRegistry())
        self.informer = Informer(
            client(self.memory) if client else self.memory,
            NESTED_CLUSTER,
            metrics=self.metrics,
            clock=self.time.clock,
            sleep=self.time.sleep,
            rng=random.Random(1),
            **scope,
        )
        self.changes = Changes()
        self.informer.add_handler(self.changes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.informer.run())
        try:
            await settle()
            yield
            assert not task.done(), "an informer never ends by itself"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def apply(self, name: str, **fields: Any) -> dict[str, Any]:
        answer = await self.memory.apply(NESTED_CLUSTER, cluster(name, **fields))
        await settle()
        return answer

    def names(self) -> list[str]:
        return sorted(obj.metadata.name for obj in self.informer.list_objects())

    def count(self, sample: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(sample, {"resource": "nestedclusters", **labels}) or 0.0


async def test_list_then_follow() -> None:
    bench = Bench()
    await bench.apply("a")
    assert not bench.informer.synced
    async with bench.running():
        assert bench.informer.synced
        await asyncio.wait_for(bench.informer.wait_synced(), 1)
        await bench.apply("b")
        await bench.apply("a", paused=True)
        await bench.memory.delete(NESTED_CLUSTER, "b", "ns")
        await settle()
        assert bench.changes.seen == [("added", "a"), ("added", "b"), ("changed", "a"), ("deleted", "b")]
        found = bench.informer.get("ns", "a")
        assert found is not None
        assert found["spec"]["paused"] is True
        assert found == await bench.memory.get(NESTED_CLUSTER, "a", "ns")
        assert bench.informer.get("ns", "b") is None
        assert bench.informer.list("other") == []
    assert bench.memory.requests["list", "nestedclusters"] == 1
    assert bench.memory.requests["get", "nestedclusters"] == 1  # the test's own


async def test_what_get_gives_is_a_copy() -> None:
    bench = Bench()
    await bench.apply("a")
    async with bench.running():
        first = bench.informer.get("ns", "a")
        assert first is not None
        first["spec"]["version"] = "changed"
        second = bench.informer.get("ns", "a")
        assert second is not None
        assert second["spec"]["version"] == "v1.37.2"


async def test_a_broken_stream_goes_on_without_a_list_and_misses_nothing() -> None:
    bench = Bench()
    async with bench.running():
        bench.memory.drop_watches()
        await settle()
        await bench.apply("while-away")
        assert bench.names() == []
        await bench.time.run_for(1)
        assert bench.names() == ["while-away"]
    assert bench.memory.requests["list", "nestedclusters"] == 1


async def test_compaction_lists_again() -> None:
    bench = Bench()
    await bench.apply("stays")
    await bench.apply("goes")
    async with bench.running():
        bench.memory.drop_watches()
        await settle()
        await bench.memory.delete(NESTED_CLUSTER, "goes", "ns")
        await bench.apply("comes")
        bench.memory.compaction()
        await bench.time.run_for(5)
        assert bench.names() == ["comes", "stays"]
        assert bench.changes.seen == [("added", "goes"), ("added", "stays"), ("added", "comes"), ("deleted", "goes")]
        await bench.apply("stays", paused=True)
        assert bench.changes.seen[-1] == ("changed", "stays")
    assert bench.memory.requests["list", "nestedclusters"] == 2


async def test_a_scope_by_labels() -> None:
    bench = Bench(label_selector="team=x", namespace="ns")
    async with bench.running():
        await bench.apply("in", labels={"team": "x"})
        await bench.apply("out", labels={"team": "y"})
        assert bench.names() == ["in"]
        await bench.apply("in", labels={"team": "y"})
        assert bench.names() == []


async def test_indexes_follow() -> None:
    bench = Bench()
    bench.informer.add_index("team", lambda obj: [(obj.metadata.labels or {}).get("team", "none")])
    await bench.apply("a", labels={"team": "x"})
    async with bench.running():
        await bench.apply("b", labels={"team": "x"})
        assert [item["metadata"]["name"] for item in bench.informer.by_index("team", "x")] == ["a", "b"]
        await bench.apply("a", labels={"team": "y"})
        assert [item["metadata"]["name"] for item in bench.informer.by_index("team", "x")] == ["b"]
        await bench.memory.delete(NESTED_CLUSTER, "b", "ns")
        await settle()
        assert bench.informer.by_index("team", "x") == []
        assert len(bench.informer.objects_by_index("team", "y")) == 1


class Held(MemoryKubeClient):
    """A client whose watch is stopped by hand: the cache behind it is stale."""

    def __init__(self, inner: MemoryKubeClient) -> None:
        super().__init__()
        self.store = inner.store
        self.open = asyncio.Event()
        self.open.set()

    async def watch_compact(self, *args: Any, **scope: Any) -> AsyncGenerator[ObjectEvent, None]:
        async for event in super().watch_compact(*args, **scope):
            await self.open.wait()
            yield event


async def test_own_writes_are_seen_at_once_and_told_once() -> None:
    bench = Bench(Held)
    await bench.apply("a")
    async with bench.running():
        held = bench.informer._reader
        assert isinstance(held, Held)
        held.open.clear()
        answer = await bench.apply("a", paused=True)
        assert (bench.informer.get("ns", "a") or {})["spec"].get("paused") is None
        bench.informer.note_write(answer)
        assert (bench.informer.get("ns", "a") or {})["spec"]["paused"] is True
        older = await bench.apply("b")
        newer = await bench.apply("b", paused=True)
        bench.informer.note_write(newer)
        bench.informer.note_write(older)
        assert (bench.informer.get("ns", "b") or {})["spec"]["paused"] is True
        held.open.set()
        await settle()
        assert (bench.informer.get("ns", "b") or {})["spec"]["paused"] is True
        assert bench.changes.seen == [("added", "a"), ("changed", "a"), ("added", "b")]


async def test_a_write_that_the_watch_overtook_is_not_noted() -> None:
    bench = Bench()
    async with bench.running():
        answer = await bench.apply("a")
        await bench.memory.delete(NESTED_CLUSTER, "a", "ns")
        await settle()
        bench.informer.note_write(answer)  # the answer came late
        assert bench.names() == []


async def test_a_write_that_lets_the_object_go_is_not_noted() -> None:
    bench = Bench(Held)
    made = await bench.apply("a")
    async with bench.running():
        gone = {**made, "metadata": {**made["metadata"], "resourceVersion": "99", "deletionTimestamp": "now"}}
        bench.informer.note_write(gone)
        assert bench.changes.seen == [("added", "a")]


async def test_own_writes_survive_a_list_that_is_older_and_not_one_that_is_newer() -> None:
    bench = Bench(Held)
    async with bench.running():
        held = bench.informer._reader
        assert isinstance(held, Held)
        held.open.clear()
        listed = await bench.memory.list_compact(NESTED_CLUSTER)
        bench.informer.note_write(await bench.apply("a"))
        bench.informer._replace(listed)
        assert bench.names() == ["a"]
        await bench.memory.delete(NESTED_CLUSTER, "a", "ns")
        bench.informer._replace(await bench.memory.list_compact(NESTED_CLUSTER))
        assert bench.names() == []


async def test_a_restored_backup_takes_the_cache_back() -> None:
    bench = Bench()
    await bench.apply("a", paused=True)
    await bench.apply("newer")
    async with bench.running():
        before = MemoryKubeClient()
        await before.apply(NESTED_CLUSTER, cluster("a"))
        bench.informer._replace(await before.list_compact(NESTED_CLUSTER))
        assert bench.names() == ["a"]
        assert (bench.informer.get("ns", "a") or {})["spec"].get("paused") is None


class Scripted:
    """A client that fails as it is told."""

    def __init__(self, inner: MemoryKubeClient) -> None:
        self.inner = inner
        self.lists = 0
        self.watches = 0
        self.list_failures = 0
        self.empty_watches = 0
        self.too_new = 0

    async def list_compact(self, *args: Any, **scope: Any) -> CompactList:
        self.lists += 1
        if self.list_failures > 0:
            self.list_failures -= 1
            raise UnreachableError("gone")
        return await self.inner.list_compact(*args, **scope)

    async def watch_compact(self, *args: Any, **scope: Any) -> AsyncGenerator[ObjectEvent, None]:
        self.watches += 1
        if self.empty_watches > 0:
            self.empty_watches -= 1
            return
        if self.too_new > 0:
            self.too_new -= 1
            scope["resource_version"] = "999999"
        async for event in self.inner.watch_compact(*args, **scope):
            yield event


async def test_an_unreachable_server_is_waited_for() -> None:
    bench = Bench(Scripted)
    scripted: Any = bench.informer._reader
    scripted.list_failures = 5
    await bench.apply("a")
    async with bench.running():
        assert scripted.lists == 1
        await bench.time.run_for(0.05, 0.05)
        assert scripted.lists == 1
        await bench.time.run_for(20)
        assert bench.informer.synced
        assert bench.names() == ["a"]
        assert scripted.lists == 6


async def test_streams_that_end_at_once_are_no_hot_loop() -> None:
    bench = Bench(Scripted)
    scripted: Any = bench.informer._reader
    scripted.empty_watches = 1000
    async with bench.running():
        await bench.time.run_for(60)
        assert scripted.watches < 15
        scripted.empty_watches = 0
        await bench.time.run_for(40)
        await bench.apply("a")
        assert bench.names() == ["a"]


async def test_a_revision_from_the_future_lists_again() -> None:
    bench = Bench(Scripted)
    scripted: Any = bench.informer._reader
    scripted.too_new = 1
    async with bench.running():
        await bench.time.run_for(2)
        assert scripted.lists == 2
        await bench.apply("a")
        assert bench.names() == ["a"]


async def test_signs_of_life() -> None:
    bench = Bench()
    assert bench.informer.age_s() is None
    async with bench.running():
        assert bench.informer.age_s() == 0
        bench.time.advance(40)
        assert bench.informer.age_s() == 40
        assert bench.count("capn_informer_age_seconds") == 40
        await bench.apply("a")
        assert bench.informer.age_s() == 0
        assert bench.count("capn_informer_objects") == 1
        assert bench.count("capn_informer_lists_total") == 1
        assert bench.count("capn_informer_events_total", type="ADDED") == 1


async def test_a_handler_that_fails_stops_nobody() -> None:
    bench = Bench()

    def bad(_: Object | None, __: Object | None) -> None:
        raise ZeroDivisionError

    late = Changes()
    bench.informer.add_handler(bad)
    bench.informer.add_handler(late)
    async with bench.running():
        await bench.apply("a")
        assert late.seen == [("added", "a")]


class Plain:
    """A `KubeClient` without compact reading, as test doubles are."""

    def __init__(self, inner: MemoryKubeClient) -> None:
        self._inner = inner

    async def list(self, *args: Any, **scope: Any) -> Any:
        return await self._inner.list(*args, **scope)

    def watch(self, *args: Any, **scope: Any) -> AsyncGenerator[WatchEvent, None]:
        return self._inner.watch(*args, **scope)


async def test_any_client_will_do() -> None:
    bench = Bench(Plain)
    await bench.apply("a")
    async with bench.running():
        await bench.apply("b")
        assert bench.names() == ["a", "b"]
        assert (bench.informer.get("ns", "a") or {})["kind"] == "NestedCluster"


# handlers


async def _objects(client: MemoryKubeClient) -> list[Object]:
    return (await client.list_compact(NESTED_CLUSTER)).items


async def test_a_status_write_does_not_wake_its_own_controller() -> None:
    client = MemoryKubeClient()
    await client.apply(NESTED_CLUSTER, cluster("a"))
    (before,) = await _objects(client)
    await client.apply(NESTED_CLUSTER, {**cluster("a"), "status": {"phase": "Ready"}}, subresource="status")
    (after,) = await _objects(client)
    queue = WorkQueue[Key](timer=VirtualTime())
    handle = enqueue_self(queue)
    handle(before, after)
    assert len(queue) == 0
    handle(None, after)
    assert await queue.get() == Key("ns", "a")
    queue.done(Key("ns", "a"))
    handle(after, None)
    assert len(queue) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"version": "v1.37.2", "paused": True}},
        {"metadata": {"labels": {"x": "y"}}},
        {"metadata": {"annotations": {"x": "y"}}},
        {"metadata": {"finalizers": ["x.dev/y"]}},
    ],
)
async def test_every_other_change_wakes_it(change: dict[str, Any]) -> None:
    client = MemoryKubeClient()
    await client.apply(NESTED_CLUSTER, cluster("a"))
    (before,) = await _objects(client)
    await client.merge_patch(NESTED_CLUSTER, "a", "ns", change)
    (after,) = await _objects(client)
    assert has_new_spec(before, after)


async def test_kinds_without_a_generation_change_in_their_data() -> None:
    client = MemoryKubeClient()
    secret: dict[str, Any] = {"metadata": {"name": "s", "namespace": "ns"}, "data": {"value": "YQ=="}}
    await client.apply(SECRET, secret)
    (before,) = (await client.list_compact(SECRET)).items
    assert not has_new_spec(before, before)
    await client.apply(SECRET, {**secret, "data": {"value": "Yg=="}})
    (after,) = (await client.list_compact(SECRET)).items
    assert has_new_spec(before, after)


async def test_what_a_change_maps_to_is_woken_once() -> None:
    client = MemoryKubeClient()
    owner = {"apiVersion": "capn.dev/v1alpha1", "kind": "NestedCluster", "name": "c", "uid": "u1", "controller": True}
    meta = {"name": "m", "namespace": "ns", "ownerReferences": [owner]}
    await client.apply(NESTED_MACHINE, {"metadata": meta, "spec": {}})
    (machine,) = (await client.list_compact(NESTED_MACHINE)).items
    queue = WorkQueue[Key](timer=VirtualTime())
    enqueue_mapped(queue, lambda obj: [Key("ns", obj.metadata.name)])(machine, machine)
    assert await queue.get() == Key("ns", "m")
    assert len(queue) == 0
    assert machine.controller_uid == "u1"
