"""The tree: machines under their clusters, aligned, with the reason of a failure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from capn.dev.stages import StageTime, StageTracker, sum_stages
from capn.tree.draw import draw_tree, format_age
from capn.tree.model import arrange, is_ready

NOW = datetime(2026, 1, 1, 12, 10, tzinfo=UTC)
IP = "10.89.0.10"
MADE = "2026-01-01T12:09:00Z"


def cluster(name: str = "demo", *, ready: bool = True, **status: object) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False", "reason": "R", "message": "why"}
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "generation": 2,
            "creationTimestamp": "2026-01-01T12:00:00Z",
        },
        "spec": {"version": "v1.37.2"},
        "status": {
            "phase": "Ready" if ready else "Provisioning",
            "observedGeneration": 2,
            "endpoint": {"host": "10.89.0.10", "port": 6443},
            "machines": {"desired": 2, "created": 2, "ready": 2 if ready else 0},
            "conditions": [condition],
            **status,
        },
    }


def machine(name: str = "demo-cp-0", *, owner: str = "demo", ready: bool = True, **status: object) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"namespace": "default", "name": name, "generation": 1, "creationTimestamp": MADE},
        "spec": {"clusterName": owner, "role": "control-plane", "version": "v1.37.2"},
        "status": {"phase": "Running", "observedGeneration": 1, "conditions": [condition],
                   "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": IP}],
                   **status},
    }  # fmt: skip


def test_draws_clusters_with_their_machines_and_reasons() -> None:
    failed = machine(
        "b-cp-0",
        owner="b",
        ready=False,
        phase="Failed",
        bootstrap={"stage": "kubeadm/etcd"},
        failureMessage="port taken\nx",
    )
    nodes = arrange(
        [cluster("b", ready=False), cluster("a")],
        [machine("a-workers-0", owner="a"), failed, machine("a-cp-0", owner="a"), machine("stray", owner="gone")],
    )
    assert draw_tree(nodes, parent="https://127.0.0.1:1", now=NOW) == [
        "NAME               PHASE         VERSION  STAGE         READY  ADDRESS          AGE",
        "https://127.0.0.1:1",
        "├─ default/a       Ready         v1.37.2                2/2    10.89.0.10:6443  10m",
        "│  ├─ a-cp-0       Running       v1.37.2                yes    10.89.0.10       60s",
        "│  └─ a-workers-0  Running       v1.37.2                yes    10.89.0.10       60s",
        "└─ default/b       Provisioning  v1.37.2                0/2    10.89.0.10:6443  10m",
        "   └─ b-cp-0       Failed        v1.37.2  kubeadm/etcd  no     10.89.0.10       60s",
        "         ! port taken",
    ]


def test_failure_domains_have_a_column_where_there_are_any() -> None:
    placed = machine("a-cp-0", owner="a")
    placed["spec"]["failureDomain"] = "rack-a"
    nodes = arrange([cluster("a")], [placed, machine("a-workers-0", owner="a")])
    assert draw_tree(nodes, parent="p", now=NOW) == [
        "NAME               PHASE    VERSION  STAGE  READY  ADDRESS          DOMAIN  AGE",
        "p",
        "└─ default/a       Ready    v1.37.2         2/2    10.89.0.10:6443          10m",
        "   ├─ a-cp-0       Running  v1.37.2         yes    10.89.0.10       rack-a  60s",
        "   └─ a-workers-0  Running  v1.37.2         yes    10.89.0.10               60s",
    ]


def test_an_object_without_status_is_pending() -> None:
    bare = {"metadata": {"namespace": "n", "name": "c"}, "spec": {"version": "v1.37.2"}}
    [node] = arrange([bare], [])
    assert (node.phase, node.ready, node.endpoint) == ("Pending", False, "")
    assert draw_tree([node], parent="p", now=NOW)[2].split() == ["└─", "n/c", "Pending", "v1.37.2", "0/0"]


def test_ready_of_an_older_generation_is_not_ready() -> None:
    assert is_ready(cluster())
    assert not is_ready(cluster(observedGeneration=1))
    assert not is_ready(cluster(ready=False))


def test_a_deleting_object_says_so() -> None:
    going = cluster()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T12:10:00Z"
    assert arrange([going], [])[0].phase == "Deleting"


@pytest.mark.parametrize(
    ("created", "age"),
    [
        ("2026-01-01T12:09:18Z", "42s"),
        ("2026-01-01T11:00:00Z", "70m"),
        ("2026-01-01T02:10:00Z", "10h"),
        ("2025-12-20T12:10:00Z", "12d"),
        ("2026-01-01T13:00:00Z", "0s"),
        ("", ""),
    ],
)
def test_age(created: str, age: str) -> None:
    assert format_age(created, NOW) == age


def test_stages_are_told_once_and_timed() -> None:
    tracker = StageTracker()

    def look(at: float, *machines: dict[str, Any], ready: bool = False) -> list[str]:
        return tracker.observe(arrange([cluster(ready=ready)], machines)[0], at)

    assert look(0) == [f"{'default/demo':<24} Provisioning: R"]
    booting = machine(ready=False, phase="Bootstrapping", bootstrap={"stage": "boot"})
    assert look(2, booting) == [f"{'demo-cp-0':<24} Bootstrapping: boot"]
    assert look(3, booting) == []
    assert look(9, machine(), ready=True) == [f"{'default/demo':<24} Ready", f"{'demo-cp-0':<24} Ready"]
    assert tracker.finished == [
        StageTime("default/demo", "Provisioning: R", 9),
        StageTime("demo-cp-0", "Bootstrapping: boot", 7),
    ]


def test_what_is_waited_for_is_told_and_a_stage_seen_twice_is_one_line_of_the_table() -> None:
    def why(obj: dict[str, Any], reason: str) -> dict[str, Any]:
        conditions = [item for item in obj["status"].get("conditions", []) if item["type"] != "Ready"]
        obj["status"]["conditions"] = [*conditions, {"type": "Ready", "status": "False", "reason": reason}]
        return obj

    done = machine(ready=False, phase="Bootstrapping", bootstrap={"stage": "done"})
    node = arrange([why(cluster(ready=False), "WaitingForCNI")], [why(done, "NodeNotReady")])[0]
    assert StageTracker().observe(node, 0) == [
        f"{'default/demo':<24} Provisioning: WaitingForCNI",
        f"{'demo-cp-0':<24} Bootstrapping: NodeNotReady",
    ]
    seen = [StageTime("m", "a", 1), StageTime("m", "b", 2), StageTime("m", "a", 4), StageTime("n", "a", 8)]
    assert sum_stages(seen) == [StageTime("m", "a", 5), StageTime("m", "b", 2), StageTime("n", "a", 8)]
