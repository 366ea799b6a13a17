from __future__ import annotations

from typing import Any

import pytest

from capn.build.drain import describe_left, is_silent, must_leave


def make_pod(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "team", **fields.pop("metadata", {})}, **fields}


def owned(kind: str, *, controller: bool = True) -> dict[str, Any]:
    return {"metadata": {"ownerReferences": [{"kind": kind, "name": "x", "controller": controller}]}}


@pytest.mark.parametrize(
    "pod",
    [
        make_pod(),
        make_pod(status={"phase": "Pending"}),
        make_pod(status={"phase": "Unknown"}),
        make_pod(**owned("ReplicaSet")),
        make_pod(**owned("DaemonSet", controller=False)),
        make_pod(spec={"volumes": [{"name": "scratch", "emptyDir": {}}]}),
        {},
    ],
)
def test_pods_that_move_on(pod: dict[str, Any]) -> None:
    assert must_leave(pod)


@pytest.mark.parametrize(
    "pod",
    [
        make_pod(**owned("DaemonSet")),
        make_pod(metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}),
        make_pod(status={"phase": "Succeeded"}),
        make_pod(status={"phase": "Failed"}),
    ],
)
def test_pods_that_stay(pod: dict[str, Any]) -> None:
    assert not must_leave(pod)


@pytest.mark.parametrize(
    ("node", "silent"),
    [
        ({}, False),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, False),
        # Its kubelet reports, so it can end pods.
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, False),
        ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, True),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}}, True),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}, False),
    ],
)
def test_a_kubelet_that_no_longer_reports(node: dict[str, Any], *, silent: bool) -> None:
    assert is_silent(node) is silent


def test_what_is_left_is_said_in_the_same_order_each_time() -> None:
    left = {"team/web-1": "budget web", "other/x": "is ending"}
    said = describe_left("demo-md-0", left)
    assert said == "2 pods left on demo-md-0: other/x (is ending), team/web-1 (budget web)"
    assert describe_left("demo-md-0", dict(reversed(left.items()))) == said
    assert describe_left("n", {"a/b": "why"}) == "1 pod left on n: a/b (why)"


def test_of_many_pods_a_few_are_named_and_a_long_reason_is_cut() -> None:
    said = describe_left("n", {f"team/web-{number}": "x" * 500 for number in range(9)})
    assert said.startswith("9 pods left on n: team/web-0 (xxx")
    assert said.endswith("), and 4 more")
    assert "web-5" not in said
    assert len(said) < 1000
