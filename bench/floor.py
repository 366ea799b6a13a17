"""The floor: the writes of one NestedCluster from create to Ready by the shortest way that Python has.

Role: what no controller can beat: watch, then write, in a straight line a cluster. It keeps no cache, queue, lease or
retry, looks at no machine and no child, and would not survive a restart. Must not: grow.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from bench.api import Api, connect
from bench.job import CLUSTER_PARTS, MACHINE_PARTS, Job
from bench.job import build_cluster_status as cluster_status
from bench.job import build_events, build_finalizer, build_identity
from bench.job import build_machine_status as machine_status
from capn.api.resources import EVENT, NESTED_CLUSTER, NESTED_MACHINE, SECRET, Resource

SLOTS = asyncio.Semaphore(16)  # clusters at once: capn's workers of both kinds
TASKS: set[asyncio.Task[None]] = set()


async def put_status(api: Api, kind: Resource, live: dict[str, Any], status: dict[str, Any], became: Any) -> None:  # noqa: ANN401
    await api.apply(kind, {**build_identity(live), "status": status}, subresource="status")
    for event in build_events(live, became):
        spawn(post_event(api, event))


async def post_event(api: Api, event: dict[str, Any]) -> None:
    await api.create(EVENT, event)


async def make_machine(api: Api, job: Job, manifest: dict[str, Any]) -> dict[str, Any]:
    live: dict[str, Any] = msgspec.json.decode(await api.create(NESTED_MACHINE, manifest))
    await api.create(SECRET, job.build_bootstrap_secret(live))
    return live


async def make_cluster(api: Api, live: dict[str, Any]) -> None:
    async with SLOTS:
        job, (init, join) = Job(live), Job(live).build_machines()
        await api.apply(NESTED_CLUSTER, build_finalizer(live))
        for secret in job.build_secrets():
            await api.create(SECRET, secret)
        first = await make_machine(api, job, init)
        await put_status(api, NESTED_CLUSTER, live, cluster_status(1, CLUSTER_PARTS[:3], ready=0), CLUSTER_PARTS[:3])
        await put_status(api, NESTED_MACHINE, first, machine_status(first, MACHINE_PARTS[:3]), MACHINE_PARTS[:3])
        await put_status(api, NESTED_CLUSTER, live, cluster_status(1, CLUSTER_PARTS[:5], ready=0), CLUSTER_PARTS[3:5])
        second = await make_machine(api, job, join)
        await put_status(api, NESTED_MACHINE, first, machine_status(first, MACHINE_PARTS), (MACHINE_PARTS[3], "Ready"))
        await put_status(api, NESTED_MACHINE, second, machine_status(second, MACHINE_PARTS), (*MACHINE_PARTS, "Ready"))
        await put_status(api, NESTED_CLUSTER, live, cluster_status(1, CLUSTER_PARTS, ready=2), ("Ready",))


async def observe(api: Api, live: dict[str, Any]) -> None:
    status = cluster_status(live["metadata"]["generation"], CLUSTER_PARTS, ready=2)
    await put_status(api, NESTED_CLUSTER, live, status, ())


async def run(kubeconfig: Path) -> None:
    async with connect(kubeconfig) as api:
        async for line in api.watch(NESTED_CLUSTER):
            event = msgspec.json.decode(line)
            live, status = event["object"], event["object"].get("status", {})
            if event["type"] == "ADDED" and "conditions" not in status:
                spawn(make_cluster(api, live))
            elif status.get("phase") == "Ready" and status["observedGeneration"] != live["metadata"]["generation"]:
                spawn(observe(api, live))


def spawn(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
