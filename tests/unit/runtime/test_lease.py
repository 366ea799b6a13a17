"""Leader election: never two who may write, whatever fails; and the guard that holds the last line."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from capn.api.resources import CONFIG_MAP, LEASE, POD
from capn.errors import UnreachableError
from capn.kube.client import ExecResult
from capn.kube.exec import ExecCall
from capn.kube.memory import MemoryKubeClient
from capn.runtime.guard import GuardedKubeClient, LeaseLostError
from capn.runtime.lease import LeaderElector, LeaseTimes, Timekeeper, build_identity
from capn.runtime.metrics import Metrics
from tests.harness.faults import Fault, FaultyKubeClient, SimulatedCrash
from tests.harness.virtual_time import VirtualTime, settle

MAP: dict[str, Any] = {"metadata": {"name": "a", "namespace": "ns"}}


class Candidate:
    """One controller process. `body` runs until cancelled, as controllers do, slowly if told."""

    def __init__(
        self,
        api: MemoryKubeClient,
        time: VirtualTime,
        name: str,
        *,
        stops_in_s: float = 0.0,
        times: LeaseTimes | None = None,
    ) -> None:
        self.client = FaultyKubeClient(api)
        self.metrics = Metrics(CollectorRegistry())
        self.elector = LeaderElector(
            self.client,
            namespace="ns",
            identity=name,
            times=times,
            keeper=Timekeeper(clock=time.clock, now=time.now, sleep=time.sleep),
            metrics=self.metrics,
        )
        self.written = FaultyKubeClient(api)
        self.guarded = GuardedKubeClient(self.written, self.elector.remaining_s)
        self.time, self.stops_in_s = time, stops_in_s
        self.running = False
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self.elector.run(self.body))

    async def body(self) -> None:
        self.running = True
        try:
            await self.end.wait()
        finally:
            if self.stops_in_s:
                await self.time.sleep(self.stops_in_s)
            self.running = False

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def api() -> MemoryKubeClient:
    return MemoryKubeClient()


async def read(api: MemoryKubeClient) -> dict[str, Any]:
    lease = await api.get(LEASE, "capn", "ns")
    assert lease is not None
    spec: dict[str, Any] = lease["spec"]
    return spec


async def test_the_first_leads_and_renews(api: MemoryKubeClient, time: VirtualTime) -> None:
    one = Candidate(api, time, "one")
    await settle()
    assert one.running
    assert one.elector.valid()
    spec = await read(api)
    assert spec["holderIdentity"] == "one"
    assert spec["leaseDurationSeconds"] == 15
    assert spec["renewTime"] == "2026-01-01T00:00:00.000000Z"
    await time.run_for(600)
    assert one.running
    assert (await read(api))["renewTime"] > "2026-01-01T00:09:55"
    assert (await read(api))["leaseTransitions"] == 0
    assert one.metrics.registry.get_sample_value("leader_election_master_status", {"name": "capn"}) == 1
    await one.stop()
    assert one.metrics.registry.get_sample_value("leader_election_master_status", {"name": "capn"}) == 0


async def test_a_second_waits_and_takes_a_released_lease_at_once(api: MemoryKubeClient, time: VirtualTime) -> None:
    one, two = Candidate(api, time, "one"), Candidate(api, time, "two")
    await time.run_for(60)
    assert (one.running, two.running) == (True, False)
    await one.stop()
    assert (await read(api))["holderIdentity"] == ""
    await time.run_for(3)
    assert two.running
    assert (await read(api))["leaseTransitions"] == 1
    await two.stop()


async def test_a_dead_holder_is_followed_after_its_duration(api: MemoryKubeClient, time: VirtualTime) -> None:
    one, two = Candidate(api, time, "one"), Candidate(api, time, "two")
    await time.run_for(10)
    one.client.crashed = True  # SIGKILL: no release
    one.task.cancel()
    await time.run_for(14)
    assert isinstance((await asyncio.gather(one.task, return_exceptions=True))[0], SimulatedCrash)
    assert not two.running
    await time.run_for(6)
    assert two.running
    await two.stop()


async def test_a_restarted_holder_of_the_same_name_leads_at_once(api: MemoryKubeClient, time: VirtualTime) -> None:
    one = Candidate(api, time, "one")
    await time.run_for(10)
    one.client.crashed = True  # SIGKILL: no release
    one.task.cancel()
    await asyncio.gather(one.task, return_exceptions=True)
    again = Candidate(api, time, "one")
    await settle()
    assert again.running
    assert (await read(api))["leaseTransitions"] == 0
    await again.stop()


async def test_a_longer_lease_outlives_a_longer_silence(api: MemoryKubeClient, time: VirtualTime) -> None:
    one = Candidate(api, time, "one", times=LeaseTimes.of(120))
    await time.run_for(10)
    one.client.down = True
    await time.run_for(60)
    assert one.running
    one.client.down = False
    await time.run_for(60)
    assert one.running
    assert (await read(api))["leaseDurationSeconds"] == 120
    one.client.down = True
    await time.run_for(82)
    assert not one.running
    with pytest.raises(LeaseLostError):
        await one.task


def test_the_proportions_are_those_of_the_default() -> None:
    assert LeaseTimes.of(LeaseTimes().duration_s) == LeaseTimes()


async def test_times_in_the_lease_are_not_trusted(api: MemoryKubeClient, time: VirtualTime) -> None:
    spec = {"holderIdentity": "old", "leaseDurationSeconds": 15, "renewTime": "1999-01-01T00:00:00.000000Z"}
    await api.create(LEASE, {"metadata": {"name": "capn", "namespace": "ns"}, "spec": spec})
    one = Candidate(api, time, "one")
    await time.run_for(12)
    assert not one.running, "the holder's clock may be wrong: only what we observed counts"
    await time.run_for(8)
    assert one.running
    await one.stop()


async def test_a_longer_stated_duration_is_respected(api: MemoryKubeClient, time: VirtualTime) -> None:
    spec = {"holderIdentity": "old", "leaseDurationSeconds": 60}
    await api.create(LEASE, {"metadata": {"name": "capn", "namespace": "ns"}, "spec": spec})
    one = Candidate(api, time, "one")
    await time.run_for(55)
    assert not one.running
    await time.run_for(10)
    assert one.running
    await one.stop()


async def test_cut_off_the_holder_stops_before_anybody_else_begins(api: MemoryKubeClient, time: VirtualTime) -> None:
    one, two = Candidate(api, time, "one"), Candidate(api, time, "two")
    await time.run_for(10)
    one.client.down = True
    for _ in range(200):
        await time.run_for(0.1, 0.1)
        assert not (one.running and two.running)
        assert not (one.elector.valid() and two.elector.valid())
    assert two.running
    with pytest.raises(LeaseLostError):
        await one.task
    await two.stop()


async def test_a_slow_holder_cannot_write_past_its_deadline(api: MemoryKubeClient, time: VirtualTime) -> None:
    one, two = Candidate(api, time, "one", stops_in_s=15), Candidate(api, time, "two")
    await time.run_for(10)
    await one.guarded.apply(CONFIG_MAP, MAP)
    one.client.down = True
    await time.run_for(11)
    assert one.running, "its body takes its time to stop"
    for write in (
        lambda: one.guarded.apply(CONFIG_MAP, MAP),
        lambda: one.guarded.create(CONFIG_MAP, MAP),
        lambda: one.guarded.merge_patch(CONFIG_MAP, "a", "ns", {}),
        lambda: one.guarded.delete(CONFIG_MAP, "a", "ns"),
    ):
        with pytest.raises(LeaseLostError):
            await write()
    assert len(one.written.calls) == 1, "not even begun"
    assert await one.guarded.get(CONFIG_MAP, "a", "ns") is not None
    await time.run_for(20)
    assert two.running
    with pytest.raises(LeaseLostError):
        await one.task
    await two.stop()


async def test_one_failed_renewal_is_survived(api: MemoryKubeClient, time: VirtualTime) -> None:
    one = Candidate(api, time, "one")
    await settle()
    first = len(one.client.calls)
    one.client.plan = [
        Fault("unreachable", first + 1),
        Fault("lost_ack", first + 2),
        Fault("conflict", first + 3),
        Fault("overload", first + 4),
    ]
    await time.run_for(60)
    assert one.running
    assert one.elector.valid()
    await one.stop()


async def test_a_lease_taken_by_force_ends_the_holder(api: MemoryKubeClient, time: VirtualTime) -> None:
    one = Candidate(api, time, "one")
    await time.run_for(5)
    await api.merge_patch(LEASE, "capn", "ns", {"spec": {"holderIdentity": "thief"}})
    await time.run_for(3)
    assert not one.running
    with pytest.raises(LeaseLostError):
        await one.task
    assert (await read(api))["holderIdentity"] == "thief", "not ours to release"


async def test_a_deleted_lease_is_made_again(api: MemoryKubeClient, time: VirtualTime) -> None:
    one = Candidate(api, time, "one")
    await time.run_for(5)
    await api.delete(LEASE, "capn", "ns")
    await time.run_for(5)
    assert one.running
    assert (await read(api))["holderIdentity"] == "one"
    await one.stop()


async def test_of_two_takers_one_wins(api: MemoryKubeClient, time: VirtualTime) -> None:
    candidates = [Candidate(api, time, str(number)) for number in range(5)]
    await time.run_for(30)
    assert sum(candidate.running for candidate in candidates) == 1
    for candidate in candidates:
        await candidate.stop()


async def test_an_error_of_the_body_is_raised_and_the_lease_released(api: MemoryKubeClient, time: VirtualTime) -> None:
    elector = LeaderElector(
        api, namespace="ns", keeper=Timekeeper(clock=time.clock, now=time.now, sleep=time.sleep), times=LeaseTimes()
    )

    async def body() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await elector.run(body)
    assert (await read(api))["holderIdentity"] == ""
    assert not elector.valid()


async def test_the_lease_is_kept_until_the_work_has_stopped(api: MemoryKubeClient, time: VirtualTime) -> None:
    one, two = Candidate(api, time, "one", stops_in_s=8), Candidate(api, time, "two")
    await time.run_for(5)
    one.task.cancel()
    for _ in range(14):
        await time.run_for(0.5)
        assert one.running
        assert one.elector.valid()
        assert (await read(api))["holderIdentity"] == "one"
    await time.run_for(4)
    assert not one.running
    assert two.running
    await two.stop()


async def test_an_ended_body_releases(api: MemoryKubeClient, time: VirtualTime) -> None:
    one = Candidate(api, time, "one")
    await settle()
    one.end.set()
    await asyncio.wait_for(one.task, 5)
    assert (await read(api))["holderIdentity"] == ""


def test_identities_differ() -> None:
    assert build_identity() != build_identity()


async def test_a_write_on_its_way_is_given_up_at_the_deadline(api: MemoryKubeClient) -> None:
    slow = FaultyKubeClient(api, [Fault("slow", 1, delay_s=30)])
    guarded = GuardedKubeClient(slow, lambda: 0.02)
    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(guarded.create(CONFIG_MAP, MAP), 5)


async def test_the_guard_lets_reads_and_errors_through(api: MemoryKubeClient) -> None:
    guarded = GuardedKubeClient(api, lambda: 1.0)
    await guarded.create(CONFIG_MAP, MAP)
    assert len((await guarded.list(CONFIG_MAP)).items) == 1
    assert len((await guarded.list_compact(CONFIG_MAP)).items) == 1
    assert await guarded.get_raw("/readyz") == (200, "ok")
    assert [event async for event in guarded.watch(CONFIG_MAP, resource_version="1", timeout_s=0.01)] != []
    stream = guarded.watch_compact(CONFIG_MAP, resource_version="1", timeout_s=0.01)
    assert (await anext(stream)).object.metadata.name == "a"
    await stream.aclose()
    down = GuardedKubeClient(FaultyKubeClient(api, down=True), lambda: 1.0)
    with pytest.raises(UnreachableError):
        await down.create(CONFIG_MAP, MAP)
    await guarded.close()


async def test_no_command_runs_past_the_deadline(api: MemoryKubeClient) -> None:
    await api.create(POD, {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [{"name": "c"}]}})
    left = [1.0]

    async def handle(_: ExecCall) -> ExecResult:
        return ExecResult(b"x" * 100_000, b"", 0)

    api.exec_handler = handle
    guarded = GuardedKubeClient(api, lambda: left[0])
    call: Any = {"namespace": "ns", "container": "c", "command": ["true"]}
    assert (await guarded.exec("p", **call)).exit_code == 0
    async with aclosing(guarded.exec_stream("p", **call)) as stream:
        assert await anext(stream)
        left[0] = 0.0
        with pytest.raises(LeaseLostError):
            await anext(stream)
    with pytest.raises(LeaseLostError):
        await guarded.exec("p", **call)
    with pytest.raises(LeaseLostError):
        await anext(guarded.exec_stream("p", **call))
