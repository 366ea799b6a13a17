"""What `capn plan` says, case by case: pure, over objects as a parent would show them."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.build.machines import desired_machines
from capn.build.nesting import claims_namespace
from capn.errors import ApiStatusError
from capn.plan.apply import choose_manager, compute_applied, read_last_applied
from capn.plan.cluster import PlanRequest, compute_plan
from capn.plan.model import Action, ClusterPlan, Judge, Needs, Verdict
from capn.plan.surroundings import Surroundings

BASE: dict[str, Any] = {"version": "v1.37.2", "workers": [{"name": "md", "replicas": 2}]}


def manifest(spec: dict[str, Any], name: str = "c1", **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "capn.dev/v1alpha1",
        "kind": "NestedCluster",
        "metadata": {"name": name, "namespace": "team", **meta},
        "spec": spec,
    }


def live(spec: dict[str, Any], name: str = "c1", **status: Any) -> NestedCluster:
    return NestedCluster.model_validate(manifest(spec, name, uid=f"uid-{name}") | {"status": status})


def machines_of(cluster: NestedCluster, **status: Any) -> list[NestedMachine]:
    """The machines as the controllers make them."""
    return [NestedMachine.model_validate(made | {"status": status}) for made in desired_machines(cluster)]


def plan(before: dict[str, Any] | None, after: dict[str, Any], *others: NestedCluster, **request: Any) -> ClusterPlan:
    """The plan of one cluster that has its machines, if it is there."""
    clusters, machines = list(others), []
    if before is not None:
        clusters.append(live(before))
        machines = machines_of(clusters[-1], nodeRef={"name": "n", "uid": "u"})
    around = Surroundings(clusters, machines, request.pop("service_cidrs", ()))
    wanted = manifest(after, **({"uid": "uid-c1"} if before is not None else {}))
    return compute_plan(PlanRequest(wanted, around, **request))


def actions(found: ClusterPlan) -> dict[str, str]:
    return {change.name: str(change.action) for change in found.machines if change.action is not Action.KEEP}


BIG = {"cpus": 2, "memory": "4Gi", "disk": "10Gi"}
CASES: tuple[tuple[str, dict[str, Any] | None, dict[str, Any], Verdict, dict[str, str]], ...] = (
    ("new", None, BASE, Verdict.NEW, {"c1-cp-0": "add", "c1-md-0": "add", "c1-md-1": "add"}),
    ("the same", BASE, BASE, Verdict.UNCHANGED, {}),
    (
        "the same, written otherwise",
        BASE,
        BASE | {"machine": {"memory": "2560Mi"}, "paused": False},
        Verdict.UNCHANGED,
        {},
    ),
    ("more", BASE, BASE | {"workers": [{"name": "md", "replicas": 3}]}, Verdict.CHANGED, {"c1-md-2": "add"}),
    ("fewer", BASE, BASE | {"workers": [{"name": "md", "replicas": 1}]}, Verdict.CHANGED, {"c1-md-1": "remove"}),
    ("no workers", BASE, {"version": "v1.37.2"}, Verdict.CHANGED, {"c1-md-0": "remove", "c1-md-1": "remove"}),
    (
        "another pool",
        BASE,
        BASE | {"workers": [{"name": "xl", "replicas": 1}]},
        Verdict.CHANGED,
        {"c1-xl-0": "add", "c1-md-0": "remove", "c1-md-1": "remove"},
    ),
    (
        "a larger pool",
        BASE,
        BASE | {"workers": [{"name": "md", "replicas": 2, "machine": BIG}]},
        Verdict.CHANGED,
        {"c1-md-0": "replace", "c1-md-1": "replace"},
    ),
    (
        "labels",
        BASE,
        BASE | {"workers": [{"name": "md", "replicas": 2, "labels": {"a": "b"}}]},
        Verdict.CHANGED,
        {"c1-md-0": "update", "c1-md-1": "update"},
    ),
    ("pause", BASE, BASE | {"paused": True}, Verdict.CHANGED, {}),
    (
        "control planes",
        BASE,
        BASE | {"controlPlane": {"replicas": 3}},
        Verdict.CHANGED,
        {"c1-cp-1": "add", "c1-cp-2": "add"},
    ),
)


@pytest.mark.parametrize(("before", "after", "verdict", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_becomes_of_the_machines(
    before: dict[str, Any] | None, after: dict[str, Any], verdict: Verdict, expected: dict[str, str]
) -> None:
    found = plan(before, after)
    assert (found.verdict, actions(found)) == (verdict, expected)
    assert found.refusals == ()


REFUSED: tuple[tuple[str, dict[str, Any], str, Judge, str], ...] = (
    ("a bad value", BASE | {"version": "1.37"}, "spec.version", Judge.RULE, "such as v1.37.2"),
    ("power without quotes", BASE | {"powerState": False}, "spec.powerState", Judge.RULE, 'write "Off" in quotes'),
    ("an unknown field", BASE | {"size": 3}, "spec.size", Judge.RULE, "not permitted"),
    (
        "what is fixed",
        BASE | {"network": {"podCIDR": "10.8.0.0/16"}},
        "spec.network.podCIDR",
        Judge.RULE,
        "cannot be changed",
    ),
    ("two steps back", BASE | {"version": "v1.35.9"}, "spec.version", Judge.RULE, "older version"),
    ("a step back", BASE | {"version": "v1.37.1"}, "spec.version", Judge.CONTROLLER, "never go back"),
    ("an unknown minor", BASE | {"version": "v1.38.0"}, "spec.version", Judge.CONTROLLER, "upgrade capn first"),
    ("two minors", BASE | {"version": "v1.39.0"}, "spec.version", Judge.RULE, "one minor version at a time"),
)


@pytest.mark.parametrize(("after", "field", "judge", "words"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_refusal_names_the_field_and_the_rule_and_nothing_is_changed(
    after: dict[str, Any], field: str, judge: Judge, words: str
) -> None:
    found = plan(BASE, after)
    assert found.verdict is Verdict.REFUSED
    assert (found.refusals[0].field, found.refusals[0].by) == (field, judge)
    assert words in found.refusals[0].message
    assert found.machines == ()
    assert found.after == found.now


def test_the_api_server_has_its_own_word() -> None:
    answer = ApiStatusError(403, "dry run of nestedclusters c1: exceeded quota")
    found = plan(BASE, BASE | {"paused": True}, answer=answer)
    assert found.verdict is Verdict.REFUSED
    assert [(one.by, one.message) for one in found.refusals] == [(Judge.API_SERVER, str(answer))]


def test_fields_are_named_one_by_one_pools_by_their_names() -> None:
    after = BASE | {"workers": [{"name": "md", "replicas": 3}, {"name": "xl"}], "powerState": "Off"}
    found = plan(BASE, after)
    assert [str(change).partition(" -> ")[0] for change in found.fields] == [
        "spec.powerState: On",
        "spec.workers[md].replicas: 2",
        "spec.workers[xl]: none",
    ]


def test_an_upgrade_replaces_every_machine() -> None:
    found = plan(BASE | {"version": "v1.36.3"}, BASE)
    assert actions(found) == {"c1-cp-0": "replace", "c1-md-0": "replace", "c1-md-1": "replace"}
    assert {str(why) for change in found.machines for why in change.why} == {"version: v1.36.3 -> v1.37.2"}


def test_a_cluster_that_cannot_be_upgraded_says_why_before_the_apply() -> None:
    old = BASE | {"version": "v1.36.3", "infrastructure": {"kind": "libvirt"}}
    cluster = live(old, endpoint={"host": "10.0.0.10", "port": 6443})
    around = Surroundings([cluster], machines_of(cluster))
    found = compute_plan(PlanRequest(manifest(old | {"version": "v1.37.2"}, uid="uid-c1"), around))
    assert [(one.field, one.by) for one in found.refusals] == [("spec.version", Judge.CONTROLLER)]
    assert "cannot be upgraded" in found.refusals[0].message


def fixed(spec: dict[str, Any], **endpoint: Any) -> Surroundings:
    """A cluster with its machines, whose provider has said what its endpoint is."""
    cluster = live(spec, endpoint={"host": "192.0.2.10", "port": 6443, **endpoint})
    return Surroundings([cluster], machines_of(cluster, nodeRef={"name": "n", "uid": "u"}))


def test_a_control_plane_that_has_the_endpoint_stays_and_counts_as_it_is() -> None:
    spec = {"version": "v1.37.2", "controlPlane": {"replicas": 3}}
    larger = manifest(spec | {"machine": BIG}, uid="uid-c1")
    found = compute_plan(PlanRequest(larger, fixed(spec)))
    assert (found.verdict, actions(found)) == (Verdict.CHANGED, {"c1-cp-1": "replace", "c1-cp-2": "replace"})
    [note] = found.notes
    assert note.startswith("c1-cp-0 stays as it is: its network card has the endpoint's address")
    assert note.endswith("(machine.memory: 2560Mi -> 4096Mi)")
    assert (found.now.memory_mib, found.after.memory_mib) == (3 * 2560, 2560 + 2 * 4096)
    virtual = compute_plan(PlanRequest(larger, fixed(spec, virtual=True)))
    assert (len(actions(virtual)), virtual.notes, virtual.after.memory_mib) == (3, (), 3 * 4096)


def test_arguments_of_components_replace_control_planes_and_say_which() -> None:
    asked = {"apiServer": {"extraArgs": {"v": "2"}}, "extraSANs": ["b.test", "a.test"]}
    changed = {"apiServer": {"extraArgs": {"profiling": "false"}}, "extraSANs": ["a.test", "b.test"]}
    found = plan(BASE | {"controlPlane": asked}, BASE | {"controlPlane": changed})
    assert actions(found) == {"c1-cp-0": "replace"}
    [why] = (change.why for change in found.machines if change.action is Action.REPLACE)
    assert [str(one) for one in why] == [
        "controlPlane.apiServer.extraArgs.profiling: none -> false",
        "controlPlane.apiServer.extraArgs.v: 2 -> none",
    ]


def test_arguments_of_a_machine_of_an_earlier_release_are_not_known_and_replace_nothing() -> None:
    cluster = live(BASE)
    machines = [
        machine.model_copy(update={"spec": machine.spec.model_copy(update={"kubeadm": None})})
        for machine in machines_of(cluster)
    ]
    after = manifest(BASE | {"controlPlane": {"etcd": {"extraArgs": {"v": "2"}}}}, uid="uid-c1")
    assert actions(compute_plan(PlanRequest(after, Surroundings([cluster], machines)))) == {}


def test_why_a_machine_is_replaced() -> None:
    found = plan(BASE, BASE | {"workers": [{"name": "md", "replicas": 2, "machine": BIG}]})
    [why] = {change.why for change in found.machines if change.action is Action.REPLACE}
    assert [str(one) for one in why] == ["machine.memory: 2560Mi -> 4096Mi"]


def test_a_machine_leaves_a_domain_that_is_named_no_more() -> None:
    def named(*domains: str) -> dict[str, Any]:
        return BASE | {"workers": [{"name": "md", "replicas": 2, "failureDomains": list(domains)}]}

    cluster = live(named("a", "b"))
    machines = [
        machine.model_copy(update={"spec": machine.spec.model_copy(update={"failure_domain": domain})})
        for machine, domain in zip(machines_of(cluster), ("c", "a", "b"), strict=True)
    ]
    around = Surroundings([cluster], machines)
    same = compute_plan(PlanRequest(manifest(named("b", "a"), uid="uid-c1"), around))
    assert actions(same) == {}
    moved = compute_plan(PlanRequest(manifest(named("b", "d"), uid="uid-c1"), around))
    assert actions(moved) == {"c1-md-0": "replace"}
    [why] = {change.why for change in moved.machines if change.action is Action.REPLACE}
    assert [str(one) for one in why] == ["failureDomain: a -> b or d"]


def test_a_machine_that_is_being_deleted_is_made_anew() -> None:
    cluster = live(BASE)
    machines = machines_of(cluster)
    going = machines[1].model_copy(
        update={"metadata": machines[1].metadata.model_copy(update={"deletion_timestamp": "2026-01-01T00:00:00Z"})}
    )
    around = Surroundings([cluster], [machines[0], going, machines[2]])
    found = compute_plan(PlanRequest(manifest(BASE, uid="uid-c1"), around))
    assert actions(found) == {"c1-md-0": "add"}
    assert found.verdict is Verdict.CHANGED


def test_machines_of_a_former_cluster_of_the_name_are_not_its_own() -> None:
    former = machines_of(live(BASE).model_copy())
    other = NestedCluster.model_validate(manifest(BASE, uid="another"))
    found = compute_plan(PlanRequest(manifest(BASE, uid="another"), Surroundings([other], former)))
    assert set(actions(found).values()) == {"add"}


def test_what_it_needs_of_the_host_now_and_after() -> None:
    found = plan(BASE, BASE | {"workers": [{"name": "md", "replicas": 4, "machine": BIG}]})
    assert found.now == Needs(machines=3, cpus=6, memory_mib=3 * 2560, disk_mib=3 * 10240)
    assert found.after == Needs(machines=5, cpus=10, memory_mib=2560 + 4 * 4096, disk_mib=5 * 10240)


def test_what_is_off_takes_its_disks_only() -> None:
    found = plan(BASE, BASE | {"powerState": "Off"})
    assert found.after == Needs(machines=3, disk_mib=3 * 10240)
    cluster = live(BASE | {"powerState": "Off"})
    around = Surroundings([cluster], machines_of(cluster, phase="Off"))
    back = compute_plan(PlanRequest(manifest(BASE, uid="uid-c1"), around))
    assert (back.now.cpus, back.now.disk_mib, back.after.cpus) == (0, 3 * 10240, 6)


@pytest.mark.parametrize(
    ("extra", "words"), [({"paused": True}, "spec.paused"), ({"powerState": "Off"}, "spec.powerState")]
)
def test_what_would_not_be_done_at_once_is_said(extra: dict[str, Any], words: str) -> None:
    found = plan(BASE, BASE | extra | {"workers": [{"name": "md", "replicas": 5}]})
    assert any(words in note for note in found.notes)
    assert not plan(BASE, BASE | extra).notes


def nested_parent(**budget: Any) -> dict[str, Any]:
    return {"version": "v1.37.2", "nesting": {"enabled": True, "maxDepth": 2, "budget": budget}}


def test_the_budget_is_counted_in_all_and_at_each_depth() -> None:
    spec = nested_parent(machines=3, memory="4Gi")
    parent = live(spec)
    namespace = claims_namespace("c1", "uid-c1")
    claims, machines = [], machines_of(parent)
    for name, path, count in (("a", "team/c1/n/a", 2), ("b", "team/c1/n/a/n/b", 1)):
        made = manifest({"version": "v1.37.2", "claim": {"path": path}}, name, uid=f"uid-{name}")
        made["metadata"]["namespace"] = namespace
        claims.append(NestedCluster.model_validate(made))
        like = live({"version": "v1.37.2", "workers": [{"name": "w", "replicas": count - 1}]}, name)
        for one in machines_of(like):
            meta = one.metadata.model_copy(update={"namespace": namespace})
            machines.append(one.model_copy(update={"metadata": meta}))
    around = Surroundings([parent, *claims], machines)
    found = compute_plan(PlanRequest(manifest(spec, uid="uid-c1"), around))
    used = {(use.depth, use.what): (use.used, use.limit, use.exceeded) for use in found.budget}
    assert used[0, "machines"] == (3, 3, False)
    assert used[0, "memory (MiB)"] == (3 * 2560, 4096, True)
    assert used[1, "machines"] == (2, None, False)
    assert used[2, "machines"] == (1, None, False)
    assert used[0, "clusters"] == (2, None, False)


def test_networks_that_would_be_in_the_way() -> None:
    other = live({"version": "v1.37.2"}, "other", endpoint={"host": "10.8.0.10", "port": 6443})
    apart = {"podCIDR": "10.8.0.0/16", "serviceCIDR": "172.20.0.0/16"}
    found = plan(None, {"version": "v1.37.2", "network": apart}, other, service_cidrs=["172.20.1.0/24"])
    [pods, services] = found.notes
    assert "spec.network.podCIDR 10.8.0.0/16 covers API servers of team/other (10.8.0.10)" in pods
    assert "spec.network.serviceCIDR 172.20.0.0/16 overlaps 172.20.1.0/24, the Services of this parent" in services
    shared = plan(None, {"version": "v1.37.2"}, other)
    assert all("fine unless" in note for note in shared.notes)
    assert len(shared.notes) == 2


def test_an_ancestor_is_told_from_a_neighbour() -> None:
    above = live({"version": "v1.37.2"}, "above")
    spec = {"version": "v1.37.2", "claim": {"path": "team/above/n/c"}}
    found = compute_plan(PlanRequest(manifest(spec, "claim"), Surroundings([above])))
    assert all("which this cluster is in: choose another" in note for note in found.notes)
    assert found.machines == ()


def test_a_client_side_apply_takes_away_what_was_applied_before_and_no_more() -> None:
    last = {"spec": {"version": "v1.37.2", "workers": [{"name": "md"}], "machine": {"cpus": 4}}}
    now = {"metadata": {"name": "c1", "uid": "u"}, "spec": {**last["spec"], "paused": True}}
    wanted = {"metadata": {"name": "c1"}, "spec": {"version": "v1.37.3", "machine": {"memory": "4Gi"}}}
    made = compute_applied(now, wanted, last)
    assert made["spec"] == {"version": "v1.37.3", "machine": {"memory": "4Gi"}, "paused": True}
    assert made["metadata"]["uid"] == "u"


def test_what_was_applied_last_is_read_or_is_nothing() -> None:
    key = "kubectl.kubernetes.io/last-applied-configuration"
    assert read_last_applied({"metadata": {"annotations": {key: '{"spec": {}}'}}}) == {"spec": {}}
    assert read_last_applied({"metadata": {"annotations": {key: "{"}}}) is None
    assert read_last_applied({"metadata": {"annotations": {key: "[]"}}}) is None
    assert read_last_applied({"metadata": {}}) is None


def test_the_dry_run_is_by_whoever_applies_the_object() -> None:
    fields = [
        {"manager": "capn", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}},
        {"manager": "argocd", "operation": "Apply", "fieldsV1": {"f:spec": {}}},
    ]
    assert choose_manager({"metadata": {"managedFields": fields}}) == "argocd"
    assert choose_manager({"metadata": {}}) == "kubectl"
    assert choose_manager(None) == "kubectl"
