"""The manager: order of start and stop, and that no part can fail unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from capn.api.resources import LEASE, NESTED_CLUSTER
from capn.errors import TerminalError
from capn.kube.memory import MemoryKubeClient
from capn.runtime.controller import Controller, Key
from capn.runtime.guard import LeaseLostError
from capn.runtime.handlers import enqueue_self
from capn.runtime.health import HealthServer
from capn.runtime.informer import Informer
from capn.runtime.lease import LeaderElector, LeaseTimes
from capn.runtime.manager import Manager
from capn.runtime.metrics import Metrics
from capn.runtime.result import Result
from tests.harness.faults import FaultyKubeClient

QUICK = LeaseTimes(duration_s=1.0, renew_s=0.3, retry_s=0.05, stop_s=1.0)


class Bench:
    """One process over a memory API server, in real but short time."""

    def __init__(self, api: MemoryKubeClient | None = None, **parts: Any) -> None:
        self.api = api or MemoryKubeClient()
        self.client = FaultyKubeClient(self.api)
        self.metrics = Metrics()
        self.seen: list[Key] = []
        self.block: asyncio.Event | None = None
        self.informer = Informer(self.client, NESTED_CLUSTER, metrics=self.metrics)
        self.controller = Controller("c", self, workers=2, metrics=self.metrics)
        self.informer.add_handler(enqueue_self(self.controller.queue))
        self.elector = LeaderElector(self.client, namespace="ns", times=QUICK, metrics=self.metrics)
        self.health = HealthServer(bind="127.0.0.1", port=0, registry=self.metrics.registry)
        self.stop = asyncio.Event()
        self.manager = Manager(
            informers=[self.informer],
            controllers=[self.controller],
            **{"elector": self.elector, "health": self.health, "stop_limit_s": 0.2, **parts},
        )

    async def reconcile(self, key: Key) -> Result:
        self.seen.append(key)
        if self.block:
            await self.block.wait()
            self.seen.append(Key("ns", "finished"))
        return Result.done()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.manager.run(self.stop))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def probe(self, path: str) -> tuple[int, str]:
        host, port = self.health.address
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as response:
            return response.status, await response.text()

    async def apply(self, name: str) -> None:
        meta = {"name": name, "namespace": "ns"}
        await self.api.apply(NESTED_CLUSTER, {"metadata": meta, "spec": {"version": "v1.37.2"}})


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.01)


async def test_a_whole_life() -> None:
    bench = Bench()
    await bench.apply("a")
    async with bench.running() as task:
        await until(lambda: bench.seen)
        assert bench.elector.valid()
        assert await bench.probe("/healthz") == (200, "ok\n")
        assert await bench.probe("/readyz") == (200, "[+] informers ok\nok\n")
        status, text = await bench.probe("/metrics")
        assert status == 200
        assert 'controller_runtime_reconcile_total{controller="c",result="success"} 1.0' in text
        assert 'leader_election_master_status{name="capn"} 1.0' in text
        assert 'capn_informer_objects{resource="nestedclusters"} 1.0' in text
        bench.stop.set()
        await asyncio.wait_for(task, 5)
    lease = await bench.api.get(LEASE, "capn", "ns")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert left == []


async def test_not_ready_until_listed_and_nothing_is_reconciled() -> None:
    bench = Bench()
    bench.client.down = True
    await bench.apply("a")
    async with bench.running() as task:
        await until(lambda: bench.health.address[1])
        assert await bench.probe("/readyz") == (503, "[-] informers: nestedclusters not listed yet\nfailed\n")
        assert not bench.seen
        bench.stop.set()
        await asyncio.wait_for(task, 5)


async def test_stale_caches_are_not_ready() -> None:
    bench = Bench(elector=None)
    async with bench.running():
        await until(lambda: bench.informer.synced)
        contact = bench.informer._contact
        assert contact is not None
        bench.informer._contact = contact - 301
        status, text = await bench.probe("/readyz")
        assert status == 503
        assert "no word of nestedclusters" in text


async def test_standby_reconciles_nothing_and_stops_at_once() -> None:
    first = Bench()
    second = Bench(first.api)
    await first.apply("a")
    async with first.running():
        await until(lambda: first.seen)
        async with second.running() as task:
            await until(lambda: second.informer.synced)
            await asyncio.sleep(0.1)
            assert not second.seen
            assert (await second.probe("/readyz"))[0] == 200
            second.stop.set()
            await asyncio.wait_for(task, 2)


async def test_a_running_reconcile_may_finish_but_none_begins() -> None:
    bench = Bench(stop_limit_s=5.0)
    bench.block = asyncio.Event()
    await bench.apply("a")
    async with bench.running() as task:
        await until(lambda: bench.seen)
        bench.stop.set()
        await asyncio.sleep(0.05)
        await bench.apply("b")
        await asyncio.sleep(0.05)
        assert not task.done()
        assert bench.elector.valid(), "the lease is kept while work ends"
        bench.block.set()
        await asyncio.wait_for(task, 5)
    assert bench.seen == [Key("ns", "a"), Key("ns", "finished")]


async def test_a_reconcile_that_does_not_end_is_cut_off() -> None:
    bench = Bench()
    bench.block = asyncio.Event()
    await bench.apply("a")
    async with bench.running() as task:
        await until(lambda: bench.seen)
        bench.stop.set()
        await asyncio.wait_for(task, 5)
    assert bench.seen == [Key("ns", "a")]


async def test_a_lost_lease_ends_the_process_with_an_error() -> None:
    bench = Bench()
    bench.block = asyncio.Event()
    await bench.apply("a")
    async with bench.running() as task:
        await until(lambda: bench.seen)
        bench.client.down = True
        with pytest.raises(LeaseLostError):
            await asyncio.wait_for(task, 5)
    assert Key("ns", "finished") not in bench.seen


async def test_any_part_that_fails_ends_the_whole() -> None:
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    for where in ("always", "leading"):
        parts: dict[str, Any] = {where: [fail]}
        bench = Bench(**parts)
        async with bench.running() as task:
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(task, 5)
        assert not bench.elector.valid()


async def test_a_part_that_just_ends_is_a_bug() -> None:
    async def end() -> None:
        await asyncio.sleep(0.01)

    bench = Bench(always=[end])
    async with bench.running() as task:
        with pytest.raises(TerminalError, match="background 0 ended by itself"):
            await asyncio.wait_for(task, 5)


async def test_an_address_in_use_is_told_with_its_fix() -> None:
    bench = Bench()
    async with bench.running():
        await until(lambda: bench.health.address[1])
        other = HealthServer(bind="127.0.0.1", port=bench.health.address[1], registry=bench.metrics.registry)
        with pytest.raises(TerminalError, match="set `bind` or `port` in the settings"):
            await other.__aenter__()


async def test_a_failing_check_fails_the_probe() -> None:
    bench = Bench()
    bench.health.healthy["disk"] = lambda: "full"
    async with bench.health:
        assert await bench.probe("/healthz") == (503, "[-] disk: full\nfailed\n")
