"""Control planes that change while a member of etcd is dead or has an alarm."""

from __future__ import annotations

from typing import Any

from capn.api.resources import NESTED_MACHINE
from tests.harness.scenario import NAMESPACE_NAME, Scenario
from tests.scenario.test_control_planes import LIMIT_S, control_planes, etcd_of, has_settled, quorum_watched, says


async def test_the_leader_hands_on_beside_a_dead_member(scenario: Scenario) -> None:
    """The dead one's endpoint stands before the leader's."""
    await scenario.create(controlPlane={"replicas": 5})
    await has_settled(scenario, 5)
    down: Any = scenario.world.machines[(await scenario.machine_ref("c1-cp-0")).uid]
    etcd = await etcd_of(scenario)
    runs, etcd.runs = etcd.runs, lambda machine: machine is not down and runs(machine)
    leader = etcd.leader
    assert leader is not None
    assert leader.name == "c1-cp-1"
    ref = await scenario.machine_ref(leader.name)
    async with quorum_watched(scenario):
        await scenario.user.delete(NESTED_MACHINE, leader.name, NAMESPACE_NAME)
        await scenario.until(lambda: ref.uid not in scenario.world.machines, limit_s=LIMIT_S)
    etcd.runs = runs
    await has_settled(scenario, 5)


async def test_a_member_with_an_alarm_may_go_and_nobody_joins_until_it_is_disarmed(scenario: Scenario) -> None:
    """Every member tells of the alarm; the others are well all the same."""
    await scenario.create(controlPlane={"replicas": 3})
    await has_settled(scenario, 3)
    etcd = await etcd_of(scenario)
    etcd.raise_alarm("c1-cp-1")
    ref = await scenario.machine_ref("c1-cp-1")
    await scenario.user.delete(NESTED_MACHINE, ref.name, NAMESPACE_NAME)
    async with quorum_watched(scenario):
        await scenario.until(lambda: ref.uid not in scenario.world.machines, limit_s=LIMIT_S)
        said = await says(scenario, "EtcdUnhealthy")
        assert "waits: etcd has an alarm of a member that is gone: " in said["message"]
        await scenario.settle()
        assert await control_planes(scenario) == ["c1-cp-0", "c1-cp-2"]
        etcd.alarms.clear()
        scenario.advance(15)
        await scenario.restart()
        await has_settled(scenario, 3)


async def test_nobody_joins_while_a_member_has_an_alarm_however_many_are_well(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 5})
    await has_settled(scenario, 5)
    etcd = await etcd_of(scenario)
    etcd.raise_alarm("c1-cp-3")
    await scenario.patch("c1", {"machine": {"memory": "4Gi"}})
    said = await says(scenario, "EtcdUnhealthy")
    assert "waits: etcd has an alarm of c1-cp-3: " in said["message"]
    await scenario.settle()
    assert len(await control_planes(scenario)) == 5
