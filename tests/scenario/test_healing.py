"""Health checks of workers: who is replaced, when, how often, and when nobody is."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_MACHINE, NODE
from capn.providers.base import MachineState
from tests.harness.faults import Call, Fault, FaultyKubeClient
from tests.harness.pools import build_pool, node_of, set_node_ready, worker_names, workers_of, workers_say
from tests.harness.scenario import NAMESPACE_NAME, Scenario

HOUR = 3600


async def uid_of(scenario: Scenario, name: str) -> str | None:
    machine = await scenario.machine(name)
    return None if machine is None else machine["metadata"]["uid"]


async def is_replaced(scenario: Scenario, name: str, before: str | None) -> bool:
    """Whether another machine of that name is Ready."""
    ready = (await scenario.condition(name, "Ready", of="machine")).get("status") == "True"
    return ready and await uid_of(scenario, name) != before


async def failed_uid(scenario: Scenario, name: str, known: set[str]) -> str:
    """Wait until a machine of that name, and none of the known ones, has failed; its UID."""
    found = ""

    async def has_failed() -> bool:
        nonlocal found
        machine = await scenario.machine(name)
        if machine is None or "failureReason" not in machine.get("status", {}):
            return False
        found = machine["metadata"]["uid"]
        return found not in known

    await scenario.until(has_failed)
    return found


async def rounds_of(scenario: Scenario) -> int:
    cluster = await scenario.cluster()
    assert cluster is not None
    return sum(record["count"] for record in cluster["status"].get("remediations", []))


async def make_unready(scenario: Scenario, *machines: str) -> None:
    """Let nodes turn bad some time after their VMs began to run, and wait until that is seen."""
    scenario.advance(60)
    for name in machines:
        await set_node_ready(scenario, name, "Unknown")

        async def is_seen(name: str = name) -> bool:
            return (await scenario.condition(name, "NodeHealthy", of="machine")).get("status") == "False"

        await scenario.until(is_seen)


async def settle_and_name(scenario: Scenario) -> list[str | None]:
    await scenario.settle()
    return [machine["metadata"]["uid"] for machine in await workers_of(scenario)]


async def test_a_node_that_is_not_ready_for_too_long_is_replaced_and_not_before(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(3)])
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-1")
    await make_unready(scenario, "c1-md-1")
    said = await workers_say(scenario, "NodesNotReady")
    assert "c1-md-1" in said["message"]
    scenario.advance(280)
    await scenario.settle()
    assert await uid_of(scenario, "c1-md-1") == before
    assert await rounds_of(scenario) == 0
    scenario.advance(25)
    await scenario.until(lambda: is_replaced(scenario, "c1-md-1", before))
    await scenario.ready()
    assert await rounds_of(scenario) == 1
    assert "Remediated" in scenario.events.reasons("c1")
    writes = scenario.api.writes
    await scenario.restart()
    scenario.advance(HOUR)
    await scenario.settle()
    assert scenario.api.writes == writes


async def test_the_timer_is_set_to_the_second_and_needs_no_event(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)], healthCheck={"unhealthyTimeoutSeconds": 2})
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-0")
    await make_unready(scenario, "c1-md-0")
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before))


async def test_a_node_that_comes_back_in_time_keeps_its_machine(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-0")
    await make_unready(scenario, "c1-md-0")
    scenario.advance(200)
    await set_node_ready(scenario, "c1-md-0", "True")
    await scenario.ready()
    scenario.advance(200)
    await scenario.settle()
    assert await uid_of(scenario, "c1-md-0") == before


async def test_a_node_that_is_well_again_behind_our_back_is_kept(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-0")
    await make_unready(scenario, "c1-md-0")
    await scenario.settle()
    parts = scenario.controllers
    assert parts is not None
    # The watch of the child's nodes hangs: the change to Ready is not heard of.
    entry = next(iter(parts.children._entries.values()))
    assert entry.task is not None
    entry.task.cancel()
    await set_node_ready(scenario, "c1-md-0", "True")
    scenario.advance(400)

    async def is_decided() -> bool:
        return await rounds_of(scenario) == 1

    await scenario.until(is_decided)
    await scenario.settle()
    assert await uid_of(scenario, "c1-md-0") == before


async def test_a_machine_that_reboots_keeps_its_node(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    before, node = await uid_of(scenario, "c1-md-0"), await node_of(scenario, "c1-md-0")
    scenario.advance(60)
    ref = await scenario.machine_ref("c1-md-0")
    await set_node_ready(scenario, "c1-md-0", "False")
    scenario.provider.crash(ref, MachineState.STOPPED)
    await scenario.until(lambda: scenario.world.machines[ref.uid].state is MachineState.RUNNING)
    scenario.advance(200)
    await set_node_ready(scenario, "c1-md-0", "True")
    await scenario.ready()
    scenario.advance(HOUR)
    await scenario.settle()
    assert await uid_of(scenario, "c1-md-0") == before
    assert (await node_of(scenario, "c1-md-0"))["metadata"]["uid"] == node["metadata"]["uid"]


async def test_a_node_that_was_deleted_is_replaced(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-0")
    scenario.advance(60)
    cluster = await scenario.cluster()
    assert cluster is not None
    await scenario.api_of(cluster["metadata"]["uid"]).as_manager("admin").delete(NODE, "c1-md-0")
    await workers_say(scenario, "NodesNotReady")
    scenario.advance(301)
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before))


async def test_a_vm_that_is_gone_is_replaced_at_once(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-0")
    scenario.provider.remove(await scenario.machine_ref("c1-md-0"))
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before))
    await scenario.ready()
    assert len(scenario.world.machines) == 2


async def test_the_only_control_plane_is_not_replaced_by_this(scenario: Scenario) -> None:
    """One of several is, while there is quorum: `test_control_planes`."""
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    before = await uid_of(scenario, "c1-cp-0")
    scenario.provider.remove(await scenario.machine_ref("c1-cp-0"))

    async def is_lost() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("reason") == "RestoreImpossible"

    await scenario.until(is_lost)
    scenario.advance(HOUR)
    await scenario.settle()
    assert await uid_of(scenario, "c1-cp-0") == before


async def test_a_node_that_never_registers_is_replaced_after_the_start_up_time(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    await set_node_ready(scenario, "c1-md-0", "True")
    await scenario.kill()
    # The guest of the second worker says that it is done and makes no node.
    scenario.provider.withhold_node("c1-md-1")
    await scenario.start()
    await scenario.patch("c1", {"workers": [build_pool(2)]})

    async def is_waited_for() -> bool:
        return (await scenario.condition("c1-md-1", "NodeHealthy", of="machine")).get("reason") == "WaitingForNode"

    await scenario.until(is_waited_for)
    before = await uid_of(scenario, "c1-md-1")
    scenario.advance(1700)
    await scenario.settle()
    assert await uid_of(scenario, "c1-md-1") == before
    scenario.world.silent_nodes.clear()
    scenario.advance(101)
    await scenario.until(lambda: is_replaced(scenario, "c1-md-1", before))


async def test_a_bad_image_is_tried_so_often_and_no_more(scenario: Scenario) -> None:
    """One bad image must not delete machines for ever (Cluster API 7353)."""
    check = {"maxRetries": 3, "retryPeriodSeconds": 60}
    await scenario.create(workers=[build_pool(2)], healthCheck=check)
    await scenario.ready()
    scenario.provider.fail_bootstrap("c1-md-2", "error: no such thing")
    await scenario.patch("c1", {"workers": [build_pool(3)]})
    await workers_say(scenario, "RemediationWaiting")
    assert await rounds_of(scenario) == 1
    tried = {await failed_uid(scenario, "c1-md-2", set())}
    for pause, rounds in ((60, 2), (120, 3)):
        await scenario.settle()
        scenario.advance(pause - 15)
        await scenario.settle()
        assert await rounds_of(scenario) == rounds - 1
        await scenario.restart()  # nothing of it is in the controller's memory
        scenario.advance(20)
        tried.add(await failed_uid(scenario, "c1-md-2", tried))
        assert await rounds_of(scenario) == rounds
    said = await workers_say(scenario, "RemediationExhausted")
    assert "3 times in a row" in said["message"]
    assert "BootstrapFailed" in said["message"]
    await scenario.settle()
    assert (await scenario.condition("c1", "Stalled"))["status"] == "True"
    for _ in range(3):
        scenario.advance(24 * HOUR)
        await scenario.restart()
        await scenario.settle()
    assert await uid_of(scenario, "c1-md-2") in tried
    assert await worker_names(scenario) == ["c1-md-0", "c1-md-1", "c1-md-2"]
    # A person mends the cause.
    before = await uid_of(scenario, "c1-md-2")
    scenario.world.failures.clear()
    await scenario.user.delete(NESTED_MACHINE, "c1-md-2", NAMESPACE_NAME)
    await scenario.until(lambda: is_replaced(scenario, "c1-md-2", before))
    await scenario.ready()


async def test_a_pool_that_was_healthy_for_long_counts_anew(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)], healthCheck={"maxRetries": 1})
    await scenario.ready()
    for _ in range(2):
        before = await uid_of(scenario, "c1-md-0")
        scenario.advance(2 * HOUR)
        scenario.provider.remove(await scenario.machine_ref("c1-md-0"))
        await scenario.until(partial(is_replaced, scenario, "c1-md-0", before))
        await scenario.ready()
        assert await rounds_of(scenario) == 1


async def test_when_too_many_are_unhealthy_none_is_replaced(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(3), {"name": "other", "replicas": 2}])
    await scenario.ready()
    await make_unready(scenario, "c1-md-0", "c1-md-1", "c1-other-0")
    before = await settle_and_name(scenario)
    scenario.advance(400)
    said = await workers_say(scenario, "RemediationBlocked")
    assert "3 of 5" in said["message"]
    assert "allows 2" in said["message"]
    assert await settle_and_name(scenario) == before
    writes = scenario.api.writes
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == writes
    # One comes back: two of five may go.
    await set_node_ready(scenario, "c1-other-0", "True")
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before[0]))
    await scenario.until(lambda: is_replaced(scenario, "c1-md-1", before[1]))


@pytest.mark.parametrize("max_unhealthy", ["0", "0%"])
async def test_max_unhealthy_can_forbid_it_all(scenario: Scenario, max_unhealthy: str) -> None:
    await scenario.create(workers=[build_pool(2)], healthCheck={"maxUnhealthy": max_unhealthy})
    await scenario.ready()
    scenario.provider.remove(await scenario.machine_ref("c1-md-0"))
    await workers_say(scenario, "RemediationBlocked")
    assert (await scenario.condition("c1", "Stalled"))["status"] == "True"


async def test_nobody_is_replaced_while_the_child_is_silent(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    await make_unready(scenario, "c1-md-0")
    before = await settle_and_name(scenario)
    plane = await scenario.machine_ref("c1-cp-0")
    vm = scenario.world.machines[plane.uid]
    vm.state = MachineState.PAUSED  # and nobody wakes it: capn does not resume what a person has paused
    scenario.advance(HOUR)

    async def is_silent() -> bool:
        return (await scenario.condition("c1", "Ready")).get("reason") == "Unreachable"

    await scenario.until(is_silent)
    scenario.advance(HOUR)
    await scenario.until(is_silent)
    assert [machine["metadata"]["uid"] for machine in await workers_of(scenario)] == before
    vm.state = MachineState.RUNNING
    scenario.advance(1)
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before[0]))


async def test_nobody_is_replaced_while_the_cluster_is_paused(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    await scenario.patch("c1", {"paused": True})
    before = await settle_and_name(scenario)
    scenario.provider.remove(await scenario.machine_ref("c1-md-0"))
    scenario.advance(HOUR)
    assert await settle_and_name(scenario) == before
    await scenario.patch("c1", {"paused": False})
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before[0]))


async def test_a_machine_that_says_so_is_skipped_and_then_not(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)])
    await scenario.ready()
    mark: dict[str, Any] = {"metadata": {"annotations": {names.ANNOTATION_SKIP_REMEDIATION: "true"}}}
    await scenario.user.merge_patch(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME, mark)
    scenario.provider.remove(await scenario.machine_ref("c1-md-0"))

    async def is_lost() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("reason") == "MachineLost"

    await scenario.until(is_lost)
    before = await settle_and_name(scenario)
    scenario.advance(HOUR)
    assert await settle_and_name(scenario) == before
    mark["metadata"]["annotations"][names.ANNOTATION_SKIP_REMEDIATION] = None
    await scenario.user.merge_patch(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME, mark)
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before[0]))


@pytest.mark.parametrize("when", ["crash_before", "crash_after"])
@pytest.mark.parametrize("verb", ["apply/status", "delete", "create"])
async def test_a_replacement_survives_the_controller_and_is_counted_once(
    scenario: Scenario, verb: str, when: Any
) -> None:
    await scenario.create(workers=[build_pool(2)])
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-0")
    await scenario.kill()
    scenario.provider.remove(await scenario.machine_ref("c1-md-0"))

    def is_step(call: Call) -> bool:
        what = "nestedclusters" if verb == "apply/status" else "nestedmachines"
        return (call.verb, call.resource.plural) == (verb, what)

    faulty = FaultyKubeClient(scenario.api, [Fault(when, is_step)])
    await scenario.start(faulty)
    await scenario.until(lambda: faulty.crashed)
    await scenario.restart()
    await scenario.until(lambda: is_replaced(scenario, "c1-md-0", before))
    await scenario.ready()
    assert await rounds_of(scenario) == 1
    assert len(scenario.world.machines) == 3


async def test_switched_off_it_leaves_machines_alone(scenario: Scenario) -> None:
    await scenario.create(workers=[build_pool(1)], healthCheck={"enabled": False})
    await scenario.ready()
    before = await uid_of(scenario, "c1-md-0")
    await make_unready(scenario, "c1-md-0")
    scenario.advance(24 * HOUR)
    await scenario.settle()
    assert await uid_of(scenario, "c1-md-0") == before
