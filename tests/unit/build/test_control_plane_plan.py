"""Which one thing is done next with control planes: a table of situations."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from capn import names
from capn.api.machine import NestedMachine, NestedMachineStatus, NodeReference
from capn.build.control_plane_plan import (
    ControlPlanePlan,
    compute_control_plane_plan,
    is_stillborn,
    select_needed,
    select_replaceable,
)

SIZE = {"cpus": 2, "memory": "2560Mi", "disk": "10Gi"}


def manifest(ordinal: int, **spec: Any) -> dict[str, Any]:
    fields = {"version": "v1.37.2", "machine": SIZE, "ordinal": ordinal, **spec}
    return {"metadata": {"name": f"c-cp-{ordinal}"}, "spec": {"clusterName": "c", "role": "control-plane", **fields}}


def machine(ordinal: int, *, ready: bool = True, lost: bool = False, **more: Any) -> NestedMachine:
    meta = {"name": f"c-cp-{ordinal}", "uid": str(ordinal), **more.pop("metadata", {})}
    status: dict[str, Any] = {
        "conditions": [
            {
                "type": "Ready",
                "status": "True" if ready and not lost else "False",
                "reason": "X",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ]
    }
    if lost:
        status["failureReason"] = "MachineLost"
    return NestedMachine.model_validate({"metadata": meta, "spec": manifest(ordinal, **more)["spec"], "status": status})


def joined(ordinal: int, **more: Any) -> NestedMachine:
    found = machine(ordinal, **more)
    status = found.status.model_copy(update={"node_ref": NodeReference(name=found.metadata.name, uid="n")})
    return found.model_copy(update={"status": status})


def plan(
    replicas: int, *existing: NestedMachine, dying: Collection[str] = (), fixed: bool = False, **spec: Any
) -> ControlPlanePlan:
    wanted = [manifest(ordinal, **spec) for ordinal in range(replicas + 1)]
    return compute_control_plane_plan(wanted, existing, dying=dying, fixed=fixed)


def created(found: ControlPlanePlan) -> int | None:
    assert found.delete is None
    return None if found.create is None else int(found.create["spec"]["ordinal"])


def deleted(found: ControlPlanePlan) -> str | None:
    assert found.create is None
    return None if found.delete is None else found.delete.metadata.name


def test_nothing_is_done_when_all_is_as_it_shall_be() -> None:
    assert plan(3, machine(0), machine(1), machine(2)) == ControlPlanePlan()
    assert plan(1, machine(4)) == ControlPlanePlan()


@pytest.mark.parametrize(
    ("replicas", "existing", "ordinal"),
    [(3, [0], 1), (3, [0, 1], 2), (3, [1, 2], 0), (5, [0, 1, 2], 3), (3, [0, 5], 1)],
)
def test_one_more_takes_the_first_free_ordinal(replicas: int, existing: list[int], ordinal: int) -> None:
    found = plan(replicas, *(machine(number) for number in existing))
    assert created(found) == ordinal
    assert found.because == f"{len(existing)} of {replicas} are there"


def test_the_next_is_made_when_the_one_before_is_ready() -> None:
    found = plan(3, machine(0), machine(1, ready=False))
    assert (created(found), found.reason, found.because) == (None, "WaitingForMachines", "c-cp-1 is not Ready")


def test_one_at_a_time_leaves_and_the_highest_first() -> None:
    assert deleted(plan(3, *(machine(number) for number in range(5)))) == "c-cp-4"
    going = machine(4, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    found = plan(3, *(machine(number) for number in range(4)), going)
    assert (deleted(found), found.reason) == (None, "RemovingControlPlane")


def test_what_a_person_has_marked_leaves_first() -> None:
    marked = machine(0, metadata={"annotations": {names.ANNOTATION_DELETE_MACHINE: ""}})
    assert deleted(plan(1, marked, machine(1), machine(2))) == "c-cp-0"


def test_no_control_plane_leaves_while_another_is_not_ready() -> None:
    assert deleted(plan(1, machine(0), machine(1), machine(2, ready=False))) is None


def test_a_change_adds_one_before_it_takes_one() -> None:
    bigger = {**SIZE, "memory": "4Gi"}
    first = plan(1, machine(0), machine=bigger)
    assert (created(first), first.reason) == (1, "RollingOut")
    waiting = plan(1, machine(0), machine(1, ready=False, machine=bigger), machine=bigger)
    assert (waiting.create, waiting.delete) == (None, None)
    assert deleted(plan(1, machine(0), machine(1, machine=bigger), machine=bigger)) == "c-cp-0"
    assert plan(1, machine(1, machine=bigger), machine=bigger) == ControlPlanePlan()


def test_a_change_of_three_goes_one_by_one() -> None:
    bigger = {**SIZE, "cpus": 4}
    existing, steps = {number: machine(number) for number in range(3)}, 0
    while (found := plan(3, *existing.values(), machine=bigger)) != ControlPlanePlan():
        assert 3 <= len(existing) <= 4
        if found.create is not None:
            ordinal = found.create["spec"]["ordinal"]
            existing[ordinal] = machine(ordinal, machine=bigger)
        else:
            assert found.delete is not None
            del existing[found.delete.spec.ordinal]
        steps += 1
        assert steps < 20
    assert steps == 6
    assert {one.spec.machine.cpus for one in existing.values()} == {4}


def test_the_one_that_has_the_endpoint_stays_whatever_changes() -> None:
    bigger = {**SIZE, "memory": "4Gi"}
    assert plan(1, machine(0), fixed=True, machine=bigger) == ControlPlanePlan()
    others = [machine(number, machine=bigger) for number in (1, 2)]
    assert plan(3, machine(0), *others, fixed=True, machine=bigger) == ControlPlanePlan()
    assert deleted(plan(1, machine(0), *others, fixed=True, machine=bigger)) == "c-cp-2"
    assert created(plan(2, machine(0), machine(1), fixed=True, machine=bigger)) == 2
    marked = machine(0, metadata={"annotations": {names.ANNOTATION_DELETE_MACHINE: ""}})
    assert deleted(plan(1, marked, machine(1), fixed=True)) == "c-cp-1"
    found = plan(3, machine(0, lost=True), machine(1), machine(2), fixed=True)
    assert (found.create, deleted(found), found.reason) == (None, None, "WaitingForMachines")


def test_an_upgrade_says_how_many_have_the_version() -> None:
    found = plan(3, machine(0), machine(1, version="v1.37.3"), machine(2), version="v1.37.3")
    assert (created(found), found.reason, found.because) == (3, "RollingOut", "1 of 3 have v1.37.3")


def test_what_was_made_for_an_upgrade_that_is_taken_back_goes_if_it_has_not_joined() -> None:
    unjoined = machine(1, ready=False, version="v1.37.3")
    found = plan(1, machine(0), unjoined)
    assert (deleted(found), found.reason) == ("c-cp-1", "RemovingControlPlane")
    assert deleted(plan(1, unjoined)) is None  # the only one: there is nothing to go back to


def run_with(level: str) -> dict[str, Any]:
    return {"apiServer": {"extraArgs": {"v": level}}}


def test_other_arguments_roll_those_that_have_joined_and_give_up_one_that_has_not() -> None:
    old = joined(0, kubeadm=run_with("2"))
    found = plan(1, old, kubeadm=run_with("4"))
    assert (created(found), found.reason) == (1, "RollingOut")
    assert plan(1, old, kubeadm=run_with("2")) == ControlPlanePlan()
    unjoined = machine(1, ready=False, kubeadm=run_with("3"))
    for level in "24":
        found = plan(1, old, unjoined, kubeadm=run_with(level))
        assert (deleted(found), found.reason) == ("c-cp-1", "RemovingControlPlane")
    assert plan(1, old, unjoined, kubeadm=run_with("3")).reason == "WaitingForMachines"
    found = plan(1, old, joined(1, ready=False, kubeadm=run_with("3")), kubeadm=run_with("4"))
    assert (found.delete, found.reason) == (None, "WaitingForMachines")
    assert deleted(plan(1, unjoined, kubeadm=run_with("4"))) is None  # the only one: there is nothing to go on with


def test_what_a_machine_of_an_earlier_release_was_made_with_is_not_known() -> None:
    assert plan(1, machine(0), kubeadm=run_with("4")) == ControlPlanePlan()


def test_a_size_that_is_written_in_another_way_changes_nothing() -> None:
    assert plan(1, machine(0, machine=SIZE | {"memory": "4Gi"}), machine=SIZE | {"memory": "4096Mi"}).reason == ""


STILLBORN: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"failureReason": "InvalidArgument", "providerID": "x", "bootstrap": {"failed": True}}, True),
    ({"failureReason": "ImageNotFound"}, True),
    # Statuses that were lost, in part or all: nobody knows what the machine holds.
    ({}, False),
    ({"bootstrap": {"failed": True}}, False),
    ({"failureReason": "BootstrapTimedOut", "providerID": "x"}, False),
    ({"failureReason": "BootstrapTimedOut", "providerID": "x", "bootstrap": {"stage": "done"}}, False),
    ({"failureReason": "MachineLost", "providerID": "x", "nodeRef": {"name": "n", "uid": "u"}}, False),
    (
        {"failureReason": "X", "providerID": "x", "bootstrap": {"failed": True}, "nodeRef": {"name": "n", "uid": "u"}},
        False,
    ),
)


@pytest.mark.parametrize(("status", "expected"), STILLBORN)
def test_only_what_surely_holds_nothing_is_given_up(status: dict[str, Any], *, expected: bool) -> None:
    found = machine(0).model_copy(update={"status": NestedMachineStatus.model_validate(status)})
    assert is_stillborn(found) is expected


def test_one_that_lost_its_vm_is_replaced_while_the_others_have_quorum() -> None:
    found = plan(3, machine(0, lost=True), machine(1), machine(2))
    assert (deleted(found), found.because) == ("c-cp-0", "c-cp-0 has lost its VM")


@pytest.mark.parametrize(
    "existing",
    [
        [machine(0, lost=True)],
        [machine(0, lost=True), machine(1)],
        [machine(0, lost=True), machine(1, lost=True), machine(2)],
        [machine(0, lost=True), machine(1, ready=False), machine(2)],
    ],
)
def test_nothing_is_removed_when_quorum_is_gone_or_would_go(existing: list[NestedMachine]) -> None:
    found = plan(3, *existing)
    assert (found.create, found.delete) == (None, None)
    assert found.reason == "WaitingForMachines"


def test_an_ill_one_is_removed_when_the_others_are_ready_and_one_at_a_time() -> None:
    found = plan(3, machine(0), joined(1, ready=False), machine(2), dying=["c-cp-1"])
    assert (deleted(found), found.reason) == ("c-cp-1", "ReplacingControlPlane")
    both = [machine(3, ready=False), machine(4, ready=False)]
    found = plan(5, machine(0), machine(1), machine(2), *both, dying=["c-cp-3", "c-cp-4"])
    assert deleted(found) == "c-cp-3"
    found = plan(3, machine(0), machine(1, ready=False), machine(2, ready=False), dying=["c-cp-1"])
    assert (deleted(found), found.reason) == (None, "WaitingForMachines")


def test_a_lost_one_and_an_ill_one_do_not_wait_for_each_other() -> None:
    """The lost one first: it costs etcd nothing."""
    five = [joined(0), joined(1), joined(2), joined(3, ready=False), joined(4, lost=True)]
    found = plan(5, *five, dying=["c-cp-3"])
    assert (deleted(found), found.reason, found.because) == (
        "c-cp-4", "ReplacingControlPlane", "c-cp-4 has lost its VM",
    )  # fmt: skip
    newcomer = [joined(0, lost=True), joined(1), joined(2), machine(3, ready=False)]
    assert deleted(plan(3, *newcomer, dying=["c-cp-3"])) == "c-cp-0"
    assert deleted(plan(3, *newcomer[1:], dying=["c-cp-3"])) == "c-cp-3"
    three = [joined(0, lost=True), joined(1, ready=False), joined(2)]
    assert deleted(plan(3, *three, dying=["c-cp-1"])) is None  # one would be left
    assert deleted(plan(3, *five[:3], joined(3, ready=False), joined(4, lost=True), dying=[])) is None


@pytest.mark.parametrize(
    ("existing", "replaceable"),
    [
        ([joined(0)], []),
        ([machine(0, ready=False)], []),
        ([joined(0), joined(1)], []),  # none of two is a quorum
        ([joined(0), machine(1, ready=False)], [1]),  # it never joined
        ([joined(0), joined(1), joined(2)], [0, 1, 2]),
        ([joined(0), joined(1), machine(2, ready=False)], [2]),
        ([joined(0), joined(1), joined(2, lost=True)], [0, 1]),
    ],
)
def test_only_one_that_the_others_can_do_without_is_replaced_for_its_health(
    existing: list[NestedMachine], replaceable: list[int]
) -> None:
    assert [found.spec.ordinal for found in select_replaceable(existing, fixed=False)] == replaceable
    fixed = [found.spec.ordinal for found in select_replaceable(existing, fixed=True)]
    assert fixed == [ordinal for ordinal in replaceable if ordinal]


BIGGER = {**SIZE, "memory": "4Gi"}


@pytest.mark.parametrize(
    ("replicas", "existing", "size", "needed"),
    [
        (3, [machine(0)], SIZE, [0]),
        (5, [machine(0), machine(1), machine(2)], SIZE, [0, 1, 2]),
        # The one that leaves need not be well.
        (1, [machine(0), machine(1), machine(2)], SIZE, [0, 1]),
        # Nor those that a change replaces: it may be what mends them.
        (3, [machine(0), machine(1), machine(2)], BIGGER, []),
        (3, [machine(0), machine(1), machine(2), machine(3, machine=BIGGER)], BIGGER, [3]),
        # Who heals waits for nobody who is ill.
        (3, [joined(0), joined(1), machine(2, lost=True)], SIZE, []),
        (3, [machine(0), machine(1, ready=False)], SIZE, []),
        # At the end all have to be well; of a single one that is known.
        (3, [machine(0), machine(1), machine(2)], SIZE, [0, 1, 2]),
        (1, [machine(0)], SIZE, []),
    ],
)
def test_whose_programs_have_to_be_ready(
    replicas: int, existing: list[NestedMachine], size: dict[str, Any], needed: list[int]
) -> None:
    found = plan(replicas, *existing, machine=size)
    selected = select_needed(found, existing, manifest(0, machine=size))
    assert [one.spec.ordinal for one in selected] == needed


def test_one_outside_of_its_domains_does_not_hold_up_its_own_replacement() -> None:
    existing = [machine(0, failureDomain="a"), machine(1, failureDomain="b"), machine(2, failureDomain="a")]
    wanted = [manifest(ordinal) for ordinal in range(4)]
    found = compute_control_plane_plan(wanted, existing, allowed=["a"])
    assert found.reason == "RollingOut"
    assert [one.spec.ordinal for one in select_needed(found, existing, wanted[0], ["a"])] == [0, 2]
