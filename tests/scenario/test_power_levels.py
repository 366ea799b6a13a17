"""Off and pause, over levels: what a leaf's cluster wants of its machines goes up to whoever makes them."""

from __future__ import annotations

from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_MACHINE
from capn.errors import TerminalError
from capn.providers.base import MachineRef, MachineState
from capn.providers.memory import MemoryProvider
from tests.harness.levels import Level, running_levels
from tests.harness.scenario import Scenario

ONE_AND_ONE: dict[str, Any] = {"workers": [{"name": "md", "replicas": 1}]}


async def leaf_of(levels: list[Scenario], **spec: Any) -> Level:
    """The last level, with a Ready cluster `c1` of its own."""
    leaf = levels[-1]
    assert isinstance(leaf, Level)
    await leaf.create(**spec)
    await leaf.ready()
    return leaf


async def all_settled(levels: list[Scenario]) -> None:
    for level in levels:
        await level.settle()


async def until_phase(level: Scenario, phase: str) -> None:
    async def is_there() -> bool:
        cluster = await level.cluster()
        return cluster is not None and cluster.get("status", {}).get("phase") == phase

    await level.until(is_there)


def states(levels: list[Scenario]) -> list[MachineState]:
    return sorted(vm.state for vm in levels[0].world.machines.values())


@pytest.mark.parametrize("depth", [2, 4])
async def test_switching_a_leaf_off_switches_its_machines_off_at_the_root_and_no_others(depth: int) -> None:
    async with running_levels(depth) as levels:
        leaf = await leaf_of(levels, **ONE_AND_ONE)
        before = set(levels[0].world.machines)
        await leaf.patch("c1", {"powerState": "Off"})
        await until_phase(leaf, "Off")
        await all_settled(levels)
        on = [MachineState.RUNNING] * (depth - 1)
        assert states(levels) == [*on, MachineState.STOPPED, MachineState.STOPPED]
        for level in levels[:-1]:
            claims = [item for item in (await level.api.list(NESTED_MACHINE)).items if has_mark(item)]
            assert [item["status"]["phase"] for item in claims] == ["Off", "Off"]

        # Nobody at any level brings them back, or writes anything.
        writes = [level.api.writes for level in levels]
        for level in levels:
            await level.restart()
            await all_settled(levels)
        assert [level.api.writes for level in levels] == writes
        assert states(levels) == [*on, MachineState.STOPPED, MachineState.STOPPED]

        await leaf.patch("c1", {"powerState": "On"})
        await leaf.ready()
        assert states(levels) == [MachineState.RUNNING] * (depth + 1)
        assert set(levels[0].world.machines) == before
        for level in levels[:-1]:
            assert not [item for item in (await level.api.list(NESTED_MACHINE)).items if has_mark(item)]


def has_mark(machine: dict[str, Any]) -> bool:
    return names.ANNOTATION_POWER_OFF in (machine["metadata"].get("annotations") or {})


async def test_the_root_tells_of_a_leaf_that_is_off() -> None:
    async with running_levels(2) as levels:
        root, _leaf = levels
        leaf = await leaf_of(levels)
        await leaf.patch("c1", {"powerState": "Off"})

        async def is_told() -> bool:
            cluster = await root.cluster()
            worst = ((cluster or {}).get("status", {}).get("nested") or {}).get("worst") or {}
            return bool(worst.get("reason") == "Off")

        await root.until(is_told)
        assert (await root.condition("c1", "Ready"))["status"] == "True"


async def test_a_refusal_at_the_root_is_said_to_the_leaf_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_levels(3) as levels:
        leaf = await leaf_of(levels)

        async def refuse(_self: MemoryProvider, _ref: MachineRef, *, force: bool) -> bool:
            raise TerminalError(f"its disk would end with it ({force})", reason="DiskNotPersistent")

        with monkeypatch.context() as patched:
            patched.setattr(MemoryProvider, "stop_machine", refuse)
            await leaf.patch("c1", {"powerState": "Off"})

            async def is_refused() -> bool:
                found = await leaf.condition("c1", "Stalled")
                return found.get("reason") == "DiskNotPersistent" and "would end with it" in found["message"]

            await leaf.until(is_refused)
            await leaf.patch("c1", {"powerState": "On"})
            await leaf.ready()
        assert states(levels) == [MachineState.RUNNING] * 3


async def test_a_guest_that_does_not_hear_loses_its_power_at_every_depth() -> None:
    async with running_levels(3) as levels:
        for level in levels:
            level.shutdown_timeout_s = 3
            await level.restart()
        leaf = await leaf_of(levels)
        cluster = await leaf.cluster()
        assert cluster is not None
        root = levels[0]
        [deaf] = [vm for vm in root.world.machines.values() if vm.ref.name.startswith("c1-cp-0-")][-1:]
        root.world.deaf.update(vm.ref.name for vm in root.world.machines.values())
        await leaf.patch("c1", {"powerState": "Off"})
        await until_phase(leaf, "Off")
        assert MachineState.STOPPED in states(levels)
        assert deaf.ref.uid in root.world.machines


async def test_what_is_off_keeps_its_place_in_the_budget() -> None:
    """Else it could not come back: another cluster would have taken it in the night."""
    async with running_levels(2) as levels:
        root, _ = levels
        leaf = await leaf_of(levels)
        await root.patch("c1", {"nesting": {"enabled": True, "maxDepth": 16, "budget": {"cpus": 2}}})
        await leaf.patch("c1", {"powerState": "Off"})
        await until_phase(leaf, "Off")
        await leaf.create("c2")

        async def is_refused() -> bool:
            found = await leaf.condition("c2-cp-0", "InfrastructureReady", of="machine")
            return found.get("reason") == "BudgetExceeded"

        await leaf.until(is_refused)
        await leaf.patch("c1", {"powerState": "On"})
        await leaf.ready()


async def test_deleting_a_leaf_that_is_off_gives_everything_back() -> None:
    async with running_levels(3) as levels:
        leaf = await leaf_of(levels, **ONE_AND_ONE)
        await leaf.patch("c1", {"powerState": "Off"})
        await until_phase(leaf, "Off")
        await leaf.delete()
        await leaf.gone()
        assert await leaf.claims() == []
        assert len(levels[0].world.machines) == 2


async def test_a_leaf_that_was_paused_when_it_was_deleted_goes_when_it_is_no_longer() -> None:
    """Its claims stand still with it; they must hear that they no longer shall, or all wait for each other."""
    async with running_levels(3) as levels:
        leaf = await leaf_of(levels, **ONE_AND_ONE)
        await leaf.patch("c1", {"paused": True})
        await until_phase(leaf, "Paused")
        await leaf.delete()

        async def waits() -> bool:
            return (await leaf.condition("c1", "Deleting")).get("reason") == "Paused"

        await leaf.until(waits)
        await all_settled(levels)
        assert len(levels[0].world.machines) == 4
        assert (await leaf.condition("c1", "Paused"))["status"] == "True"
        await leaf.patch("c1", {"paused": False})
        await leaf.gone()
        assert await leaf.claims() == []
        assert len(levels[0].world.machines) == 2


async def test_a_deletion_that_is_paused_stands_still_at_every_level() -> None:
    async with running_levels(3) as levels:
        leaf = await leaf_of(levels, **ONE_AND_ONE)
        root = levels[0]
        root.provider.set_down(True)
        await leaf.delete()

        async def is_going(level: Scenario) -> bool:
            items = (await level.api.list(NESTED_MACHINE)).items
            return sum("deletionTimestamp" in item["metadata"] for item in items) >= 2

        for level in levels:

            async def going(level: Scenario = level) -> bool:
                return await is_going(level)

            await level.until(going)
        await leaf.patch("c1", {"paused": True})

        async def waits() -> bool:
            return (await leaf.condition("c1", "Deleting")).get("reason") == "Paused"

        await leaf.until(waits)
        for level in levels[:-1]:

            async def passed_on(level: Scenario = level) -> bool:
                machines = (await level.api.list(NESTED_MACHINE)).items
                going = [item for item in machines if "deletionTimestamp" in item["metadata"]]
                reasons = [
                    condition["reason"]
                    for item in going
                    for condition in item["status"]["conditions"]
                    if condition["type"] == "Deleting"
                ]
                return reasons == ["Paused", "Paused"]

            await level.until(passed_on)
        root.provider.set_down(False)
        await all_settled(levels)
        assert len(root.world.machines) == 4
        await leaf.patch("c1", {"paused": False})
        await leaf.gone()
        assert len(root.world.machines) == 2
