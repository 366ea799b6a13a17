"""Worker pools: scaling, replacing machines for a change, labels and taints in place; every step that can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_MACHINE, NODE
from capn.kube.memory import MemoryKubeClient
from tests.harness.faults import Call, Fault, FaultyKubeClient
from tests.harness.pools import (
    all_are,
    build_pool,
    child_of,
    node_of,
    set_node_ready,
    worker_names,
    workers_of,
    workers_say,
)
from tests.harness.scenario import NAMESPACE_NAME, Scenario, running_scenario

KEPT: dict[str, Any] = {"healthCheck": {"enabled": False}}


class Seen:
    """The most machines that there were, and the fewest that were Ready, since the change."""

    def __init__(self, scenario: Scenario) -> None:
        self.most, self.fewest = 0, 1 << 20
        self._scenario = scenario

    async def look(self) -> None:
        workers = await workers_of(self._scenario)
        self.most = max(self.most, len(workers))
        ready = [machine for machine in workers if _is_ready(machine)]
        self.fewest = min(self.fewest, len(ready))


@asynccontextmanager
async def looking(scenario: Scenario) -> AsyncIterator[Seen]:
    """Look after every change of a machine, as a watch sees them all."""
    seen = Seen(scenario)
    await seen.look()
    listed = await scenario.api.list(NESTED_MACHINE)

    async def follow() -> None:
        async for _ in scenario.api.watch(NESTED_MACHINE, resource_version=listed.resource_version):
            await seen.look()

    task = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _is_ready(machine: dict[str, Any]) -> bool:
    conditions = machine.get("status", {}).get("conditions", [])
    up = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return up and "deletionTimestamp" not in machine["metadata"]


@pytest.mark.parametrize(
    ("rollout", "most", "fewest"),
    [(None, 4, 3), ({"maxSurge": 0, "maxUnavailable": 1}, 3, 2), ({"maxSurge": 2, "maxUnavailable": 1}, 5, 2)],
)
async def test_a_change_of_size_replaces_machines_within_the_limits(
    scenario: Scenario, rollout: dict[str, int] | None, most: int, fewest: int
) -> None:
    extra: dict[str, Any] = {} if rollout is None else {"rollout": rollout}
    await scenario.create(workers=[build_pool(**extra)])
    await scenario.ready()
    before = {machine["metadata"]["uid"] for machine in await workers_of(scenario)}
    async with looking(scenario) as seen:
        bigger = build_pool(cpus=4, **extra)
        await scenario.patch("c1", {"workers": [bigger]})
        await scenario.until(lambda: all_are(scenario, bigger, count=3))
        await scenario.settle()
    assert seen.most <= most
    assert seen.fewest >= fewest
    assert before.isdisjoint(machine["metadata"]["uid"] for machine in await workers_of(scenario))
    cluster = await scenario.cluster()
    assert cluster is not None
    assert cluster["status"]["workers"] == {"desired": 3, "created": 3, "ready": 3, "updated": 3}
    nodes = [node["metadata"]["name"] for node in (await (await child_of(scenario)).list(NODE)).items]
    assert nodes == ["c1-cp-0", *await worker_names(scenario)]
    writes = scenario.api.writes
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == writes


async def test_the_way_of_writing_a_size_is_no_change(scenario: Scenario) -> None:
    await scenario.create(workers=[{"name": "md", "machine": {"memory": "4Gi"}}])
    await scenario.ready()
    before = [machine["metadata"]["uid"] for machine in await workers_of(scenario)]
    await scenario.patch("c1", {"workers": [{"name": "md", "machine": {"memory": "4096Mi"}}]})
    await scenario.settle()
    assert [machine["metadata"]["uid"] for machine in await workers_of(scenario)] == before


async def test_a_failed_new_machine_stops_the_rollout_and_it_goes_on_when_mended(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool()], **KEPT)
    await scenario.ready()
    scenario.provider.fail_bootstrap("c1-md-3", "error: no such thing")
    bigger = build_pool(cpus=4)
    await scenario.patch("c1", {"workers": [bigger]})
    said = await workers_say(scenario, "RolloutStopped")
    assert "0 of 3 updated" in said["message"] or "1 of 3 updated" in said["message"]
    assert "c1-md-3" in said["message"]
    await scenario.settle()
    assert (await scenario.condition("c1", "Stalled"))["status"] == "True"
    assert "RolloutStopped" in scenario.events.reasons("c1")
    ready = [machine for machine in await workers_of(scenario) if _is_ready(machine)]
    assert len(ready) == 3  # none of those that serve was touched
    writes = scenario.api.writes
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == writes
    scenario.world.failures.clear()
    await scenario.user.delete(NESTED_MACHINE, "c1-md-3", NAMESPACE_NAME)
    await scenario.until(lambda: all_are(scenario, bigger, count=3))


async def test_a_change_taken_back_in_mid_rollout_leaves_the_old_machines(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool()], **KEPT)
    await scenario.ready()
    before = {machine["metadata"]["uid"] for machine in await workers_of(scenario)}
    scenario.provider.fail_bootstrap("c1-md-3", "error: no such thing")
    await scenario.patch("c1", {"workers": [build_pool(cpus=4)]})
    await workers_say(scenario, "RolloutStopped")
    await scenario.patch("c1", {"workers": [build_pool()]})
    await scenario.until(lambda: all_are(scenario, build_pool(), count=3))
    await scenario.settle()
    assert {machine["metadata"]["uid"] for machine in await workers_of(scenario)} == before


@pytest.mark.parametrize("when", ["crash_before", "crash_after"])
async def test_a_rollout_goes_on_from_wherever_the_controller_died(when: Any) -> None:
    """Die at each write to a NestedMachine of a whole rollout, one after the other, in one life of the cluster."""
    async with running_scenario() as scenario:
        await scenario.create(workers=[build_pool(2)])
        await scenario.ready()
        bigger = build_pool(2, cpus=4)
        await scenario.kill()
        async with looking(scenario) as seen:
            await scenario.patch("c1", {"workers": [bigger]})
            for _ in range(40):
                if await all_are(scenario, bigger, count=2):
                    break
                faulty = FaultyKubeClient(scenario.api, [Fault(when, _is_step)])
                await scenario.start(faulty)
                await scenario.until(partial(_crashed_or_done, scenario, faulty, bigger))
                await scenario.kill()
            await scenario.start()
            await scenario.until(lambda: all_are(scenario, bigger, count=2))
            await scenario.settle()
        assert seen.most <= 3
        assert seen.fewest >= 2
        assert len(scenario.world.machines) == 3


def _is_step(call: Call) -> bool:
    return call.resource == NESTED_MACHINE and call.verb in {"create", "delete"}


async def _crashed_or_done(scenario: Scenario, faulty: FaultyKubeClient, pool: dict[str, Any]) -> bool:
    return faulty.crashed or await all_are(scenario, pool, count=2)


async def test_a_pool_shrinks_by_the_annotated_the_sick_and_the_highest(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(4)])
    await scenario.ready()
    patch = {"metadata": {"annotations": {names.ANNOTATION_DELETE_MACHINE: ""}}}
    await scenario.user.merge_patch(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME, patch)
    scenario.advance(60)  # else it is taken for a node that is still starting
    await set_node_ready(scenario, "c1-md-1", "False")
    await workers_say(scenario, "NodesNotReady")

    async def left(*ordinals: int) -> bool:
        return await worker_names(scenario) == [f"c1-md-{ordinal}" for ordinal in ordinals]

    await scenario.patch("c1", {"workers": [build_pool(3)]})
    await scenario.until(lambda: left(1, 2, 3))
    await scenario.patch("c1", {"workers": [build_pool(2)]})
    await scenario.until(lambda: left(2, 3))
    await scenario.patch("c1", {"workers": [build_pool(1)]})
    await scenario.until(lambda: left(2))
    await scenario.patch("c1", {"workers": [build_pool(3)]})  # the lowest free numbers
    await scenario.until(lambda: left(0, 1, 2))
    await scenario.patch("c1", {"workers": []})
    await scenario.until(left)


async def test_labels_and_taints_change_in_place_and_back(scenario: Scenario) -> None:
    first: dict[str, Any] = {
        "labels": {"a.b/tier": "web", "old": "x"},
        "taints": [{"key": "old", "effect": "NoSchedule"}],
    }
    await scenario.create(workers=[build_pool(1, **first)])
    await scenario.ready()
    before = await workers_of(scenario)
    second: dict[str, Any] = {
        "labels": {"a.b/tier": "db", "new": ""},
        "taints": [{"key": "new", "effect": "NoSchedule", "value": "v"}],
    }
    await scenario.patch("c1", {"workers": [build_pool(1, **second)]})

    async def has(labels: dict[str, str], taints: list[str], *, lacks: str) -> bool:
        node = await node_of(scenario, "c1-md-0")
        live = node["metadata"]["labels"]
        return (
            labels.items() <= live.items()
            and lacks not in live
            and [taint["key"] for taint in node["spec"].get("taints", [])] == taints
        )

    await scenario.until(lambda: has({"a.b/tier": "db", "new": ""}, ["new"], lacks="old"))
    await scenario.patch("c1", {"workers": [build_pool(1)]})
    await scenario.until(lambda: has({}, [], lacks="new"))
    await scenario.ready()
    after = await workers_of(scenario)
    assert [machine["metadata"]["uid"] for machine in after] == [machine["metadata"]["uid"] for machine in before]
    labels = (await node_of(scenario, "c1-md-0"))["metadata"]["labels"]
    assert "node-role.kubernetes.io/worker" in labels
    writes, child = scenario.api.writes, await child_of(scenario)
    child_writes = child.writes
    await scenario.restart()
    await scenario.settle()
    assert (scenario.api.writes, child.writes) == (writes, child_writes)


async def test_drift_of_a_node_is_put_right_and_what_others_put_there_stays(scenario: Scenario) -> None:
    ours: dict[str, Any] = {"labels": {"tier": "web"}, "taints": [{"key": "ours", "effect": "NoSchedule"}]}
    await scenario.create(workers=[build_pool(1, **ours)])
    await scenario.ready()
    admin = (await child_of(scenario)).as_manager("admin")
    theirs = {"key": "theirs", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    by_hand = {"metadata": {"labels": {"tier": "wrong", "theirs": "y"}}, "spec": {"taints": [theirs]}}
    await admin.merge_patch(NODE, "c1-md-0", None, by_hand)

    async def is_right() -> bool:
        node = await node_of(scenario, "c1-md-0")
        labels, taints = node["metadata"]["labels"], node["spec"]["taints"]
        return (labels["tier"], labels["theirs"]) == ("web", "y") and [one["key"] for one in taints] == [
            "theirs",
            "ours",
        ]

    await scenario.until(is_right)
    assert (await node_of(scenario, "c1-md-0"))["spec"]["taints"][0] == theirs


async def test_a_child_that_refuses_labels_is_told_of_and_keeps_its_machine(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    refuse = Fault("refuse", lambda call: call.resource == NODE, times=1000, code=403)
    inner = scenario.provider.open_child

    async def open_child(*arguments: Any) -> Any:
        return FaultyKubeClient(await inner(*arguments), [refuse])

    await scenario.kill()
    monkeypatch.setattr(type(scenario.provider), "open_child", lambda _, *arguments: open_child(*arguments))
    await scenario.start()
    await scenario.patch("c1", {"workers": [build_pool(1, labels={"a": "b"})]})

    async def is_said() -> bool:
        return (await scenario.condition("c1-md-0", "NodeConfigured", of="machine")).get("reason") == "Refused"

    await scenario.until(is_said)
    assert (await scenario.condition("c1-md-0", "NodeHealthy", of="machine"))["status"] == "True"
    refuse.times = 0
    await scenario.until(lambda: _has_label(scenario, "a"))


async def _has_label(scenario: Scenario, key: str) -> bool:
    return key in (await node_of(scenario, "c1-md-0"))["metadata"]["labels"]


async def test_without_room_for_a_surge_the_rollout_says_what_to_do(scenario: Scenario) -> None:
    network = {"podCIDR": "10.244.0.0/23"}
    await scenario.create(workers=[build_pool(1)], network=network)
    await scenario.ready()
    await scenario.patch("c1", {"workers": [build_pool(1, cpus=4)]})
    said = await workers_say(scenario, "RolloutBlocked")
    assert "maxUnavailable" in said["message"]
    bigger = build_pool(1, cpus=4, rollout={"maxSurge": 0, "maxUnavailable": 1})
    await scenario.patch("c1", {"workers": [bigger]})
    await scenario.until(lambda: all_are(scenario, bigger, count=1))


async def test_workers_follow_a_version_only_when_every_control_plane_has_it(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    scenario.provider.withhold_node("c1-cp-1")
    await scenario.patch("c1", {"version": "v1.37.3", "workers": [build_pool(2)]})
    said = await workers_say(scenario, "WaitingForControlPlane")
    assert "v1.37.3" in said["message"]
    await scenario.until(lambda: _versions_are(scenario, "v1.37.2", 2))
    await scenario.settle()
    scenario.world.silent_nodes.clear()
    await scenario.user.delete(NESTED_MACHINE, "c1-cp-1", NAMESPACE_NAME)  # another one is made
    await scenario.until(lambda: _versions_are(scenario, "v1.37.3", 2))


async def _versions_are(scenario: Scenario, version: str, count: int) -> bool:
    return [machine["spec"]["version"] for machine in await workers_of(scenario)] == [version] * count


async def _set_version(user: MemoryKubeClient, machine: str, version: str) -> None:
    await user.merge_patch(NESTED_MACHINE, machine, NAMESPACE_NAME, {"spec": {"version": version}})


@pytest.mark.parametrize(("worker", "words"), [("v1.34.9", "at most 3 minors older"), ("v1.39.0", "may not be newer")])
async def test_a_version_that_leaves_workers_outside_the_skew_is_refused(
    scenario: Scenario, worker: str, words: str
) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    await scenario.kill()
    await _set_version(scenario.user, "c1-md-0", worker)
    await scenario.patch("c1", {"version": "v1.38.0"})
    await scenario.start()

    async def is_refused() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("reason") == "VersionSkew"

    await scenario.until(is_refused)
    assert words in (await scenario.condition("c1", "Stalled"))["message"]
