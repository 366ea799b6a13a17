"""A machine's node is drained before its VM goes: budgets, the time limit, everything that ends a drain early."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, NODE, POD, POD_DISRUPTION_BUDGET
from capn.providers.base import MachineRef, MachineState
from capn.providers.memory import MemoryProvider
from capn.settings import MemoryEndpoint
from tests.harness.scenario import NAMESPACE_NAME, Scenario, running_scenario
from tests.harness.workload import APP, Workload

MACHINE, CLUSTER = "c1-md-0", "c1"
ONE_WORKER = [{"name": "md", "replicas": 1}]


async def make(scenario: Scenario, **spec: Any) -> Workload:
    """A ready cluster, and what runs in it."""
    made = await scenario.create(**{"workers": ONE_WORKER, **spec})
    await scenario.ready()
    return Workload(scenario.api_of(made["metadata"]["uid"]))


async def delete_machine(scenario: Scenario, name: str = MACHINE) -> MachineRef:
    ref = await scenario.machine_ref(name)
    await scenario.user.delete(NESTED_MACHINE, name, NAMESPACE_NAME)
    return ref


def wake(scenario: Scenario, ref: MachineRef) -> None:
    """Look again now, not in some seconds."""
    assert scenario.controllers is not None
    scenario.controllers._wake_ref(ref)


def written(requests: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    return {call: count for call, count in requests.items() if call[0] not in {"get", "list", "watch"}}


async def says(scenario: Scenario, words: str, *, name: str = MACHINE) -> bool:
    found = await scenario.condition(name, "Deleting", of="machine")
    return found.get("reason") == "Draining" and words in found.get("message", "")


async def is_gone(scenario: Scenario, ref: MachineRef) -> bool:
    """The VM and its machine; a new machine of the name may be there already."""
    found = await scenario.machine(ref.name)
    return ref.uid not in scenario.world.machines and (found is None or found["metadata"]["uid"] != ref.uid)


def woken(scenario: Scenario, ref: MachineRef, check: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    """As `check`, with the machine looked at each time."""

    async def look() -> bool:
        wake(scenario, ref)
        return await check()

    return look


async def test_pods_leave_before_the_vm_does_and_the_node_last(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await workload.run("web-2", MACHINE, lingers=True)
    await workload.run("elsewhere", "c1-cp-0")
    seen = []
    delete_vm = MemoryProvider.delete_machine

    async def delete(provider: MemoryProvider, ref: MachineRef) -> bool:
        seen.append((ref.name, await workload.names(), await workload.api.get(NODE, MACHINE) is not None))
        return await delete_vm(provider, ref)

    monkeypatch.setattr(MemoryProvider, "delete_machine", delete)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, f"1 pod left on {MACHINE}: {APP}/web-2 (is ending)"))
    assert await workload.is_cordoned(MACHINE)
    assert not await workload.is_cordoned("c1-cp-0")
    assert ref.uid in scenario.world.machines
    assert seen == []
    await workload.end("web-2")
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert seen[0] == (MACHINE, ["elsewhere"], True)
    await scenario.ready()
    assert not await workload.is_cordoned(MACHINE)  # the new one


async def test_what_a_drain_leaves_alone(scenario: Scenario) -> None:
    workload = await make(scenario)
    daemon = [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": True}]
    await workload.run("daemon", MACHINE, ownerReferences=daemon)
    await workload.run("static", MACHINE, annotations={"kubernetes.io/config.mirror": "x"})
    await workload.run("job", MACHINE)
    await workload.set_phase("job", "Succeeded")
    await workload.guard(allowed=0)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: is_gone(scenario, ref))
    assert sorted(await workload.names()) == ["daemon", "job", "static"]
    assert workload.api.requests["create", "pods/eviction"] == 0
    assert scenario.events.reasons(MACHINE).count("DrainSkipped") == 0


async def test_a_budget_holds_the_machine_until_it_is_lifted(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await workload.run("web-2", MACHINE)
    await workload.guard(allowed=0)
    ref = await delete_machine(scenario)
    words = "The disruption budget web needs 1 healthy pods and has 1 currently"
    both = f"2 pods left on {MACHINE}: {APP}/web-1 ({words}), {APP}/web-2 ({words})"
    await scenario.until(lambda: says(scenario, both))
    assert await says(scenario, "after 600 s (spec.drain)")
    await scenario.settle()
    before = scenario.api.requests.copy()
    for _ in range(5):
        wake(scenario, ref)
        await scenario.settle()
    assert written(scenario.api.requests - before) == {}, "a drain that waits writes nothing"
    await workload.guard(allowed=1)
    await scenario.until(woken(scenario, ref, lambda: says(scenario, "1 pod left")))
    assert ref.uid in scenario.world.machines
    await workload.api.delete(POD_DISRUPTION_BUDGET, "web", APP)
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert await workload.names() == []


async def test_a_budget_that_never_allows_holds_it_until_the_time_limit(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await workload.guard(allowed=0)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "1 pod left"))
    scenario.shift = timedelta(seconds=500)
    wake(scenario, ref)
    await scenario.settle()
    assert ref.uid in scenario.world.machines
    scenario.shift = timedelta(seconds=601)
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert await workload.names() == ["web-1"], "nothing is deleted against its budget"
    told = [line for line in scenario.events.lines if line[2] == "DrainTimedOut"]
    assert len(told) == 1
    assert told[0][:2] == (MACHINE, "Warning")
    assert f"{APP}/web-1 (The disruption budget web" in told[0][3]


async def test_a_shorter_limit_ends_a_drain_that_hangs(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await workload.guard(allowed=0)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "after 600 s"))
    scenario.shift = timedelta(seconds=300)
    await scenario.patch(CLUSTER, {"drain": {"timeoutSeconds": 60}})
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert "DrainTimedOut" in scenario.events.reasons(MACHINE)


async def test_a_restart_in_mid_drain_neither_forgets_nor_begins_anew(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    await workload.run("web-2", MACHINE)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "web-1 (is ending)"))
    begun = (await scenario.condition(MACHINE, "Deleting", of="machine"))["lastTransitionTime"]
    asked = workload.api.requests["create", "pods/eviction"]
    await scenario.settle()
    before = scenario.api.requests.copy()
    await scenario.restart()
    await scenario.settle()
    assert written(scenario.api.requests - before) == {}
    assert workload.api.requests["create", "pods/eviction"] == asked
    assert (await scenario.condition(MACHINE, "Deleting", of="machine"))["lastTransitionTime"] == begun
    assert ref.uid in scenario.world.machines
    scenario.shift = timedelta(seconds=601)
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert scenario.events.reasons(MACHINE).count("DrainTimedOut") == 1


async def test_a_controller_that_was_down_drains_all_the_same(scenario: Scenario) -> None:
    """Time that passed before anybody looked is not the pods'."""
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    await scenario.kill()
    ref = await delete_machine(scenario)
    scenario.shift = timedelta(hours=1)
    await scenario.start()
    await scenario.until(lambda: says(scenario, "web-1 (is ending)"))
    wake(scenario, ref)
    await scenario.settle()
    assert ref.uid in scenario.world.machines
    await workload.end("web-1")
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))


async def test_a_pause_is_not_counted(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    await scenario.patch(CLUSTER, {"paused": True})
    ref = await delete_machine(scenario)

    async def is_paused() -> bool:
        return (await scenario.condition(MACHINE, "Deleting", of="machine")).get("reason") == "Paused"

    await scenario.until(is_paused)
    scenario.shift = timedelta(hours=1)
    await scenario.patch(CLUSTER, {"paused": False})
    await scenario.until(lambda: says(scenario, "web-1 (is ending)"))
    wake(scenario, ref)
    await scenario.settle()
    assert ref.uid in scenario.world.machines
    await workload.end("web-1")
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert "DrainTimedOut" not in scenario.events.reasons(MACHINE)


@pytest.mark.parametrize("how", ["removed", "crashed", "stopped"])
async def test_a_dead_vm_is_not_waited_for(scenario: Scenario, how: str) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    await workload.guard(allowed=0)
    await scenario.kill()  # else it would be started again before it is deleted
    ref = await delete_machine(scenario)
    if how == "removed":
        scenario.provider.remove(ref)
    else:
        scenario.provider.crash(ref, MachineState.CRASHED if how == "crashed" else MachineState.STOPPED)
    await scenario.start()
    await scenario.until(lambda: is_gone(scenario, ref))
    assert workload.api.requests["create", "pods/eviction"] == 0
    assert scenario.events.reasons(MACHINE).count("DrainSkipped") == (0 if how == "removed" else 1)
    await scenario.ready()
    assert await workload.api.get(NODE, MACHINE) is not None  # the new machine's


async def test_a_node_that_is_gone_is_not_waited_for(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    await workload.guard(allowed=0)
    await scenario.kill()
    await workload.api.delete(NODE, MACHINE)
    ref = await delete_machine(scenario)
    await scenario.start()
    await scenario.until(lambda: is_gone(scenario, ref))
    assert workload.api.requests["create", "pods/eviction"] == 0


async def test_another_machines_node_of_the_name_is_left_alone(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await scenario.kill()
    await workload.api.merge_patch(NODE, MACHINE, None, {"spec": {"providerID": "capn-memory://another"}})
    ref = await delete_machine(scenario)
    await scenario.start()
    await scenario.until(lambda: is_gone(scenario, ref))
    assert await workload.names() == ["web-1"]


async def test_a_dead_kubelet_is_not_waited_for_once_its_pods_may_go(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    await workload.guard(allowed=0)
    await workload.silence(MACHINE)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "web-1 (The disruption budget web"))
    await workload.guard(allowed=1)
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert await workload.is_leaving("web-1"), "it was evicted, and nobody ended it"


async def test_a_child_that_stays_silent_is_given_up(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    cluster = next(iter(scenario.world.clusters.values()))
    cluster.initialized = False
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "the child does not let its node be drained"))
    assert ref.uid in scenario.world.machines
    scenario.shift = timedelta(seconds=61)
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
    assert scenario.events.reasons(MACHINE).count("DrainSkipped") == 1
    assert await workload.names() == ["web-1"]
    cluster.initialized = True


async def test_a_moment_of_silence_in_a_long_drain_does_not_end_it(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "web-1 (is ending)"))
    cluster = next(iter(scenario.world.clusters.values()))
    cluster.initialized = False
    await scenario.until(woken(scenario, ref, lambda: says(scenario, "the child does not let")))
    assert scenario.controllers is not None
    assert ref.uid in scenario.controllers.deps.patience._since
    cluster.initialized = True
    await scenario.until(woken(scenario, ref, lambda: says(scenario, "web-1 (is ending)")))
    assert ref.uid not in scenario.controllers.deps.patience._since
    assert ref.uid in scenario.world.machines
    await workload.end("web-1")
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))


async def test_an_annotation_skips_the_drain(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await workload.guard(allowed=0)
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "1 pod left"))
    patch = {"metadata": {"annotations": {"capn.dev/skip-drain": "true"}}}
    await scenario.user.merge_patch(NESTED_MACHINE, MACHINE, NAMESPACE_NAME, patch)
    await scenario.until(lambda: is_gone(scenario, ref))
    assert await workload.names() == ["web-1"]
    assert scenario.events.reasons(MACHINE).count("DrainSkipped") == 1


async def test_a_cluster_that_goes_is_not_drained(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE, lingers=True)
    await workload.guard(allowed=0)
    await scenario.delete()
    await scenario.gone()
    assert workload.api.requests["create", "pods/eviction"] == 0


async def test_a_cluster_that_goes_in_mid_drain_does_not_wait_for_it(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await workload.guard(allowed=0)
    await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "1 pod left"))
    await scenario.delete()
    await scenario.gone()


async def test_a_control_plane_is_drained_too_and_its_node_removed() -> None:
    async with running_scenario(MemoryEndpoint(boot_s=0.05)) as scenario:
        workload = await make(scenario, controlPlane={"replicas": 3}, workers=[])
        await workload.run("web-1", "c1-cp-2", lingers=True)
        ref = await delete_machine(scenario, "c1-cp-2")
        await scenario.until(lambda: says(scenario, "web-1 (is ending)", name="c1-cp-2"))
        node = await workload.api.get(NODE, "c1-cp-2")
        await workload.end("web-1")
        await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
        await scenario.ready()
        again = await workload.api.get(NODE, "c1-cp-2")
        assert node is not None
        assert again is not None
        assert node["metadata"]["uid"] != again["metadata"]["uid"]


async def test_scaling_down_drains_the_highest_numbers(scenario: Scenario) -> None:
    workload = await make(scenario, workers=[{"name": "md", "replicas": 3}])
    for number in range(3):
        await workload.run(f"web-{number}", f"c1-md-{number}", lingers=True)
    refs = [await scenario.machine_ref(f"c1-md-{number}") for number in (1, 2)]
    await scenario.patch(CLUSTER, {"workers": ONE_WORKER})
    await scenario.until(lambda: says(scenario, "web-1 (is ending)", name="c1-md-1"))
    await scenario.until(lambda: says(scenario, "web-2 (is ending)", name="c1-md-2"))
    # Both before any VM goes, so that no pod moves from one to the other.
    assert [await workload.is_cordoned(f"c1-md-{number}") for number in range(3)] == [False, True, True]
    assert all(ref.uid in scenario.world.machines for ref in refs)
    cluster = await scenario.api.get(NESTED_CLUSTER, CLUSTER, NAMESPACE_NAME)
    assert cluster is not None
    assert cluster["status"]["workers"]["desired"] == 1
    assert cluster["status"]["workers"]["created"] == 3
    first, second = refs
    await workload.end("web-1")
    await scenario.until(woken(scenario, first, lambda: is_gone(scenario, first)))
    await workload.end("web-2")
    await scenario.until(woken(scenario, second, lambda: is_gone(scenario, second)))
    await scenario.ready()
    assert [node["metadata"]["name"] for node in (await workload.api.list(NODE)).items] == ["c1-cp-0", "c1-md-0"]
    assert not await workload.is_leaving("web-0")
    before = (scenario.api.writes, workload.api.writes)
    await scenario.restart()
    await scenario.settle()
    assert (scenario.api.writes, workload.api.writes) == before


async def test_a_pod_that_the_child_refuses_to_evict_is_named(scenario: Scenario) -> None:
    workload = await make(scenario)
    await workload.run("web-1", MACHINE)
    await workload.guard(allowed=5)
    spec = {"selector": {"matchLabels": {"app": "web"}}}
    await workload.api.create(POD_DISRUPTION_BUDGET, {"metadata": {"name": "also", "namespace": APP}, "spec": spec})
    ref = await delete_machine(scenario)
    await scenario.until(lambda: says(scenario, "more than one PodDisruptionBudget"))
    await workload.api.delete(POD, "web-1", APP)
    await scenario.until(woken(scenario, ref, lambda: is_gone(scenario, ref)))
