"""What a pool's next step is, for every state that its machines can be in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capn import names
from capn.api.machine import NestedMachine
from capn.build.health import is_ready
from capn.build.pool_plan import PoolPlan, PoolRequest, compute_pool_plan, count_updated, find_free_ordinals
from tests.unit.build.pool_samples import STARTING, UNREADY, make_worker
from tests.unit.build.samples import make_cluster


def plan_of(
    machines: list[NestedMachine], wanted: int, *, rollout: dict[str, int] | None = None, **request: Any
) -> PoolPlan:
    """The plan of a pool whose machines shall have 2 CPUs."""
    pool = {"name": "md", "machine": {"cpus": 2}} | ({"rollout": rollout} if rollout else {})
    cluster = make_cluster(workers=[pool | request.pop("pool", {})])
    values = {"version": "v1.37.2", **request}
    return compute_pool_plan(
        PoolRequest(cluster=cluster, pool=cluster.spec.workers[0], wanted=wanted, machines=machines, **values)
    )


def made(plan: PoolPlan) -> list[int]:
    return [manifest["spec"]["ordinal"] for manifest in plan.create]


def gone(plan: PoolPlan) -> list[int]:
    return [machine.spec.ordinal for machine in plan.delete]


@dataclass(frozen=True)
class Case:
    id: str
    machines: list[NestedMachine]
    wanted: int
    create: list[int] = field(default_factory=list)
    delete: list[int] = field(default_factory=list)
    rollout: dict[str, int] | None = None


def old(*ordinals: int, **fields: Any) -> list[NestedMachine]:
    return [make_worker(ordinal, cpus=1, **fields) for ordinal in ordinals]


def new(*ordinals: int, **fields: Any) -> list[NestedMachine]:
    return [make_worker(ordinal, **fields) for ordinal in ordinals]


SWAP = {"maxSurge": 0, "maxUnavailable": 1}
CASES = (
    Case("nothing yet", [], 3, create=[0, 1, 2]),
    Case("as it shall be", new(0, 1, 2), 3),
    Case("gaps are filled first", new(1, 3), 4, create=[0, 2]),
    Case("the highest goes", new(0, 1, 2), 2, delete=[2]),
    Case("the sick goes before the highest", [*new(0, conditions=UNREADY), *new(1, 2)], 2, delete=[0]),
    Case("the failed before the sick", [*new(0, conditions=UNREADY), *new(1, failure="X"), *new(2)], 2, delete=[1]),
    Case(
        "the annotated before all",
        [*new(0, annotations=(names.ANNOTATION_DELETE_MACHINE,)), *new(1, failure="X"), *new(2)],
        2,
        delete=[0],
    ),
    Case("one that goes keeps its place", [*new(0), *new(1, deleting=True)], 2),
    Case("one that goes is not taken for another", [*new(0, 1), *new(2, deleting=True)], 2),
    Case("none are wanted", [*old(0), *new(1, failure="X")], 0, delete=[1, 0]),
    Case("a change begins with one more", old(0, 1, 2), 3, create=[3]),
    Case("the new one is not Ready yet", [*old(0, 1, 2), *new(3, conditions=STARTING)], 3),
    Case("the new one is Ready", [*old(0, 1, 2), *new(3)], 3, delete=[2]),
    Case("an old one is going", [*old(0, 1), *old(2, deleting=True), *new(3)], 3),
    Case("an old one is gone", [*old(0, 1), *new(3)], 3, create=[2]),
    Case("the last step", [*old(0), *new(1, 2, 3)], 3, delete=[0]),
    Case("a sick old one goes first", [*old(0, conditions=UNREADY), *old(1, 2), *new(3)], 3, delete=[0]),
    Case("a failed old one stops nothing", [*old(0, failure="X"), *old(1, 2)], 3, create=[3]),
    Case("a failed new one stops it", [*old(0, 1, 2), *new(3, failure="X")], 3),
    Case("stopped, and made smaller", [*old(0, 1, 2), *new(3, failure="X")], 2, delete=[3]),
    Case("in place of one", old(0, 1, 2), 3, delete=[2], rollout=SWAP),
    Case("in place of one, gone", old(0, 1), 3, create=[2], rollout=SWAP),
    Case("in place of one, starting", [*old(0, 1), *new(2, conditions=STARTING)], 3, rollout=SWAP),
    Case("in place of one, failed", [*old(0, 1), *new(2, failure="X")], 3, rollout=SWAP),
    Case("two more", old(0, 1, 2), 3, create=[3, 4], rollout={"maxSurge": 2, "maxUnavailable": 0}),
    Case("made smaller in mid-change", [*old(0, 1, 2, 3), *new(4)], 2, delete=[3, 2, 1]),
    Case("made larger in mid-change", [*old(0, 1), *new(2)], 4, create=[3, 4]),
    Case("another version", new(0, version="v1.36.0"), 1, create=[1]),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_next_step(case: Case) -> None:
    plan = plan_of(case.machines, case.wanted, rollout=case.rollout)
    assert (made(plan), gone(plan)) == (case.create, case.delete)


def test_progress_is_told_in_numbers() -> None:
    plan = plan_of([*old(0, 1), *new(2, 3)], 3)
    assert plan.said is not None
    assert (plan.said.reason, plan.said.message) == ("RollingOut", "pool md: 2 of 3 updated, 4 Ready")
    stopped = plan_of([*old(0, 1, 2), *new(3, failure="DiskFull")], 3).said
    assert stopped is not None
    assert stopped.reason == "RolloutStopped"
    assert "demo-md-3 failed (DiskFull)" in stopped.message


def test_those_that_the_health_check_deletes_keep_their_place_and_serve_nobody() -> None:
    dying = frozenset({"demo-md-1"})
    plan = plan_of(new(0, 1), 2, dying=dying)
    assert (made(plan), gone(plan)) == ([], [])
    assert gone(plan_of(new(0, 1), 1, dying=dying)) == []


@pytest.mark.parametrize("room", [0, -1])
def test_no_room_in_the_pod_network_is_said(room: int) -> None:
    plan = plan_of(old(0, 1), 2, room=room)
    assert (made(plan), gone(plan)) == ([], [])
    assert plan.said is not None
    assert plan.said.reason == "RolloutBlocked"
    assert made(plan_of(old(0), 2, room=room)) == [1]  # what is wanted anyway, admission has counted


def test_names_end_at_three_digits() -> None:
    machines = old(*range(1000))
    plan = plan_of(machines, 1000)
    assert made(plan) == []
    assert plan.said is not None
    assert plan.said.reason == "RolloutBlocked"
    assert find_free_ordinals(machines[:-1], 5) == [999]


def test_labels_and_taints_are_given_once_the_node_is_there_and_make_no_new_machine() -> None:
    taint = {"key": "a", "value": "b", "effect": "NoSchedule"}
    other = {"key": "c", "effect": "NoExecute"}
    pool = {"labels": {"x": "y"}, "taints": [taint, other]}
    right = make_worker(0, labels={"x": "y"}, taints=[other, taint])
    unregistered = make_worker(2).model_copy(
        update={"status": make_worker(2).status.model_copy(update={"node_ref": None})}
    )
    plan = plan_of([right, make_worker(1, labels={"x": "z"}), unregistered], 3, pool=pool)
    assert [machine.spec.ordinal for machine in plan.update] == [1]
    assert (made(plan), gone(plan)) == ([], [])


def test_updated_are_those_of_the_specs_version_size_and_labels() -> None:
    cluster = make_cluster(workers=[{"name": "md", "machine": {"cpus": 2}, "labels": {"a": "b"}}])
    machines = [
        make_worker(0, labels={"a": "b"}),
        make_worker(1),
        make_worker(2, cpus=1, labels={"a": "b"}),
        make_worker(3, version="v1.36.0", labels={"a": "b"}),
        make_worker(4, deleting=True, labels={"a": "b"}),
        make_worker(0, pool="other"),
    ]
    assert count_updated(cluster, machines) == 1


class _World:
    """Machines that follow plans: what is made boots or fails, what is deleted goes, in any order."""

    def __init__(self, count: int) -> None:
        self.machines = {ordinal: make_worker(ordinal, cpus=1) for ordinal in range(count)}

    def apply(self, plan: PoolPlan) -> None:
        for manifest in plan.create:
            ordinal = manifest["spec"]["ordinal"]
            assert ordinal not in self.machines
            self.machines[ordinal] = make_worker(ordinal, cpus=manifest["spec"]["machine"]["cpus"], conditions=STARTING)
        for machine in plan.delete:
            self._set(machine.spec.ordinal, deleting=True)

    def turn(self, chance: int) -> None:
        """Let one machine that is on its way arrive."""
        moving = [one for one in self.machines.values() if one.metadata.deleting or not is_ready(one)]
        if not moving:
            return
        machine = moving[chance % len(moving)]
        if machine.metadata.deleting:
            del self.machines[machine.spec.ordinal]
        else:
            self.machines[machine.spec.ordinal] = make_worker(machine.spec.ordinal, cpus=machine.spec.machine.cpus)

    def _set(self, ordinal: int, **fields: Any) -> None:
        known = self.machines[ordinal]
        conditions = None if is_ready(known) else STARTING
        self.machines[ordinal] = make_worker(ordinal, cpus=known.spec.machine.cpus, conditions=conditions, **fields)


@settings(max_examples=150, deadline=None)
@given(
    wanted=st.integers(1, 6),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    chances=st.lists(st.integers(0, 9), min_size=60, max_size=60),
)
def test_every_rollout_ends_and_stays_within_its_limits(
    wanted: int, surge: int, unavailable: int, chances: list[int]
) -> None:
    if surge == unavailable == 0:
        surge = 1
    world = _World(wanted)
    for chance in chances:
        # Twice with the same state, as after a restart: nothing may come of that.
        for _ in range(1 + chance % 2):
            machines = list(world.machines.values())
            world.apply(plan_of(machines, wanted, rollout={"maxSurge": surge, "maxUnavailable": unavailable}))
        assert len(world.machines) <= wanted + surge
        assert sum(map(is_ready, world.machines.values())) >= wanted - unavailable
        world.turn(chance)
    assert {machine.spec.machine.cpus for machine in world.machines.values()} == {2}
    assert len(world.machines) == wanted
