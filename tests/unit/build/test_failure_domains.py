"""In which failure domain a machine is made, and who leaves, so that the spread stays even."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capn import names
from capn.api.machine import NestedMachine
from capn.build.control_plane_plan import choose_leaving, compute_control_plane_plan
from capn.build.failure_domains import choose_domain, compute_depths, compute_node_labels, find_allowed, is_outside
from capn.build.machines import build_machine
from capn.build.pool_plan import PoolRequest, compute_pool_plan, count_updated, is_outdated
from tests.unit.build.pool_samples import UNREADY, make_worker
from tests.unit.build.samples import make_cluster, make_machine

DOMAINS = ("a", "b", "c")
_PLACES = st.lists(st.sampled_from([*DOMAINS, "gone", None]), max_size=12)


@given(candidates=st.lists(st.sampled_from(DOMAINS), unique=True), peers=_PLACES, others=_PLACES, data=st.data())
def test_only_a_candidate_is_chosen_and_the_order_of_machines_says_nothing(
    candidates: list[str], peers: list[str | None], others: list[str | None], data: st.DataObject
) -> None:
    chosen = choose_domain(candidates, peers=peers, others=others)
    assert (chosen in candidates) if candidates else chosen is None
    if chosen is not None:
        assert peers.count(chosen) == min(map(peers.count, candidates))
    again = data.draw(st.permutations(peers)), data.draw(st.permutations(others))
    assert choose_domain(candidates, peers=again[0], others=again[1]) == chosen


def test_the_pool_counts_before_the_cluster_and_that_before_the_order() -> None:
    assert choose_domain(DOMAINS, peers=()) == "a"
    assert choose_domain(DOMAINS, peers=["a"], others=["a", "b"]) == "c"
    assert choose_domain(DOMAINS, peers=["a"], others=["a", "b", "c", "c"]) == "b"
    assert choose_domain(DOMAINS, peers=["a", "b", "b", "c", "c"], others=["a"] * 9) == "a"
    assert choose_domain((), peers=["a"]) is None


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6), width=st.integers(1, 3))
def test_a_pool_stays_even_whatever_size_it_is_given_one_after_the_other(sizes: list[int], width: int) -> None:
    domains, machines = DOMAINS[:width], dict[int, NestedMachine]()
    cluster = make_cluster(workers=[{"name": "md", "machine": {"cpus": 2}}])
    for wanted in sizes:
        request = PoolRequest(
            cluster=cluster,
            pool=cluster.spec.workers[0],
            wanted=wanted,
            machines=list(machines.values()),
            version="v1.37.2",
        )
        plan = compute_pool_plan(request)
        before = {ordinal: machine.spec.failure_domain for ordinal, machine in machines.items()}
        for machine in plan.delete:
            del machines[machine.spec.ordinal]
        for manifest in plan.create:
            ordinal = manifest["spec"]["ordinal"]
            chosen = choose_domain(domains, peers=[one.spec.failure_domain for one in machines.values()])
            machines[ordinal] = make_worker(ordinal, failureDomain=chosen)
        filling = Counter(dict.fromkeys(domains, 0))
        filling.update(str(machine.spec.failure_domain) for machine in machines.values())
        assert len(machines) == wanted
        assert max(filling.values()) - min(filling.values()) <= 1
        # Nobody moves because others come or go.
        assert all(machines[n].spec.failure_domain == place for n, place in before.items() if n in machines)


def deleted(machines: Sequence[NestedMachine], wanted: int) -> list[str]:
    cluster = make_cluster(workers=[{"name": "md", "machine": {"cpus": 2}}])
    pool = cluster.spec.workers[0]
    plan = compute_pool_plan(
        PoolRequest(cluster=cluster, pool=pool, wanted=wanted, machines=machines, version="v1.37.2")
    )
    return [machine.metadata.name for machine in plan.delete]


def test_who_leaves_is_in_the_fullest_domain_of_those_that_stay() -> None:
    spread = [make_worker(n, failureDomain=place) for n, place in enumerate("aabac")]
    assert deleted(spread, 4) == ["demo-md-3"]
    assert deleted(spread, 3) == ["demo-md-3", "demo-md-1"]
    # The sick go first, and what is left of their domain counts then.
    sick = [make_worker(0, failureDomain="a", conditions=UNREADY)]
    others = [make_worker(n, failureDomain=place) for n, place in ((1, "b"), (2, "a"), (3, "b"), (4, "a"))]
    assert deleted([*sick, *others], 3) == ["demo-md-0", "demo-md-4"]
    assert deleted([*sick, *others], 2) == ["demo-md-0", "demo-md-4", "demo-md-3"]


def test_without_domains_the_highest_number_leaves() -> None:
    order = [make_worker(n) for n in (3, 2, 1, 0)]
    assert compute_depths(order) == {"demo-md-3": 3, "demo-md-2": 2, "demo-md-1": 1, "demo-md-0": 0}


def plane(ordinal: int, domain: str | None, *annotations: str) -> NestedMachine:
    made = make_machine(role="control-plane", ordinal=ordinal, **({"failureDomain": domain} if domain else {}))
    meta = {"name": f"demo-cp-{ordinal}", "annotations": dict.fromkeys(annotations, "")}
    conditions = [{"type": "Ready", "status": "True", "reason": "Told", "lastTransitionTime": "2026-11-26T12:00:00Z"}]
    ready = made.status.model_validate({"conditions": conditions})
    return made.model_copy(update={"metadata": made.metadata.model_copy(update=meta), "status": ready})


def test_a_control_plane_leaves_the_fullest_domain() -> None:
    planes = [plane(0, "a"), plane(1, "b"), plane(2, "b"), plane(3, "c")]
    assert choose_leaving(planes, []).metadata.name == "demo-cp-2"
    assert choose_leaving(planes, [planes[0]]).metadata.name == "demo-cp-0"
    marked = plane(3, "c", names.ANNOTATION_DELETE_MACHINE)
    assert choose_leaving([*planes[:3], marked], []).metadata.name == "demo-cp-3"
    assert choose_leaving([plane(0, None), plane(1, None)], []).metadata.name == "demo-cp-1"


def test_control_planes_leave_a_domain_that_is_named_no_more() -> None:
    cluster = make_cluster(controlPlane={"replicas": 3})
    wanted = [build_machine(cluster, role=names.ROLE_CONTROL_PLANE, ordinal=n, pool=None) for n in range(4)]
    planes = [plane(0, "a"), plane(1, "b"), plane(2, "c")]
    assert compute_control_plane_plan(wanted, planes, allowed=["a", "b", "c"]).reason == ""
    plan = compute_control_plane_plan(wanted, planes, allowed=["b", "c"])
    assert plan.reason == "RollingOut"
    assert plan.create is not None
    later = compute_control_plane_plan(wanted, [*planes, plane(3, "b")], allowed=["b", "c"])
    assert later.delete is planes[0]


@pytest.mark.parametrize(
    ("domain", "allowed", "outside"),
    [(None, [], False), (None, ["a"], False), ("a", [], False), ("a", ["a", "b"], False), ("a", ["b"], True)],
)
def test_outside_is_what_is_in_a_domain_that_is_not_named(
    domain: str | None, allowed: list[str], *, outside: bool
) -> None:
    worker = make_worker(0, failureDomain=domain)
    assert is_outside(worker, allowed) is outside
    cluster = make_cluster(workers=[{"name": "md", "machine": {"cpus": 2}, "failureDomains": allowed}])
    assert is_outdated(cluster, cluster.spec.workers[0], worker, "v1.37.2") is outside
    assert count_updated(cluster, [worker]) == (0 if outside else 1)


def test_a_field_names_the_domains() -> None:
    cluster = make_cluster(
        controlPlane={"failureDomains": ["a"]}, workers=[{"name": "md", "failureDomains": ["b", "c"]}]
    )
    assert find_allowed(cluster, None) == ("spec.controlPlane.failureDomains", ["a"])
    assert find_allowed(cluster, cluster.spec.workers[0]) == ("spec.workers[md].failureDomains", ["b", "c"])


def test_a_node_has_its_domain_as_zone_unless_its_pool_says_another() -> None:
    assert compute_node_labels(make_worker(0, labels={"x": "y"}).spec) == {"x": "y"}
    spec = make_worker(0, labels={"x": "y"}, failureDomain="rack-a").spec
    assert compute_node_labels(spec) == {"topology.kubernetes.io/zone": "rack-a", "x": "y"}
    own = make_worker(0, labels={"topology.kubernetes.io/zone": "mine"}, failureDomain="rack-a").spec
    assert compute_node_labels(own) == {"topology.kubernetes.io/zone": "mine"}
