"""Events: written once, counted up after a restart, never in a reconcile's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from capn.api.resources import EVENT
from capn.errors import ApiStatusError
from capn.kube.client import KubeClient
from capn.kube.memory import MemoryKubeClient
from capn.runtime.events import EventRecorder
from capn.runtime.metrics import Metrics
from tests.harness.faults import Fault, FaultyKubeClient
from tests.harness.virtual_time import VirtualTime, settle

CLUSTER: dict[str, Any] = {
    "apiVersion": "capn.dev/v1alpha1",
    "kind": "NestedCluster",
    "metadata": {"name": "a", "namespace": "ns", "uid": "u1"},
}


class Bench:
    def __init__(self, client: KubeClient | None = None, api: MemoryKubeClient | None = None) -> None:
        self.api = api or MemoryKubeClient()
        self.time = VirtualTime()
        self.metrics = Metrics()
        self.recorder = EventRecorder(
            client or self.api, instance="me", metrics=self.metrics, clock=self.time.clock, now=self.time.now
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.recorder.run())
        try:
            yield
            await settle()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def events(self) -> list[dict[str, Any]]:
        return (await self.api.list(EVENT)).items

    @property
    def dropped(self) -> float | None:
        return self.metrics.registry.get_sample_value("capn_events_dropped_total")


async def test_an_event_has_all_that_kubectl_shows() -> None:
    bench = Bench()
    async with bench.running():
        bench.recorder.event(CLUSTER, "Warning", "ImageNotFound", "no image for v1.37.2; build one")
    (event,) = await bench.events()
    assert event["metadata"]["namespace"] == "ns"
    assert event["metadata"]["name"].startswith("a.")
    assert event["regarding"] == {
        "apiVersion": "capn.dev/v1alpha1", "kind": "NestedCluster", "name": "a", "namespace": "ns", "uid": "u1",
    }  # fmt: skip
    assert event["type"] == "Warning"
    assert event["reason"] == "ImageNotFound"
    assert event["note"] == "no image for v1.37.2; build one"
    assert event["reportingController"] == "capn"
    assert event["reportingInstance"] == "me"
    assert event["action"] == "Reconcile"
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"


async def test_the_same_line_is_written_once_and_another_is_another() -> None:
    bench = Bench()
    async with bench.running():
        for _ in range(50):
            bench.recorder.event(CLUSTER, "Normal", "Created", "made")
        bench.recorder.event(CLUSTER, "Normal", "Created", "made otherwise")
        bench.recorder.event({**CLUSTER, "metadata": {"name": "b", "uid": "u2"}}, "Normal", "Created", "made")
    assert len(await bench.events()) == 3
    assert bench.api.writes == 3
    assert {event["metadata"]["namespace"] for event in await bench.events()} == {"ns", "default"}


async def test_after_a_while_or_a_restart_the_count_goes_up() -> None:
    bench = Bench()
    async with bench.running():
        bench.recorder.event(CLUSTER, "Normal", "Created", "made")
        await settle()
        bench.time.advance(601)
        bench.recorder.event(CLUSTER, "Normal", "Created", "made")
    restarted = Bench(api=bench.api)
    async with restarted.running():
        restarted.recorder.event(CLUSTER, "Normal", "Created", "made")
    (event,) = await bench.events()
    assert event["series"]["count"] == 3
    assert event["series"]["lastObservedTime"].endswith("Z")


async def test_long_messages_are_cut() -> None:
    bench = Bench()
    async with bench.running():
        bench.recorder.event(CLUSTER, "Normal", "Created", "x" * 5000)
    (event,) = await bench.events()
    assert len(event["note"]) == 1024
    assert event["note"].endswith("...")


async def test_a_full_queue_and_a_failing_server_only_cost_events() -> None:
    api = MemoryKubeClient()
    bench = Bench(FaultyKubeClient(api, [Fault("refuse", lambda _: True, times=10_000, code=403)]), api)
    for number in range(1500):
        bench.recorder.event(CLUSTER, "Normal", "Created", f"line {number}")
    assert bench.dropped == 500
    async with bench.running():
        await asyncio.sleep(0)
        await settle(3000)
    assert bench.dropped == 1500
    assert await bench.events() == []


async def test_a_count_that_cannot_be_written_is_dropped() -> None:
    api = MemoryKubeClient()
    first = Bench(api=api)
    async with first.running():
        first.recorder.event(CLUSTER, "Normal", "Created", "made")
    second = Bench(FaultyKubeClient(api, [Fault("refuse", 2, code=500)]), api)
    async with second.running():
        second.recorder.event(CLUSTER, "Normal", "Created", "made")
    assert second.dropped == 1
    assert ApiStatusError(500, "x").code == 500


async def test_what_waits_at_the_end_is_still_written() -> None:
    bench = Bench()
    task = asyncio.create_task(bench.recorder.run())
    await settle()
    for number in range(5):
        bench.recorder.event(CLUSTER, "Normal", "Created", f"line {number}")
    await asyncio.sleep(0)  # the first is on its way
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(await bench.events()) == 5
    assert all("series" not in event for event in await bench.events())
