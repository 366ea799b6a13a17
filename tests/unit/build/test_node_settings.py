"""The patch that brings a node's labels and taints to those of its machine; the node's own word is hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from capn import names
from capn.api.machine_template import Taint
from capn.build.node_settings import WORKER_LABEL, compute_node_patch
from capn.kube.memory import _patch as merge_patch

OURS = Taint(key="ours", value="v", effect="NoSchedule")
THEIRS = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}


def make_node(labels: dict[str, str] | None = None, taints: Any = None, record: str | None = None) -> dict[str, Any]:
    annotations = {} if record is None else {names.ANNOTATION_NODE_SETTINGS: record}
    metadata = {"name": "n", "labels": {WORKER_LABEL: "", **(labels or {})}, "annotations": annotations}
    return {"metadata": metadata, "spec": {} if taints is None else {"taints": taints}}


def test_a_node_that_is_as_it_shall_be_is_left_alone() -> None:
    assert compute_node_patch(make_node(), {}, ()) is None
    settled = merge_patch(make_node(), compute_node_patch(make_node(), {"a": "b"}, [OURS]))
    assert compute_node_patch(settled, {"a": "b"}, [OURS]) is None


def test_a_new_worker_gets_its_role() -> None:
    assert compute_node_patch({"metadata": {"name": "n"}}, {}, ()) == {"metadata": {"labels": {WORKER_LABEL: ""}}}


def test_what_the_kubelet_registered_is_remembered_so_that_it_can_go() -> None:
    registered = make_node({"a": "b", "theirs": "x"}, [OURS.to_json(), THEIRS])
    known = merge_patch(registered, compute_node_patch(registered, {"a": "b"}, [OURS]))
    assert known["metadata"]["labels"] == registered["metadata"]["labels"]
    bare = merge_patch(known, compute_node_patch(known, {}, ()))
    assert bare == make_node({"theirs": "x"}, [THEIRS])


def test_taints_of_others_stay_as_they_are_and_a_wrong_value_is_put_right() -> None:
    node = make_node(taints=[THEIRS, {"key": "ours", "value": "wrong", "effect": "NoSchedule"}])
    patch = compute_node_patch(node, {}, [OURS])
    assert patch is not None
    assert patch["spec"]["taints"] == [THEIRS, OURS.to_json()]
    kept = make_node(taints=[{**OURS.to_json(), "timeAdded": "x"}, THEIRS], record=_record(taints=[OURS]))
    assert compute_node_patch(kept, {}, [OURS]) is None


def _record(taints: list[Taint]) -> str:
    record = {"labels": [], "taints": [[taint.key, taint.effect] for taint in taints]}
    return json.dumps(record, separators=(",", ":"))


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "7", '{"labels":7}', '{"taints":[1]}', '{"taints":[["a"]]}', "[" * 100_000, "null"]
)
def test_a_spoilt_record_is_written_anew_and_breaks_nothing(record: str) -> None:
    patch = compute_node_patch(make_node({"x": "y"}, ["odd", THEIRS], record), {"a": "b"}, ())
    assert patch is not None
    assert patch["metadata"]["labels"] == {"a": "b"}
    assert patch["metadata"]["annotations"] == {names.ANNOTATION_NODE_SETTINGS: '{"labels":["a"],"taints":[]}'}
