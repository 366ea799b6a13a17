"""One contestant on one fresh API server: starts both, puts the load on, reads the counters.

Role: the course of a measurement. Inputs: a plan, binaries, a directory; outputs: `Round` and `Quiet`. Must not:
judge, or leave a process behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.api import Api, connect
from bench.contestants import REPO, build_contestant
from bench.counting import Cpu, Requests, parse_requests, read_cpu, read_rss_mib
from bench.load import Changer, Observer, create_clusters, observe
from bench.results import Latency, Quiet, Round, quantile
from capn.api.resources import CRD, NESTED_CLUSTER, NESTED_MACHINE, Resource
from capn.dev import processes
from capn.dev.parent import Parent
from capn.dev.parent_flags import API_SERVER, CONTROLLER_MANAGER, ETCD, SCHEDULER
from capn.errors import ApiStatusError, TerminalError
from capn.kube.paths import build_path

_WARM_UP = 3
_LONE = 5
_START_LIMIT_S = 120.0
_ANSWER_LIMIT_S = 30.0
# The API server renews its storage for a new CRD once more, and ends the watches that are open by then.
_CRD_SETTLE_S = 3.0
_QUIET_S = 2.0
_SETTLE_LIMIT_S = 60.0
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. Rates are changes a second; a rest of 0 s leaves B3 out."""

    clusters: int
    rates: tuple[float, ...]
    rate_seconds: float
    rest_seconds: float
    limit_s: float


@dataclass(frozen=True)
class Stage:
    """A parent with CRDs, a contestant on it and the means to look."""

    name: str
    parent: Parent
    api: Api
    observer: Observer
    directory: Path

    def start(self) -> None:
        """Start the contestant."""
        one = build_contestant(self.name, directory=self.directory, kubeconfig=self.parent.kubeconfig)
        environment = {"PYTHONPATH": str(REPO)}
        processes.spawn(one.argv, name=one.name, directory=self.directory, env=environment, dies_with_us=True)

    async def stop(self) -> None:
        """Stop it as a Deployment would: SIGTERM first."""
        await processes.stop(self.directory, self.name)

    def pids(self) -> dict[str, int]:
        """The contestant's process and the API server's two. TerminalError when one has ended."""
        return {
            "controller": _pid(self.directory, self.name),
            "api_server": _pid(self.parent.layout.run, API_SERVER),
            "etcd": _pid(self.parent.layout.run, ETCD),
        }

    async def look(self) -> tuple[Requests, Cpu]:
        """Requests and CPU up to now."""
        return parse_requests((await self.api.call("GET", "/metrics")).decode()), read_cpu(self.pids())

    async def settle(self, quiet_s: float = _QUIET_S) -> None:
        """Wait until no write has come for a while: late events belong to the run that caused them."""
        deadline = time.monotonic() + _SETTLE_LIMIT_S
        before, since = await self.look(), time.monotonic()
        while time.monotonic() - since < quiet_s and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            now = await self.look()
            if _total_writes(now[0].since(before[0])):
                before, since = now, time.monotonic()


def _total_writes(requests: Requests) -> int:
    return sum(requests.writes().values()) + sum(requests.writes(events=True).values())


def _pid(directory: Path, name: str) -> int:
    record = processes.find(directory, name)
    if record is None:
        raise TerminalError(processes.describe_end(directory, name))
    return record.pid


@asynccontextmanager
async def open_stage(name: str, *, binaries: Mapping[str, Path], directory: Path) -> AsyncIterator[Stage]:
    """A fresh parent (etcd and API server alone), CRDs, and the contestant running and warm."""
    async with Parent.start(directory / "parent", binaries, lambda _: None) as parent:
        # Their own requests would be counted as the contestant's; nothing of the job needs them.
        for program in (CONTROLLER_MANAGER, SCHEDULER):
            await processes.stop(parent.layout.run, program)
        async with connect(parent.kubeconfig) as api:
            await apply_crds(api)
            async with observe(api) as observer:
                stage = Stage(name, parent, api, observer, directory)
                stage.start()
                try:
                    await _warm_up(stage)
                    yield stage
                finally:
                    await stage.stop()


async def _warm_up(stage: Stage) -> None:
    names = [f"warm-{number}" for number in range(_WARM_UP)]
    await create_clusters(stage.api, names)
    if not await stage.observer.until(lambda: stage.observer.ready >= set(names), limit_s=_START_LIMIT_S):
        stage.pids()  # says more when one of them has ended
        log = processes.read_tail(stage.directory, stage.name)
        raise TerminalError(f"{stage.name} made no cluster Ready in {_START_LIMIT_S:.0f} s; the end of its log:\n{log}")
    await stage.settle()


async def apply_crds(api: Api) -> None:
    """Create capn's CRDs and wait until they are served."""
    for path in sorted((REPO / "crds").glob("*.yaml")):
        await api.create(CRD, yaml.safe_load(path.read_text()))
    for resource in (NESTED_CLUSTER, NESTED_MACHINE):
        await _wait_served(api, resource)
    await asyncio.sleep(_CRD_SETTLE_S)


async def _wait_served(api: Api, resource: Resource) -> None:
    """Established is not enough: for a moment after it the API server still answers 404."""
    for _ in range(300):
        with suppress(ApiStatusError):
            await api.call("GET", build_path(resource))
            return
        await asyncio.sleep(0.1)
    raise TerminalError(f"{resource.plural} are not served after 30 s")


async def measure_round(stage: Stage, plan: Plan, number: int) -> Round:
    """B1 and B2, then B6 on the clusters that they made."""
    lone_writes = await _measure_lone(stage, plan)
    names = [f"c-{index:04d}" for index in range(plan.clusters)]
    requests, cpu = await stage.look()
    begun = await create_clusters(stage.api, names)
    await stage.observer.until(lambda: stage.observer.ready >= set(names), limit_s=plan.limit_s)
    seconds = stage.observer.last_ready - begun
    await stage.settle()
    after, cpu_after = await stage.look()
    made, used = after.since(requests), cpu_after.since(cpu)
    available_s = (time.monotonic() - begun) * (os.cpu_count() or 1)
    ready = len(stage.observer.ready & set(names))
    return Round(
        contestant=stage.name,
        number=number,
        clusters=plan.clusters,
        ready=ready,
        seconds=seconds,
        lone_clusters=_LONE,
        lone_writes=lone_writes,
        state_writes=_without_creates(made.writes(), plan.clusters),
        event_writes=made.writes(events=True),
        gets=made.reads("GET"),
        controller_cpu_s=used.controller / plan.clusters,
        api_server_cpu_s=used.api_server / plan.clusters,
        etcd_cpu_s=used.etcd / plan.clusters,
        rss_mib=read_rss_mib(stage.pids()["controller"]),
        foreign_share=max(0.0, used.machine - used.ours) / available_s,
        latencies=await _measure_latencies(stage, plan, names) if ready == plan.clusters else [],
    )


async def _measure_lone(stage: Stage, plan: Plan) -> dict[str, int]:
    """Writes of a few clusters made one after the other, where no two facts can fall into one status by chance."""
    before, _cpu = await stage.look()
    for index in range(_LONE):
        name = f"lone-{index}"
        await create_clusters(stage.api, [name])
        if not await stage.observer.until(lambda name=name: name in stage.observer.ready, limit_s=plan.limit_s):  # type: ignore[misc]
            raise TerminalError(f"{stage.name} did not make {name} Ready in {plan.limit_s:.0f} s")
        await stage.settle(quiet_s=1.0)
    after, _cpu = await stage.look()
    return _without_creates(after.since(before).writes(), _LONE)


def _without_creates(writes: dict[str, int], clusters: int) -> dict[str, int]:
    """The user's own creates are no work of the controller."""
    left = {**writes, "POST nestedclusters": writes.get("POST nestedclusters", 0) - clusters}
    return {call: count for call, count in left.items() if count}


async def _measure_latencies(stage: Stage, plan: Plan, names: Sequence[str]) -> list[Latency]:
    measured, changer = [], Changer(stage.api, names)
    for rate in plan.rates:
        stage.observer.forget()
        load = await changer.run(rate=rate, seconds=plan.rate_seconds)
        await stage.observer.until(lambda: stage.observer.unanswered == 0, limit_s=_ANSWER_LIMIT_S)
        values = stage.observer.latencies
        measured.append(
            Latency(
                wanted_rate=rate,
                reached_rate=load.rate,
                count=len(values),
                p50_ms=quantile(values, 0.5) * _MS,
                p99_ms=quantile(values, 0.99) * _MS,
                refused=load.refused,
                unanswered=stage.observer.unanswered,
            )
        )
        await stage.settle()
    return measured


async def measure_quiet(stage: Stage, plan: Plan) -> list[Quiet]:
    """B3: a rest, then a restart, with as many clusters as the plan says."""
    names = [f"c-{index:04d}" for index in range(plan.clusters)]
    await create_clusters(stage.api, names)
    if not await stage.observer.until(lambda: stage.observer.ready >= set(names), limit_s=plan.limit_s):
        raise TerminalError(f"{stage.name} did not make {plan.clusters} clusters Ready in {plan.limit_s:.0f} s")
    await stage.settle(quiet_s=5 * _QUIET_S)
    return [await _measure_rest(stage, plan.rest_seconds), await _measure_restart(stage)]


async def _measure_rest(stage: Stage, seconds: float) -> Quiet:
    before = await stage.look()
    await asyncio.sleep(seconds)
    return build_quiet("at rest", before, await stage.look(), clusters=len(stage.observer.ready), seconds=seconds)


async def _measure_restart(stage: Stage) -> Quiet:
    """A new manager, client and caches in the same process, so that the simulated machines live on as real ones do."""
    before = await stage.look()
    begun = time.monotonic()
    os.kill(stage.pids()["controller"], signal.SIGHUP)
    while (await stage.look())[0].since(before[0]).reads("LIST") == {}:
        if time.monotonic() > begun + _START_LIMIT_S:
            raise TerminalError(f"{stage.name} lists nothing {_START_LIMIT_S:.0f} s after its restart")
        await asyncio.sleep(0.5)
    await stage.settle(quiet_s=5 * _QUIET_S)
    after, seconds = await stage.look(), time.monotonic() - begun
    return build_quiet("restart", before, after, clusters=len(stage.observer.ready), seconds=seconds)


def build_quiet(
    what: str, before: tuple[Requests, Cpu], after: tuple[Requests, Cpu], *, clusters: int, seconds: float
) -> Quiet:
    """The difference of two looks, without the harness's own watch."""
    made = after[0].since(before[0])
    watches = made.watches - Counter({NESTED_CLUSTER.plural: 1})
    return Quiet(
        what=what,
        clusters=clusters,
        seconds=seconds,
        state_writes=made.writes(),
        event_writes=made.writes(events=True),
        gets=made.reads("GET"),
        lists=made.reads("LIST"),
        watches={name: watches[name] for name in (NESTED_CLUSTER.plural, NESTED_MACHINE.plural)},
        controller_cpu_s=after[1].controller - before[1].controller,
    )
