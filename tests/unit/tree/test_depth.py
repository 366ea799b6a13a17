"""Branches below a child, as their claims and reports tell."""

from __future__ import annotations

from typing import Any

from capn import names
from capn.build.claim_report import ClaimReport
from capn.build.stamps import ANNOTATION_CLUSTER_UID, ANNOTATION_MACHINE
from capn.tree.draw import draw_tree
from capn.tree.model import arrange
from tests.unit.tree.test_tree import NOW, cluster, machine

CLAIMS = "capn-a-0123"
LOST = "2026-01-01T12:05:00Z"
READY = ClaimReport(phase="Ready", ready=True, version="v1.37.2", machines=1, ready_machines=1, since=LOST)


def claim(path: str, report: ClaimReport | None) -> dict[str, Any]:
    """A claim at the root; its own status says no more than that its network is there."""
    found = cluster(f"{path.rpartition('/')[2]}-ff00", machines={"desired": 0, "created": 0, "ready": 0})
    found["metadata"] |= {"namespace": CLAIMS}
    if report is not None:
        found["metadata"]["annotations"] = {names.ANNOTATION_REPORTED: report.encode()}
    found["spec"]["claim"] = {"path": path}
    return found


def claimed_machine(name: str, owner: str) -> dict[str, Any]:
    found = machine(f"{name}-ff00", owner=owner)
    found["metadata"] |= {
        "namespace": CLAIMS,
        "annotations": {names.ANNOTATION_OWNER_UID: "u", ANNOTATION_CLUSTER_UID: "c", ANNOTATION_MACHINE: name},
    }
    return found


def test_claims_stand_under_the_clusters_that_made_them() -> None:
    failed = ClaimReport(phase="Failed", machines=1, reason="PortInUse", message="port 6443 is in use")
    nodes = arrange(
        [claim("default/a/t/b/t/c", failed), cluster("a"), cluster("z"), claim("default/a/t/b", READY)],
        [claimed_machine("b-cp-0", "b-ff00"), machine("a-cp-0", owner="a")],
    )
    assert [node.path for node in nodes] == ["default/a", "default/z"]
    [b] = nodes[0].clusters
    [c] = b.clusters
    assert (b.path, b.depth, c.depth) == ("default/a/t/b", 2, 3)
    assert draw_tree(nodes, parent="root", now=NOW) == [
        "NAME             PHASE    VERSION  STAGE  READY  ADDRESS          AGE",
        "root",
        "├─ default/a     Ready    v1.37.2         2/2    10.89.0.10:6443  10m",
        "│  ├─ a-cp-0     Running  v1.37.2         yes    10.89.0.10       60s",
        "│  └─ t/b        Ready    v1.37.2         1/1    10.89.0.10:6443  10m",
        "│     ├─ b-cp-0  Running  v1.37.2         yes    10.89.0.10       60s",
        "│     └─ t/c     Failed   v1.37.2         0/1    10.89.0.10:6443  10m",
        "│           ! port 6443 is in use",
        "└─ default/z     Ready    v1.37.2         2/2    10.89.0.10:6443  10m",
    ]


def test_a_branch_whose_teller_is_silent_says_since_when() -> None:
    silent = cluster("a", ready=False)
    silent["status"]["conditions"][0]["lastTransitionTime"] = LOST
    [a] = arrange([silent, claim("default/a/t/b", READY), claim("default/a/t/b/t/c", READY)], [])
    [b] = a.clusters
    [c] = b.clusters
    assert (a.reachable, a.last_seen) == (True, "")
    assert [(node.reachable, node.last_seen, node.phase) for node in (b, c)] == [(False, LOST, "Ready")] * 2
    lines = draw_tree([a], parent="root", now=NOW)
    assert "└─ t/b" in lines[3]
    assert "(Ready)" in lines[3]
    assert lines[4].strip() == "? unreachable, last seen 5m ago: the cluster above does not answer"


def test_the_middle_is_silent_when_the_one_above_it_says_so() -> None:
    lost = READY.model_copy(update={"ready": False, "phase": "Provisioning"})
    [a] = arrange([cluster("a"), claim("default/a/t/b", lost), claim("default/a/t/b/t/c", READY)], [])
    [b] = a.clusters
    assert b.reachable
    assert [(node.reachable, node.last_seen) for node in b.clusters] == [(False, LOST)]


def test_a_claim_without_a_word_or_without_the_one_above_is_still_shown() -> None:
    [a] = arrange([cluster("a"), claim("default/a/t/b", None), claim("default/a/x/gone/t/c", READY)], [])
    assert [(node.path, node.ready) for node in a.clusters] == [
        ("default/a/t/b", False),
        ("default/a/x/gone/t/c", True),
    ]
