"""`spec.paused` stops every write: to the parent, to the child and at the hypervisor, in every phase of a life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, NODE
from capn.providers.base import MachineState
from capn.settings import MemoryEndpoint
from tests.harness.recording_provider import RecordingScenario, running_recorded
from tests.harness.scenario import NAMESPACE_NAME

ONE_AND_ONE: dict[str, Any] = {"workers": [{"name": "md", "replicas": 1}]}
Step = Callable[[RecordingScenario], Awaitable[None]]


@pytest.fixture
async def scenario() -> AsyncIterator[RecordingScenario]:
    async with running_recorded() as running:
        yield running


async def crash_a_worker(scenario: RecordingScenario) -> None:
    scenario.provider.crash(await scenario.machine_ref("c1-md-0"))


async def ask_for_more_workers(scenario: RecordingScenario) -> None:
    await scenario.patch("c1", {"workers": [{"name": "md", "replicas": 3}]})


async def ask_for_fewer_workers(scenario: RecordingScenario) -> None:
    await scenario.patch("c1", {"workers": []})


async def ask_for_off(scenario: RecordingScenario) -> None:
    await scenario.patch("c1", {"powerState": "Off"})


async def delete_a_machine(scenario: RecordingScenario) -> None:
    await scenario.user.delete(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME)


async def delete_the_cluster(scenario: RecordingScenario) -> None:
    await scenario.delete()


async def strip_a_machine(scenario: RecordingScenario) -> None:
    patch = {"metadata": {"labels": None, "finalizers": None}}
    await scenario.user.merge_patch(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME, patch)


async def strip_the_cluster(scenario: RecordingScenario) -> None:
    await scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, {"metadata": {"finalizers": None}})


async def unlabel_a_node(scenario: RecordingScenario) -> None:
    cluster = await scenario.cluster()
    assert cluster is not None
    child = scenario.api_of(cluster["metadata"]["uid"]).as_manager("somebody")
    label = "node-role.kubernetes.io/worker"
    await child.merge_patch(NODE, "c1-md-0", None, {"metadata": {"labels": {label: None}}})


async def is_paused(scenario: RecordingScenario) -> bool:
    """Whether the cluster and each machine of it say so."""
    machines = (await scenario.api.list(NESTED_MACHINE)).items
    said = [
        await scenario.condition("c1", "Paused"),
        *[await scenario.condition(machine["metadata"]["name"], "Paused", of="machine") for machine in machines],
    ]
    return all(condition.get("status") == "True" for condition in said)


async def foreign_to_status(scenario: RecordingScenario) -> int:
    """Writes of the controllers to the parent but for statuses."""
    reads = {"get", "list", "watch"}
    return sum(
        count
        for (verb, plural), count in scenario.api.requests.items()
        if verb not in reads and not plural.endswith("/status")
    )


@pytest.mark.parametrize(
    "step",
    [
        crash_a_worker,
        ask_for_more_workers,
        ask_for_fewer_workers,
        ask_for_off,
        delete_a_machine,
        delete_the_cluster,
        strip_a_machine,
        strip_the_cluster,
        unlabel_a_node,
    ],
    ids=lambda step: step.__name__,
)
async def test_whatever_happens_to_a_paused_cluster_nothing_is_done(scenario: RecordingScenario, step: Step) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    cluster = await scenario.cluster()
    assert cluster is not None
    child = scenario.api_of(cluster["metadata"]["uid"])
    await scenario.patch("c1", {"paused": True})
    await scenario.until(lambda: is_paused(scenario))
    await scenario.settle()

    await step(scenario)
    before, deeds, writes = child.writes, len(scenario.deeds), await foreign_to_status(scenario)
    await scenario.settle()
    await scenario.restart()
    await scenario.settle()
    assert child.writes == before
    assert scenario.deeds[deeds:] == []
    assert await foreign_to_status(scenario) == writes
    assert await is_paused(scenario)
    settled = scenario.api.writes
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == settled

    await scenario.patch("c1", {"paused": False})
    if step is delete_the_cluster:
        await scenario.gone()
    elif step is not ask_for_off:
        await scenario.ready()


async def test_a_cluster_that_boots_is_paused_where_it_is() -> None:
    async with running_recorded(MemoryEndpoint(boot_s=1.0)) as scenario:
        await scenario.create(**ONE_AND_ONE)
        await scenario.until(lambda: scenario.world.machines)
        await scenario.patch("c1", {"paused": True})
        await scenario.until(lambda: is_paused(scenario))
        await scenario.settle()
        deeds, writes = len(scenario.deeds), await foreign_to_status(scenario)
        [vm] = scenario.world.machines.values()
        # The guest goes on, and says so; nobody acts on it.
        await scenario.until(lambda: vm.report is not None and vm.report.stage == "done")
        await scenario.settle()
        assert scenario.deeds[deeds:] == []
        assert await foreign_to_status(scenario) == writes
        await scenario.patch("c1", {"paused": False})
        await scenario.ready()


async def test_a_deletion_that_has_begun_stands_still_and_says_so(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    scenario.provider.set_down(True)
    await scenario.delete()

    async def has_begun() -> bool:
        found = await scenario.condition("c1-md-0", "Deleting", of="machine")
        return found.get("reason") == "HypervisorUnreachable"

    await scenario.until(has_begun)
    assert (await scenario.condition("c1", "Paused"))["status"] == "False"
    await scenario.patch("c1", {"paused": True})
    await scenario.until(lambda: is_paused(scenario))
    scenario.provider.set_down(False)
    await scenario.settle()
    deeds = len(scenario.deeds)
    await scenario.restart()
    await scenario.settle()
    assert scenario.deeds[deeds:] == []
    assert len(scenario.world.machines) == 2
    for name, of in (("c1", "cluster"), ("c1-md-0", "machine")):
        assert (await scenario.condition(name, "Deleting", of=of))["reason"] == "Paused"
    await scenario.patch("c1", {"paused": False})
    await scenario.gone()


async def test_a_vm_that_ends_while_paused_is_started_again_afterwards(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    await scenario.patch("c1", {"paused": True})
    await scenario.until(lambda: is_paused(scenario))
    ref = await scenario.machine_ref("c1-md-0")
    scenario.provider.crash(ref)
    await scenario.settle()
    assert scenario.world.machines[ref.uid].state is MachineState.CRASHED
    await scenario.patch("c1", {"paused": False})
    await scenario.until(lambda: scenario.world.machines[ref.uid].state is MachineState.RUNNING)
    await scenario.ready()
