from __future__ import annotations

import json
from typing import Any

import pytest

from capn.api.machine import NestedMachine, NodeReference
from capn.build.restore_plan import (
    check_fits,
    choose_snapshot,
    compute_node_changes,
    find_loss,
    read_facts,
)
from capn.build.snapshots import Snapshot, build_mark, build_metadata
from capn.errors import InvalidSpecError, TerminalError
from tests.unit.build.samples import make_cluster, make_machine

UID = "0d4a1a9e-0000-4000-8000-000000000001"
MINE, OTHER = build_mark(UID), "0a0a0a0a"


def plane(*reasons: str | None) -> list[NestedMachine]:
    """Machines that had joined, but for those of which `JOINING` or `LOST_JOINING` is said."""
    machines = []
    for ordinal, said in enumerate(reasons):
        machine = make_machine(ordinal=ordinal)
        joined = said not in {JOINING, LOST_JOINING, "ControlPlaneLost"}
        reference = NodeReference(name=machine.metadata.name, uid="n") if joined else None
        reason = {JOINING: None, LOST_JOINING: LOST}.get(said or "", said)
        status = machine.status.model_copy(update={"failure_reason": reason, "node_ref": reference})
        machines.append(machine.model_copy(update={"status": status}))
    return machines


LOST, ALIVE, ILL = "MachineLost", None, "BootstrapTimedOut"
JOINING, LOST_JOINING = "joining", "lost while it joined"


@pytest.mark.parametrize(
    ("machines", "reason"),
    [
        ((ALIVE,), None),
        ((ILL,), None),
        ((LOST,), "ControlPlaneLost"),
        (("ControlPlaneLost",), "ControlPlaneLost"),
        (("MachineVanished",), "ControlPlaneLost"),
        ((LOST, ALIVE), "QuorumLost"),
        ((LOST, ALIVE, ALIVE), None),
        ((LOST, ILL, ILL), None),
        ((LOST, LOST, ALIVE), "QuorumLost"),
        ((LOST, LOST, ALIVE, ALIVE, ALIVE), None),
        ((LOST, LOST, LOST, ALIVE, ALIVE), "QuorumLost"),
        ((), None),
        ((LOST, "ControlPlaneLost"), "QuorumLost"),
        ((LOST, LOST, JOINING), "QuorumLost"),
        ((ALIVE, ALIVE, LOST_JOINING), None),
        ((LOST, ALIVE, ALIVE, JOINING), None),
        ((LOST_JOINING,), "ControlPlaneLost"),
    ],
)
def test_only_known_losses_count(machines: tuple[str | None, ...], reason: str | None) -> None:
    loss = find_loss(plane(*machines))
    assert (None if loss is None else loss.reason) == reason


@pytest.mark.parametrize(
    ("machines", "sure"),
    [
        ((LOST, ALIVE), True),
        ((LOST, ALIVE, JOINING), False),  # the third may have been promoted already: 2 of 3
        ((LOST, LOST, ALIVE, ALIVE, JOINING), False),
        ((ALIVE, LOST_JOINING), False),  # it may have been promoted: 1 of 2
        ((LOST, LOST, JOINING), True),
        ((LOST, LOST, ALIVE, JOINING), True),
    ],
)
def test_a_machine_that_was_joining_may_have_had_a_vote(machines: tuple[str | None, ...], sure: bool) -> None:  # noqa: FBT001
    loss = find_loss(plane(*machines))
    assert loss is not None
    assert (loss.reason, loss.sure) == ("QuorumLost", sure)


def files(*stems: str, endings: tuple[str, ...] = ("db", "json")) -> list[str]:
    return [f"team/c1/{stem}.{ending}" for stem in stems for ending in endings]


def test_the_newest_whole_one_is_chosen() -> None:
    first, second, third = (f"2026112{day}T030000Z-{MINE}" for day in (1, 2, 3))
    found = [*files(second, first), *files(third, endings=("db",))]
    assert choose_snapshot(found, uid=UID) == f"team/c1/{second}"
    assert choose_snapshot(files(third, endings=("json",)), uid=UID) is None
    assert choose_snapshot([], uid=UID) is None


def test_those_of_an_earlier_cluster_are_for_a_new_one_only() -> None:
    found = [*files(f"20261121T030000Z-{MINE}"), *files(f"20261122T030000Z-{OTHER}")]
    assert choose_snapshot(found, uid=UID) == f"team/c1/20261121T030000Z-{MINE}"
    assert choose_snapshot(found) == f"team/c1/20261122T030000Z-{OTHER}"
    assert choose_snapshot(found, name=f"20261121T030000Z-{MINE}") == f"team/c1/20261121T030000Z-{MINE}"
    assert choose_snapshot(found, name="20261121T030000Z-ffffffff") is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "x", "20261121T030000Z-0A0A0A0A", "latest"])
def test_names_that_are_none_of_ours_are_passed_over(name: str) -> None:
    assert choose_snapshot(files(name)) is None
    assert choose_snapshot(files(name), name=name) is None


def metadata(**changes: Any) -> dict[str, Any]:
    snapshot = Snapshot("team/demo/20261121T030000Z-0a0a0a0a", 544, "a" * 64)
    data = build_metadata(make_cluster(), snapshot, version="v1.37.2", revision=7, taken="2026-11-21T03:00:00Z")
    found: dict[str, Any] = json.loads(data)
    return found | changes


def test_what_a_backup_writes_is_understood() -> None:
    facts = read_facts("x", json.dumps(metadata()).encode())
    assert (facts.version, facts.size, facts.sha256, facts.taken) == ("v1.37.2", 544, "a" * 64, "2026-11-21T03:00:00Z")
    check_fits(make_cluster(), facts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        json.dumps(metadata(format=2)).encode(),
        json.dumps(metadata(taken="yesterday")).encode(),
        json.dumps(metadata(taken=None)).encode(),
        json.dumps(metadata(kubernetesVersion="v1.37.2; reboot")).encode(),
        json.dumps(metadata(snapshot={"size": -1, "sha256": "a" * 64})).encode(),
        json.dumps(metadata(snapshot={"size": True, "sha256": "a" * 64})).encode(),
        json.dumps(metadata(snapshot={"size": 1, "sha256": "A" * 64})).encode(),
        json.dumps(metadata(network={"podCIDR": ["x"]})).encode(),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(TerminalError, match="nothing was changed") as caught:
        read_facts("x", data)
    assert caught.value.reason == "SnapshotDamaged"


@pytest.mark.parametrize(
    ("taken", "wanted", "fits"),
    [
        ("v1.37.2", "v1.37.2", True),
        ("v1.37.9", "v1.37.2", True),
        ("v1.36.4", "v1.37.2", True),
        ("v1.35.4", "v1.37.2", False),
        ("v1.38.0", "v1.37.2", False),
    ],
)
def test_the_same_minor_or_the_next_one(taken: str, wanted: str, fits: bool) -> None:  # noqa: FBT001
    facts = read_facts("x", json.dumps(metadata(kubernetesVersion=taken)).encode())
    cluster = make_cluster(version=wanted)
    if fits:
        check_fits(cluster, facts)
        return
    with pytest.raises(InvalidSpecError, match=r"spec\.version: is v1\.37\.2") as caught:
        check_fits(cluster, facts)
    assert caught.value.reason == "SnapshotUnfit"


@pytest.mark.parametrize("field", ["podCIDR", "serviceCIDR", "dnsDomain"])
def test_another_network_is_refused_by_its_field(field: str) -> None:
    network = metadata()["network"] | {field: "10.9.0.0/16"}
    facts = read_facts("x", json.dumps(metadata(network=network)).encode())
    with pytest.raises(InvalidSpecError, match=rf"spec\.network\.{field}: is "):
        check_fits(make_cluster(), facts)


def node(name: str, provider_id: str | None, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": f"uid-{name}", "resourceVersion": "7", "labels": {"kubernetes.io/os": "linux"}}
    spec = {} if provider_id is None else {"providerID": provider_id}
    return {"metadata": meta, "spec": spec | more, "status": {"conditions": []}}


def test_nodes_become_those_of_todays_machines() -> None:
    nodes = [
        node("cp-0", "capn-x://old", podCIDR="10.244.0.0/24", podCIDRs=["10.244.0.0/24"], taints=[{"key": "a"}]),
        node("cp-1", "capn-x://gone"),
        node("w-0", "capn-x://w-0"),
        node("by-hand", None),
        node("of-a-cloud", "cloud://1"),
    ]
    today = {"cp-0": "capn-x://new", "w-0": "capn-x://w-0", "w-1": "capn-x://w-1"}
    changes = compute_node_changes(nodes, today, set(today))
    assert [gone["metadata"]["name"] for gone in changes.delete] == ["cp-0", "cp-1"]
    made = {new["metadata"]["name"]: new for new in changes.create}
    assert set(made) == {"cp-0", "w-1"}
    assert made["cp-0"]["spec"] == {
        "podCIDR": "10.244.0.0/24",
        "podCIDRs": ["10.244.0.0/24"],
        "taints": [{"key": "a"}],
        "providerID": "capn-x://new",
    }
    assert not {"uid", "resourceVersion"} & set(made["cp-0"]["metadata"])
    assert made["w-1"]["metadata"]["labels"] == {"kubernetes.io/os": "linux", "kubernetes.io/hostname": "w-1"}


def test_a_machine_that_is_still_joining_registers_itself() -> None:
    today = {"w-0": "capn-x://w-0", "w-1": "capn-x://w-1", "w-2": "capn-x://new"}
    changes = compute_node_changes([node("w-0", "capn-x://w-0"), node("w-2", "capn-x://old")], today, set())
    assert [gone["metadata"]["name"] for gone in changes.delete] == ["w-2"]
    assert changes.create == ()
