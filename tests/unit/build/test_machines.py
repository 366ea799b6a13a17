from __future__ import annotations

from capn.api.machine import NestedMachine
from capn.build.machines import build_machine, desired_machines
from tests.unit.build.samples import make_cluster

WORKERS = [
    {"name": "small", "replicas": 2},
    {
        "name": "big",
        "machine": {"cpus": 8},
        "labels": {"tier": "db"},
        "taints": [{"key": "dedicated", "effect": "NoSchedule"}],
    },
]


def test_all_machines_of_the_cluster_in_order() -> None:
    cluster = make_cluster(controlPlane={"replicas": 3}, workers=WORKERS)
    names = [machine["metadata"]["name"] for machine in desired_machines(cluster)]
    assert names == ["demo-cp-0", "demo-cp-1", "demo-cp-2", "demo-small-0", "demo-small-1", "demo-big-0"]


def test_machines_are_valid_owned_and_finalised() -> None:
    for manifest in desired_machines(make_cluster(workers=WORKERS)):
        machine = NestedMachine.model_validate(manifest)
        assert machine.metadata.finalizers == ("capn.dev/finalizer",)
        assert manifest["metadata"]["namespace"] == "team-a"
        assert manifest["metadata"]["ownerReferences"][0]["uid"] == "3b8f6a1e-0000-4000-8000-000000000001"
        assert machine.spec.cluster_name == "demo"
        assert machine.metadata.labels["capn.dev/role"] == machine.spec.role
        assert machine.metadata.labels.get("capn.dev/pool") == machine.spec.pool


def test_size_comes_from_the_nearest_place() -> None:
    cluster = make_cluster(machine={"cpus": 3}, controlPlane={"machine": {"cpus": 4}}, workers=WORKERS)
    cpus = {m["metadata"]["name"]: m["spec"]["machine"]["cpus"] for m in desired_machines(cluster)}
    assert cpus == {"demo-cp-0": 4, "demo-small-0": 3, "demo-small-1": 3, "demo-big-0": 8}


def test_labels_and_taints_belong_to_the_pool() -> None:
    cluster = make_cluster(workers=WORKERS)
    spec = build_machine(cluster, role="worker", ordinal=0, pool=cluster.spec.workers[1])["spec"]
    assert spec["labels"] == {"tier": "db"}
    assert spec["taints"] == [{"key": "dedicated", "value": "", "effect": "NoSchedule"}]
    assert "labels" not in build_machine(cluster, role="worker", ordinal=0, pool=cluster.spec.workers[0])["spec"]
