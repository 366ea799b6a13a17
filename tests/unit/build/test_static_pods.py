"""Which programs of a control plane are not ready, by what the child lists."""

from __future__ import annotations

from typing import Any

import pytest

from capn.build.static_pods import COMPONENTS, find_unready


def pod(name: str, *, status: str = "True", **meta: Any) -> dict[str, Any]:
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": status}]
    return {"metadata": {"name": name, **meta}, "status": {"conditions": conditions}}


def pods(node: str) -> list[dict[str, Any]]:
    return [pod(f"{component}-{node}") for component in COMPONENTS]


def test_nothing_is_named_when_all_four_of_each_node_are_ready() -> None:
    assert find_unready([*pods("a"), *pods("b")], ["a", "b"]) == []


def test_those_of_other_nodes_do_not_matter() -> None:
    assert find_unready([*pods("a"), pod("etcd-b", status="False")], ["a"]) == []
    assert find_unready(pods("ba"), ["a"]) == [f"{component} of a" for component in COMPONENTS]


@pytest.mark.parametrize(
    "found",
    [
        [],
        [pod("kube-apiserver-a", status="False")],
        [pod("kube-apiserver-a", status="Unknown")],
        [pod("kube-apiserver-a", deletionTimestamp="2026-01-01T00:00:00Z")],
        [{"metadata": {"name": "kube-apiserver-a"}}],
        [{"metadata": {"name": "kube-apiserver-a"}, "status": {"conditions": None}}],
    ],
)
def test_one_that_does_not_say_that_it_is_ready_is_named(found: list[dict[str, Any]]) -> None:
    others = [pod for pod in pods("a") if pod["metadata"]["name"] != "kube-apiserver-a"]
    assert find_unready([*others, *found], ["a"]) == ["kube-apiserver of a"]
