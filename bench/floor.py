"""The floor: the writes of one NestedCluster from create to Ready by the shortest way that Python has.

Role: what no controller can beat: watch, then write, in a straight line a cluster. It keeps no cache, queue, lease or
retry, looks at no machine and no child, and would not survive a restart. Must not: grow.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.api import Api, connect
from bench.job import CLUSTER_PARTS as WHOLE
from bench.job import MACHINE_PARTS as UP
from bench.job import Job, build_events, build_finalizer, build_identity
from bench.job import build_cluster_status as cluster_status
from bench.job import build_machine_status as machine_status
from capn.api.resources import EVENT, NESTED_CLUSTER, NESTED_MACHINE, SECRET, Resource

Live = dict[str, Any]
SLOTS = asyncio.Semaphore(16)  # clusters at once: capn's workers of both kinds


class Floor(NamedTuple):
    """What all of it shares."""

    api: Api
    tasks: asyncio.TaskGroup
    begun: set[str]
    newest: dict[str, Live]  # changed specs that wait, by name: one writer an object, and only the last change counts
    busy: set[str]


async def put_status(floor: Floor, kind: Resource, live: Live, status: Live, became: Sequence[str] = ()) -> None:
    """A status, and an Event for each condition that became true, not waited for."""
    await floor.api.apply(kind, {**build_identity(live), "status": status}, subresource="status")
    for event in build_events(live, became):
        floor.tasks.create_task(floor.api.create(EVENT, event))


async def make_machine(floor: Floor, job: Job, manifest: Live) -> Live:
    """A machine and its bootstrap Secret."""
    live: Live = msgspec.json.decode(await floor.api.create(NESTED_MACHINE, manifest))
    await floor.api.create(SECRET, job.build_bootstrap_secret(live))
    return live


async def make_cluster(floor: Floor, live: Live) -> None:
    """All writes of a cluster, in the order in which its facts depend on each other."""
    async with SLOTS:
        job = Job(live)
        init, join = job.build_machines()
        await floor.api.patch(NESTED_CLUSTER, build_finalizer(live))
        for secret in job.build_secrets():
            await floor.api.create(SECRET, secret)
        first = await make_machine(floor, job, init)
        await put_status(floor, NESTED_CLUSTER, live, cluster_status(1, WHOLE[:3], ready=0), WHOLE[:3])
        await put_status(floor, NESTED_MACHINE, first, machine_status(first, UP[:2]), UP[:2])
        await put_status(floor, NESTED_MACHINE, first, machine_status(first, UP[:3]), UP[2:3])
        await put_status(floor, NESTED_CLUSTER, live, cluster_status(1, WHOLE[:5], ready=0), WHOLE[3:5])
        second = await make_machine(floor, job, join)
        await put_status(floor, NESTED_MACHINE, first, machine_status(first, UP), (UP[3], "Ready"))
        await put_status(floor, NESTED_CLUSTER, live, cluster_status(1, WHOLE[:6], ready=1))
        await put_status(floor, NESTED_MACHINE, second, machine_status(second, UP[:2]), UP[:2])
        await put_status(floor, NESTED_MACHINE, second, machine_status(second, UP), (*UP[2:], "Ready"))
        await put_status(floor, NESTED_CLUSTER, live, cluster_status(1, WHOLE, ready=2), ("Ready",))


async def answer(floor: Floor, name: str) -> None:
    """B6: a changed spec is answered by a status of that generation."""
    while (live := floor.newest.pop(name, None)) is not None:
        async with SLOTS:
            status = cluster_status(live["metadata"]["generation"], WHOLE, ready=2)
            await put_status(floor, NESTED_CLUSTER, live, status)
    floor.busy.discard(name)


def see(floor: Floor, live: Live) -> None:
    """Begin what a cluster asks for; one that was seen before asks for nothing again."""
    name, generation, status = live["metadata"]["name"], live["metadata"]["generation"], live.get("status", {})
    if name not in floor.begun:
        floor.begun.add(name)
        floor.tasks.create_task(make_cluster(floor, live))
    elif status.get("phase") == "Ready" and status["observedGeneration"] != generation:
        floor.newest[name] = live
        if name not in floor.busy:
            floor.busy.add(name)
            floor.tasks.create_task(answer(floor, name))


async def follow(floor: Floor) -> None:
    """See all clusters, again after the API server has ended the watch, as it may at any time."""
    while True:
        async for line in floor.api.watch(NESTED_CLUSTER):
            see(floor, msgspec.json.decode(line)["object"])


async def run(kubeconfig: Path) -> None:
    """Until killed."""
    async with connect(kubeconfig) as api, asyncio.TaskGroup() as tasks:
        await follow(Floor(api, tasks, set(), {}, set()))


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
