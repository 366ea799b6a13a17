"""Control planes over time: more, fewer, replaced, lost; etcd's membership goes with them and its quorum never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_MACHINE, NODE, POD
from capn.controllers.deps import INDEX_CLUSTER
from capn.controllers.machine.leaving import LIMIT as LEAVE_LIMIT
from capn.providers.base import MachineRef, MachineState
from capn.providers.memory_etcd import SimulatedEtcd
from capn.providers.memory_static_pods import tell_readiness
from tests.harness.pools import child_of, set_node_ready
from tests.harness.scenario import NAMESPACE_NAME, Scenario, running_scenario

LIMIT_S = 60.0


async def etcd_of(scenario: Scenario, name: str = "c1") -> SimulatedEtcd:
    cluster = await scenario.cluster(name)
    assert cluster is not None
    return scenario.world.clusters[cluster["metadata"]["uid"]].etcd


async def control_planes(scenario: Scenario) -> list[str]:
    items = (await scenario.api.list(NESTED_MACHINE, namespace=NAMESPACE_NAME)).items
    return sorted(item["metadata"]["name"] for item in items if item["spec"]["role"] == names.ROLE_CONTROL_PLANE)


async def nodes(scenario: Scenario) -> list[str]:
    cluster = await scenario.cluster()
    assert cluster is not None
    return sorted(
        item["metadata"]["name"] for item in (await scenario.api_of(cluster["metadata"]["uid"]).list(NODE)).items
    )


async def scaled(scenario: Scenario, replicas: int) -> None:
    await scenario.patch("c1", {"controlPlane": {"replicas": replicas}})
    await has_settled(scenario, replicas)


async def has_settled(scenario: Scenario, replicas: int) -> None:
    async def is_there() -> bool:
        ready = (await scenario.condition("c1", "Ready")).get("status") == "True"
        return ready and len(await control_planes(scenario)) == replicas

    await scenario.until(is_there, limit_s=LIMIT_S)
    await scenario.settle()


def voters(etcd: SimulatedEtcd) -> list[str]:
    assert not [member.name for member in etcd.members if member.is_learner]
    return sorted(member.name for member in etcd.members)


@asynccontextmanager
async def quorum_watched(scenario: Scenario) -> AsyncIterator[None]:
    """Fails when at any moment fewer voters live than agree on anything (invariant S5)."""
    etcd, seen = await etcd_of(scenario), 0

    async def watch() -> None:
        nonlocal seen
        while True:
            voting = [member for member in etcd.members if not member.is_learner]
            living = [member for member in voting if etcd.runs(member.machine)]
            assert len(living) > len(voting) // 2, f"{len(living)} of {len(voting)} live"
            seen += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(watch())
    try:
        yield
        assert not task.done() or task.exception() is None, task.exception()
        assert seen > 10
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_from_one_to_three_to_five_to_three_to_one(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    etcd = await etcd_of(scenario)
    async with quorum_watched(scenario):
        for replicas in (3, 5, 3, 1):
            await scaled(scenario, replicas)
            expected = [f"c1-cp-{ordinal}" for ordinal in range(replicas)]
            assert await control_planes(scenario) == expected
            assert voters(etcd) == expected
            assert await nodes(scenario) == expected
    assert {vm.ref.name for vm in scenario.world.machines.values()} == {"c1-cp-0"}


async def test_a_settled_cluster_of_three_is_not_written_to(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    before = scenario.api.store.revision
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.store.revision == before


async def test_the_leader_hands_on_before_it_goes(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    mark = {"metadata": {"annotations": {names.ANNOTATION_DELETE_MACHINE: ""}}}
    etcd = await etcd_of(scenario)
    leader = etcd.leader
    assert leader is not None
    await scenario.user.merge_patch(NESTED_MACHINE, leader.name, NAMESPACE_NAME, mark)
    async with quorum_watched(scenario):
        await scaled(scenario, 1)
    assert leader.name not in await control_planes(scenario)
    assert voters(etcd) == await control_planes(scenario)


async def has_virtual_endpoint(scenario: Scenario) -> SimulatedEtcd:
    """From now on the control planes hold the endpoint's address among themselves, as on libvirt."""
    scenario.world.virtual_endpoints = True
    return await etcd_of(scenario)


async def test_a_control_plane_leaves_the_endpoint_before_its_member_goes(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    etcd = await has_virtual_endpoint(scenario)
    await scaled(scenario, 1)
    # A pod whose member is gone takes no command any more: who is in this list left before.
    assert {machine.ref.name for machine in etcd.left} == {"c1-cp-1", "c1-cp-2"}


async def test_a_guest_that_does_not_leave_is_removed_after_its_time(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    etcd = await has_virtual_endpoint(scenario)
    etcd.stays = True
    await scenario.patch("c1", {"controlPlane": {"replicas": 1}})

    async def waits() -> bool:
        deleting = await scenario.condition("c1-cp-2", "Deleting", of="machine")
        return deleting.get("reason") == "LeavingEndpoint"

    await scenario.until(waits, limit_s=LIMIT_S)
    await scenario.settle()
    assert "c1-cp-2" in await control_planes(scenario)
    scenario.shift += LEAVE_LIMIT

    async def is_gone() -> bool:
        return "c1-cp-2" not in await control_planes(scenario)

    await scenario.until(is_gone, limit_s=LIMIT_S)


async def three_are_larger(scenario: Scenario) -> None:
    """Wait until all three control planes have 4Gi and nothing more is to be done."""

    async def is_done() -> bool:
        vms = scenario.world.machines.values()
        return len(vms) == 3 and all(vm.request.memory_mib == 4096 for vm in vms)

    await scenario.until(is_done, limit_s=LIMIT_S)
    await has_settled(scenario, 3)


async def test_a_change_of_size_replaces_one_after_the_other(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    before = {vm.ref.uid for vm in scenario.world.machines.values()}
    async with quorum_watched(scenario):
        await scenario.patch("c1", {"machine": {"memory": "4Gi"}})
        await three_are_larger(scenario)
    assert not before & set(scenario.world.machines)
    assert voters(await etcd_of(scenario)) == await control_planes(scenario) == await nodes(scenario)


async def test_the_only_control_plane_is_changed_by_way_of_a_second(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    async with quorum_watched(scenario):
        await scenario.patch("c1", {"machine": {"memory": "4Gi"}})

        async def is_done() -> bool:
            return await control_planes(scenario) == ["c1-cp-1"]

        await scenario.until(is_done, limit_s=LIMIT_S)
        await has_settled(scenario, 1)
    assert await nodes(scenario) == ["c1-cp-1"]


async def test_a_lost_control_plane_is_replaced_while_there_is_quorum(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    ref = await scenario.machine_ref("c1-cp-0")
    scenario.provider.remove(ref)

    async def is_replaced() -> bool:
        found = await scenario.machine("c1-cp-0")
        return found is not None and found["metadata"]["uid"] != ref.uid

    async with quorum_watched(scenario):
        await scenario.until(is_replaced, limit_s=LIMIT_S)
        await has_settled(scenario, 3)
    # A second cluster was not begun: the members that lived are the same.
    assert voters(await etcd_of(scenario)) == ["c1-cp-0", "c1-cp-1", "c1-cp-2"]


async def test_without_quorum_nothing_is_removed_and_it_is_said(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    refs = [await scenario.machine_ref(f"c1-cp-{ordinal}") for ordinal in (0, 1)]
    for ref in refs:
        scenario.provider.remove(ref)

    async def is_said() -> bool:
        found = await scenario.condition("c1", "ControlPlaneReady")
        return found.get("reason") == "MachineLost" and "c1-cp-0" in found.get("message", "")

    await scenario.until(is_said, limit_s=LIMIT_S)
    assert await control_planes(scenario) == ["c1-cp-0", "c1-cp-1", "c1-cp-2"]
    assert len((await etcd_of(scenario)).members) == 3


@pytest.mark.parametrize("replicas", [3, 1])
async def test_a_controller_that_dies_in_the_middle_goes_on(replicas: int) -> None:
    """Killed again and again, at whatever step it is."""
    async with running_scenario() as scenario:
        await scenario.create(controlPlane={"replicas": 4 - replicas})
        await has_settled(scenario, 4 - replicas)
        await scenario.patch("c1", {"controlPlane": {"replicas": replicas}})
        async with quorum_watched(scenario):
            for _again in range(8):
                await asyncio.sleep(0.05)
                await scenario.restart()
            await has_settled(scenario, replicas)
        assert voters(await etcd_of(scenario)) == await control_planes(scenario) == await nodes(scenario)


async def test_a_cache_that_is_behind_has_no_second_one_leave(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    assert scenario.controllers is not None
    informer = scenario.controllers.machines
    before = list(informer.by_index(INDEX_CLUSTER, f"{NAMESPACE_NAME}/c1"))
    asked: list[str] = []

    async def keep_vm(ref: MachineRef) -> bool:
        asked.append(ref.name)
        return False

    monkeypatch.setattr(scenario.provider, "delete_machine", keep_vm)
    await scenario.user.delete(NESTED_MACHINE, "c1-cp-1", NAMESPACE_NAME)

    async def waits_for_its_vm() -> bool:
        return "c1-cp-1" in asked

    await scenario.until(waits_for_its_vm, limit_s=LIMIT_S)
    with monkeypatch.context() as behind:
        behind.setattr(informer, "by_index", lambda _index, _value: before)
        await scenario.patch("c1", {"controlPlane": {"replicas": 1}})
        await scenario.settle()
        machine = await scenario.api.get(NESTED_MACHINE, "c1-cp-2", NAMESPACE_NAME)
        assert machine is not None
        assert "deletionTimestamp" not in machine["metadata"]
    monkeypatch.undo()
    await has_settled(scenario, 1)


async def test_a_stopped_member_does_not_let_another_go(scenario: Scenario) -> None:
    """A person deletes a machine while another is down: its member stays until the others are a quorum without it."""
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    down: Any = scenario.world.machines[(await scenario.machine_ref("c1-cp-2")).uid]
    etcd = await etcd_of(scenario)
    runs, etcd.runs = etcd.runs, lambda machine: machine is not down and runs(machine)
    await scenario.user.delete(NESTED_MACHINE, "c1-cp-1", NAMESPACE_NAME)

    async def is_said() -> bool:
        found = await scenario.condition("c1-cp-1", "Deleting", of="machine")
        return found.get("reason") == "EtcdMemberNeeded" and "c1-cp-2" in found.get("message", "")

    await scenario.until(is_said)
    ref = await scenario.machine_ref("c1-cp-1")
    assert scenario.world.machines[ref.uid].state is MachineState.RUNNING
    etcd.runs = runs
    await scenario.until(lambda: ref.uid not in scenario.world.machines, limit_s=LIMIT_S)
    await has_settled(scenario, 3)


async def says(scenario: Scenario, reason: str) -> dict[str, Any]:
    """Wait until ControlPlaneReady has this reason; the condition."""

    async def is_said() -> bool:
        return (await scenario.condition("c1", "ControlPlaneReady")).get("reason") == reason

    await scenario.until(is_said, limit_s=LIMIT_S)
    return await scenario.condition("c1", "ControlPlaneReady")


async def rounds(scenario: Scenario) -> list[tuple[str, int]]:
    cluster = await scenario.cluster()
    assert cluster is not None
    return [(record["pool"], record["count"]) for record in cluster["status"].get("remediations", [])]


async def test_one_that_does_not_join_is_replaced(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 1})
    await has_settled(scenario, 1)
    scenario.provider.fail_bootstrap("c1-cp-1", "etcdserver: request timed out", stage="kubeadm/etcd")
    await scenario.patch("c1", {"controlPlane": {"replicas": 3}})
    failed: set[str] = set()

    async def is_replaced() -> bool:
        found = await scenario.machine("c1-cp-1")
        if found is not None and found.get("status", {}).get("failureReason"):
            failed.add(found["metadata"]["uid"])
            scenario.world.failures.clear()
        return bool(failed) and found is not None and found["metadata"]["uid"] not in failed

    async with quorum_watched(scenario):
        await scenario.until(is_replaced, limit_s=LIMIT_S)
        await has_settled(scenario, 3)
    assert len(failed) == 1
    assert voters(await etcd_of(scenario)) == ["c1-cp-0", "c1-cp-1", "c1-cp-2"]
    assert await rounds(scenario) == [("cp", 1)]
    told = [message for name, _, reason, message in scenario.events.lines if (name, reason) == ("c1", "Remediated")]
    assert len(told) == 1
    assert "c1-cp-1 is replaced: its bootstrap failed (Timeout)" in told[0]


async def test_one_that_never_joins_is_tried_so_often_and_then_named(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 1}, healthCheck={"maxRetries": 1})
    await has_settled(scenario, 1)
    scenario.provider.fail_bootstrap("c1-cp-1", "error: no such thing")
    await scenario.patch("c1", {"controlPlane": {"replicas": 3}})
    said = await says(scenario, "RemediationExhausted")
    assert "control planes: replacing 1 times in a row did not help (c1-cp-1: its bootstrap failed" in said["message"]
    await scenario.settle()
    assert (await scenario.condition("c1", "Stalled"))["status"] == "True"
    before = await scenario.machine_ref("c1-cp-1")
    for _ in range(3):
        scenario.advance(24 * 3600)
        await scenario.restart()
        await scenario.settle()
    assert await scenario.machine_ref("c1-cp-1") == before
    assert voters(await etcd_of(scenario)) == ["c1-cp-0"]


async def test_one_whose_node_is_not_ready_for_too_long_is_replaced_and_two_are_not(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    first = await scenario.machine_ref("c1-cp-1")
    scenario.advance(60)
    await set_node_ready(scenario, "c1-cp-1", "Unknown")
    said = await says(scenario, "NodesNotReady")
    assert "c1-cp-1" in said["message"]
    scenario.advance(290)
    await scenario.settle()
    assert await scenario.machine_ref("c1-cp-1") == first
    scenario.advance(20)

    async def is_another() -> bool:
        found = await scenario.machine("c1-cp-1")
        return found is not None and found["metadata"]["uid"] != first.uid

    async with quorum_watched(scenario):
        await scenario.until(is_another, limit_s=LIMIT_S)
        await has_settled(scenario, 3)
    kept = [await scenario.machine_ref(f"c1-cp-{ordinal}") for ordinal in (0, 2)]
    scenario.advance(60)
    for ref in kept:
        await set_node_ready(scenario, ref.name, "Unknown")
    await says(scenario, "NodesNotReady")
    scenario.advance(3600)
    await scenario.settle()
    assert [await scenario.machine_ref(ref.name) for ref in kept] == kept


async def test_the_only_one_is_never_replaced_for_its_node(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 1})
    await has_settled(scenario, 1)
    before = await scenario.machine_ref("c1-cp-0")
    scenario.advance(60)
    await set_node_ready(scenario, "c1-cp-0", "Unknown")
    await says(scenario, "WaitingForMachines")
    scenario.advance(3600)
    await scenario.settle()
    assert await scenario.machine_ref("c1-cp-0") == before
    assert await rounds(scenario) == []


async def test_nobody_joins_while_a_member_of_etcd_is_down(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    down: Any = scenario.world.machines[(await scenario.machine_ref("c1-cp-2")).uid]
    etcd = await etcd_of(scenario)
    runs, etcd.runs = etcd.runs, lambda machine: machine is not down and runs(machine)
    await scenario.patch("c1", {"controlPlane": {"replicas": 5}})
    said = await says(scenario, "EtcdUnhealthy")
    assert said["message"].startswith("3 of 5 are there; the next step waits: 2 of 3 etcd voters are healthy")
    await scenario.settle()
    assert len(await control_planes(scenario)) == 3
    etcd.runs = runs
    scenario.advance(15)
    await scenario.restart()
    await has_settled(scenario, 5)


async def set_pod_ready(scenario: Scenario, pod: str, *, ready: bool) -> None:
    """Let the kubelet say of a static pod that it answers its probe, or not; and time pass until it is looked at."""
    (scenario.world.unready_pods.discard if ready else scenario.world.unready_pods.add)(pod)
    await tell_readiness((await child_of(scenario)).as_manager("kubelet"), pod, ready=ready)
    scenario.advance(15)


async def held_up(scenario: Scenario, pod: str) -> dict[str, Any]:
    """One control plane shall become three, and this static pod does not answer; what ControlPlaneReady says then."""
    await scenario.create(controlPlane={"replicas": 1})
    await has_settled(scenario, 1)
    scenario.world.unready_pods.add(pod)
    await scenario.patch("c1", {"controlPlane": {"replicas": 3}})
    return await says(scenario, "ComponentsNotReady")


async def test_the_next_one_waits_for_the_programs_of_the_one_before(scenario: Scenario) -> None:
    said = await held_up(scenario, "kube-apiserver-c1-cp-1")
    assert said["message"] == "2 of 3 are there; the next step waits: not ready yet: kube-apiserver of c1-cp-1"
    await scenario.settle()
    assert await control_planes(scenario) == ["c1-cp-0", "c1-cp-1"]
    await set_pod_ready(scenario, "kube-apiserver-c1-cp-1", ready=True)
    await has_settled(scenario, 3)


async def test_all_is_well_when_the_last_ones_programs_are_and_then_nobody_asks(scenario: Scenario) -> None:
    said = await held_up(scenario, "etcd-c1-cp-2")
    assert said["message"] == "not ready yet: etcd of c1-cp-2"
    await scenario.settle()
    assert len(await control_planes(scenario)) == 3
    assert (await scenario.condition("c1", "Ready"))["status"] == "False"
    await set_pod_ready(scenario, "etcd-c1-cp-2", ready=True)
    await has_settled(scenario, 3)
    child = await child_of(scenario)
    before = child.requests[("list", "pods")]
    assert before > 0
    await set_pod_ready(scenario, "etcd-c1-cp-2", ready=False)
    await scenario.settle()
    assert child.requests[("list", "pods")] == before
    assert (await child.list(POD, namespace="kube-system")).items


async def test_none_leaves_while_one_that_stays_is_not_all_there_but_that_one_may(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    await set_pod_ready(scenario, "kube-scheduler-c1-cp-1", ready=False)
    await scenario.patch("c1", {"controlPlane": {"replicas": 1}})
    said = await says(scenario, "ComponentsNotReady")
    assert said["message"].startswith("c1-cp-2 is one more than are wanted; the next step waits: not ready yet: kube-s")
    await scenario.settle()
    assert len(await control_planes(scenario)) == 3
    mark = {"metadata": {"annotations": {names.ANNOTATION_DELETE_MACHINE: ""}}}
    await scenario.user.merge_patch(NESTED_MACHINE, "c1-cp-1", NAMESPACE_NAME, mark)
    scenario.advance(15)
    await has_settled(scenario, 1)
    assert await control_planes(scenario) == ["c1-cp-0"]


async def test_a_change_replaces_one_whose_programs_do_not_run(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    await set_pod_ready(scenario, "kube-scheduler-c1-cp-1", ready=False)
    scenario.world.unready_pods.clear()  # on the machines to come it runs
    await scenario.patch("c1", {"machine": {"memory": "4Gi"}})
    await three_are_larger(scenario)
