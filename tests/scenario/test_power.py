"""`spec.powerState`: off in an order that etcd stands, quiet while off, back without a new VM, CA or complaint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_MACHINE, NODE, SECRET
from capn.errors import TerminalError
from capn.providers.base import MachineRef, MachineState
from capn.providers.memory import MemoryProvider
from capn.settings import MemoryEndpoint
from tests.harness.faults import Fault, FaultyKubeClient
from tests.harness.recording_provider import RecordingScenario, running_recorded
from tests.harness.scenario import NAMESPACE_NAME

THREE_AND_TWO: dict[str, Any] = {"controlPlane": {"replicas": 3}, "workers": [{"name": "md", "replicas": 2}]}
ONE_AND_ONE: dict[str, Any] = {"workers": [{"name": "md", "replicas": 1}]}
# What a person would be called for.
ALARMS = {"NodeNotReady", "ChildUnreachable", "Unreachable", "MachineLost", "HypervisorUnreachable"}


@pytest.fixture
async def scenario() -> AsyncIterator[RecordingScenario]:
    async with running_recorded() as running:
        yield running


async def phase(scenario: RecordingScenario, name: str = "c1") -> str | None:
    cluster = await scenario.cluster(name)
    return None if cluster is None else cluster.get("status", {}).get("phase")


async def switch_off(scenario: RecordingScenario) -> None:
    await scenario.patch("c1", {"powerState": "Off"})
    await off(scenario)


async def off(scenario: RecordingScenario) -> None:
    async def is_off() -> bool:
        return await phase(scenario) == "Off"

    await scenario.until(is_off)
    await scenario.settle()


def states(scenario: RecordingScenario) -> set[MachineState]:
    return {vm.state for vm in scenario.world.machines.values()}


async def identity(scenario: RecordingScenario) -> tuple[Any, ...]:
    """What must be the same after a night: VMs and their addresses, nodes, keys."""
    cluster = await scenario.cluster()
    assert cluster is not None
    vms = {vm.ref.name: (uid, vm.address) for uid, vm in scenario.world.machines.items()}
    secrets = {item["metadata"]["name"]: item["data"] for item in (await scenario.api.list(SECRET)).items}
    nodes = {node["metadata"]["uid"] for node in (await scenario.api_of(cluster["metadata"]["uid"]).list(NODE)).items}
    return vms, secrets, nodes, cluster["status"]["endpoint"]


async def test_workers_go_first_and_the_endpoint_last(scenario: RecordingScenario) -> None:
    await scenario.create(**THREE_AND_TWO)
    await scenario.ready()
    scenario.deeds.clear()
    await switch_off(scenario)
    order = scenario.order_of("stop", "cut")
    assert sorted(order[:2]) == ["c1-md-0", "c1-md-1"]
    assert order[2:] == ["c1-cp-2", "c1-cp-1", "c1-cp-0"]
    assert states(scenario) == {MachineState.STOPPED}
    assert not {verb for verb, _ in scenario.deeds} & {"cut", "start", "delete"}


async def test_it_comes_back_as_it_was_control_planes_first(scenario: RecordingScenario) -> None:
    await scenario.create(**THREE_AND_TWO)
    await scenario.ready()
    before = await identity(scenario)
    await switch_off(scenario)
    scenario.deeds.clear()
    events = len(scenario.events.lines)
    await scenario.patch("c1", {"powerState": "On"})
    await scenario.ready()
    order = scenario.order_of("start")
    assert sorted(order[:3]) == ["c1-cp-0", "c1-cp-1", "c1-cp-2"]
    assert sorted(order[3:]) == ["c1-md-0", "c1-md-1"]
    assert await identity(scenario) == before
    assert states(scenario) == {MachineState.RUNNING}
    assert not {reason for _, _, reason, _ in scenario.events.lines[events:]} & ALARMS
    assert {kind for _, kind, _, _ in scenario.events.lines[events:]} == {"Normal"}
    for name, of in (("c1", "cluster"), ("c1-cp-0", "machine"), ("c1-md-0", "machine")):
        assert await scenario.condition(name, "PoweredOff", of=of) == {}
    marked = [item for item in (await scenario.api.list(NESTED_MACHINE)).items if has_mark(item)]
    assert marked == []


def has_mark(machine: dict[str, Any]) -> bool:
    return names.ANNOTATION_POWER_OFF in (machine["metadata"].get("annotations") or {})


async def test_off_is_said_as_a_wish_and_not_as_trouble(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    events = len(scenario.events.lines)
    await switch_off(scenario)
    expected = {"Ready": "False", "Reconciling": "False", "Stalled": "False", "PoweredOff": "True", "Paused": "False"}
    for kind, status in expected.items():
        assert (await scenario.condition("c1", kind))["status"] == status, kind
    assert (await scenario.condition("c1", "Ready"))["reason"] == "PoweredOff"
    cluster = await scenario.cluster()
    assert cluster is not None
    assert cluster["status"]["machines"] == {"desired": 2, "created": 2, "ready": 0}
    assert cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
    for name in ("c1-cp-0", "c1-md-0"):
        machine = await scenario.machine(name)
        assert machine is not None
        assert machine["status"]["phase"] == "Off"
        assert (await scenario.condition(name, "Ready", of="machine"))["reason"] == "PoweredOff"
        assert (await scenario.condition(name, "NodeHealthy", of="machine"))["status"] == "Unknown"
        assert (await scenario.condition(name, "BootstrapSucceeded", of="machine"))["status"] == "True"
    assert {kind for _, kind, _, _ in scenario.events.lines[events:]} == {"Normal"}


async def test_what_is_off_is_left_alone_whoever_starts_anew(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    await switch_off(scenario)
    cluster = await scenario.cluster()
    assert cluster is not None
    child = scenario.api_of(cluster["metadata"]["uid"])
    parts = scenario.controllers
    assert parts is not None
    assert parts.children.get(cluster["metadata"]["uid"]) is None
    writes, asked = scenario.api.writes, child.requests.total()
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == writes
    assert child.requests.total() == asked
    assert states(scenario) == {MachineState.STOPPED}


async def test_a_vm_that_somebody_starts_while_it_shall_be_off_is_switched_off_again(
    scenario: RecordingScenario,
) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    await switch_off(scenario)
    ref = await scenario.machine_ref("c1-md-0")
    scenario.provider.start_by_hand(ref)
    await scenario.until(lambda: scenario.world.machines[ref.uid].state is MachineState.STOPPED)
    await off(scenario)


async def test_a_vm_that_ends_by_itself_is_started_again_only_while_its_cluster_is_on(
    scenario: RecordingScenario,
) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    ref = await scenario.machine_ref("c1-md-0")
    scenario.provider.crash(ref, MachineState.STOPPED)
    await scenario.until(lambda: scenario.world.machines[ref.uid].state is MachineState.RUNNING)
    await scenario.ready()
    await switch_off(scenario)
    scenario.provider.crash(ref)
    await scenario.settle()
    assert scenario.world.machines[ref.uid].state is MachineState.CRASHED
    assert await phase(scenario) == "Off"
    await scenario.patch("c1", {"powerState": "On"})
    await scenario.ready()


async def test_a_guest_that_does_not_hear_loses_its_power_in_time() -> None:
    async with running_recorded(shutdown_timeout_s=3) as scenario:
        await scenario.create(**ONE_AND_ONE)
        await scenario.ready()
        scenario.world.deaf.add("c1-md-0")
        await switch_off(scenario)
        assert ("cut", "c1-md-0") in scenario.deeds
        assert ("cut", "c1-cp-0") not in scenario.deeds
        assert scenario.deeds.index(("stop", "c1-md-0")) < scenario.deeds.index(("cut", "c1-md-0"))


async def test_the_time_of_a_guest_goes_on_over_a_restart_and_is_not_begun_anew(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    scenario.world.deaf.add("c1-md-0")
    await scenario.patch("c1", {"powerState": "Off"})

    async def asked() -> bool:
        found = await scenario.condition("c1-md-0", "PoweredOff", of="machine")
        return found.get("reason") == "ShuttingDown"

    await scenario.until(asked)
    since = (await scenario.condition("c1-md-0", "PoweredOff", of="machine"))["lastTransitionTime"]
    assert await phase(scenario) == "Stopping"
    assert (await scenario.condition("c1", "Reconciling"))["reason"] == "PoweringOff"
    assert ("stop", "c1-cp-0") not in scenario.deeds
    await scenario.restart()
    await scenario.settle()
    assert (await scenario.condition("c1-md-0", "PoweredOff", of="machine"))["lastTransitionTime"] == since
    scenario.shutdown_timeout_s = 0.01
    await scenario.restart()
    await off(scenario)


async def test_a_change_of_mind_on_the_way_brings_everything_back(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    before = await identity(scenario)
    scenario.world.deaf.add("c1-md-0")
    await scenario.patch("c1", {"powerState": "Off"})
    await scenario.until(lambda: ("stop", "c1-md-0") in scenario.deeds)
    await scenario.patch("c1", {"powerState": "On"})
    await scenario.ready()
    assert ("start", "c1-md-0") in scenario.deeds[scenario.deeds.index(("stop", "c1-md-0")) :]
    assert await identity(scenario) == before


@pytest.mark.parametrize("write", range(1, 10))
@pytest.mark.parametrize("target", ["Off", "On"])
async def test_the_controller_may_die_at_any_write_on_the_way(
    scenario: RecordingScenario, write: int, target: str
) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    before = await identity(scenario)
    if target == "On":
        await switch_off(scenario)
    await scenario.kill()
    faulty = FaultyKubeClient(scenario.api, [Fault("crash_after" if write % 2 else "crash_before", write)])
    await scenario.patch("c1", {"powerState": target})
    await scenario.start(faulty)

    async def is_over() -> bool:
        return faulty.crashed or await phase(scenario) == {"Off": "Off", "On": "Ready"}[target]

    await scenario.until(is_over)
    await scenario.restart()
    if target == "Off":
        await off(scenario)
        await scenario.patch("c1", {"powerState": "On"})
    await scenario.ready()
    assert await identity(scenario) == before


async def test_a_cluster_that_is_off_from_the_first_day_makes_nothing_until_it_is_on(
    scenario: RecordingScenario,
) -> None:
    await scenario.create(powerState="Off", **ONE_AND_ONE)
    await off(scenario)
    assert scenario.world.clusters == {}
    assert (await scenario.api.list(NESTED_MACHINE)).items == []
    assert (await scenario.api.list(SECRET)).items == []
    await scenario.patch("c1", {"powerState": "On"})
    await scenario.ready()


async def test_scaling_while_off_waits_for_the_morning(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    await switch_off(scenario)
    scenario.deeds.clear()
    await scenario.patch("c1", {"workers": [{"name": "md", "replicas": 3}]})
    await scenario.settle()
    assert {verb for verb, _ in scenario.deeds} <= {"stop"}
    assert len((await scenario.api.list(NESTED_MACHINE)).items) == 2
    await scenario.patch("c1", {"powerState": "On"})
    await scenario.ready()
    assert len(scenario.world.machines) == 4


async def test_off_in_mid_bootstrap_goes_on_at_the_next_start() -> None:
    async with running_recorded(MemoryEndpoint(boot_s=1.5)) as scenario:
        await scenario.create(**ONE_AND_ONE)
        await scenario.until(lambda: scenario.world.machines)
        await switch_off(scenario)
        assert states(scenario) == {MachineState.STOPPED}
        vms = set(scenario.world.machines)
        # No deadline runs in the night: far more than a bootstrap may take passes here.
        scenario.bootstrap_timeout_s = 0.001
        await scenario.restart()
        await scenario.settle()
        assert await phase(scenario) == "Off"
        scenario.bootstrap_timeout_s = 1800
        await scenario.restart()
        await scenario.patch("c1", {"powerState": "On"})
        await scenario.ready()
        assert vms <= set(scenario.world.machines)


async def test_the_bootstraps_deadline_counts_from_the_start_and_not_over_the_night() -> None:
    async with running_recorded(MemoryEndpoint(boot_s=3600)) as scenario:
        await scenario.create()
        await scenario.until(lambda: scenario.world.machines)

        async def runs() -> bool:
            found = await scenario.condition("c1-cp-0", "InfrastructureReady", of="machine")
            return found.get("status") == "True"

        await scenario.until(runs)
        await switch_off(scenario)
        found = await scenario.condition("c1-cp-0", "InfrastructureReady", of="machine")
        assert (found["status"], found["reason"]) == ("False", "PoweredOff")
        await scenario.delete()
        await scenario.gone()


async def test_deleting_what_is_off_switches_nothing_on(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    await switch_off(scenario)
    scenario.deeds.clear()
    await scenario.delete()
    await scenario.gone()
    assert scenario.world.machines == {}
    assert scenario.world.clusters == {}
    assert "start" not in {verb for verb, _ in scenario.deeds}


async def test_deleting_on_the_way_does_not_wait_for_a_deaf_guest(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    scenario.world.deaf.add("c1-md-0")
    await scenario.patch("c1", {"powerState": "Off"})
    await scenario.until(lambda: ("stop", "c1-md-0") in scenario.deeds)
    await scenario.delete()
    await scenario.gone()


async def test_a_machine_deleted_while_off_takes_its_node_along_in_the_morning(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    await switch_off(scenario)
    old = await scenario.machine_ref("c1-md-0")
    await scenario.user.delete(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME)

    async def waits() -> bool:
        found = await scenario.condition("c1-md-0", "Deleting", of="machine")
        return found.get("reason") == "PoweredOff"

    await scenario.until(waits)
    assert old.uid not in scenario.world.machines
    await scenario.settle()
    assert await phase(scenario) == "Off"
    await scenario.patch("c1", {"powerState": "On"})

    async def is_another() -> bool:
        found = await scenario.machine("c1-md-0")
        return found is not None and found["metadata"]["uid"] != old.uid

    await scenario.until(is_another)
    await scenario.ready()
    cluster = await scenario.cluster()
    assert cluster is not None
    nodes = (await scenario.api_of(cluster["metadata"]["uid"]).list(NODE)).items
    machine = await scenario.machine("c1-md-0")
    assert machine is not None
    [node] = [node for node in nodes if node["metadata"]["name"] == "c1-md-0"]
    assert node["spec"]["providerID"] == machine["status"]["providerID"]


async def test_a_hypervisor_that_is_down_is_said_and_the_guests_time_begins_when_it_is_asked() -> None:
    async with running_recorded(shutdown_timeout_s=3) as scenario:
        await scenario.create(**ONE_AND_ONE)
        await scenario.ready()
        scenario.provider.set_down(True)
        await scenario.patch("c1", {"powerState": "Off"})

        async def says_why() -> bool:
            found = await scenario.condition("c1-md-0", "PoweredOff", of="machine")
            return (found.get("status"), found.get("reason")) == ("Unknown", "HypervisorUnreachable")

        await scenario.until(says_why)
        assert (await scenario.condition("c1", "Stalled"))["status"] == "False"
        assert await phase(scenario) == "Stopping"
        scenario.provider.set_down(False)
        await off(scenario)
        assert "cut" not in {verb for verb, _ in scenario.deeds}


async def test_a_disk_that_would_not_survive_is_a_refusal_with_the_fix(
    scenario: RecordingScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()

    async def refuse(_self: MemoryProvider, ref: MachineRef, *, force: bool) -> bool:
        raise TerminalError(f"{ref.name}'s disk would end ({force})", reason="DiskNotPersistent")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryProvider, "stop_machine", refuse)
        await scenario.patch("c1", {"powerState": "Off"})

        async def is_stalled() -> bool:
            return (await scenario.condition("c1", "Stalled")).get("reason") == "DiskNotPersistent"

        await scenario.until(is_stalled)
        assert "c1-md-0" in (await scenario.condition("c1", "Ready"))["message"]
        assert await phase(scenario) == "Failed"
        assert states(scenario) == {MachineState.RUNNING}
        await scenario.patch("c1", {"powerState": "On"})
        await scenario.ready()
    assert (await scenario.condition("c1", "Stalled"))["status"] == "False"


async def test_a_machine_that_had_failed_is_no_trouble_while_it_is_off(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE, healthCheck={"enabled": False})
    await scenario.ready()
    scenario.provider.fail_bootstrap("c1-md-1", "error: [ERROR Swap]: swap is on")
    await scenario.patch("c1", {"workers": [{"name": "md", "replicas": 2}]})

    async def is_stalled() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("status") == "True"

    await scenario.until(is_stalled)
    await switch_off(scenario)
    assert (await scenario.condition("c1", "Stalled"))["status"] == "False"
    failed = await scenario.machine("c1-md-1")
    assert failed is not None
    assert failed["status"]["phase"] == "Off"
    assert failed["status"]["bootstrap"]["failed"] is True
    await scenario.patch("c1", {"powerState": "On"})
    await scenario.until(is_stalled)


async def test_pause_keeps_what_is_off_off_and_what_runs_running(scenario: RecordingScenario) -> None:
    await scenario.create(**ONE_AND_ONE)
    await scenario.ready()
    await scenario.patch("c1", {"paused": True, "powerState": "Off"})

    async def is_paused() -> bool:
        return await phase(scenario) == "Paused"

    await scenario.until(is_paused)
    await scenario.settle()
    assert states(scenario) == {MachineState.RUNNING}
    await scenario.patch("c1", {"paused": False})
    await off(scenario)
    await scenario.patch("c1", {"paused": True, "powerState": "On"})
    await scenario.until(is_paused)
    await scenario.settle()
    assert states(scenario) == {MachineState.STOPPED}
    await scenario.patch("c1", {"paused": False})
    await scenario.ready()
