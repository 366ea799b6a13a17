"""Labels and taints of a worker's node: what has to be patched so that they are those of its machine.

Role: pure. Inputs: the node as its child has it (untrusted), wanted labels and taints; output: a JSON merge patch or
None. An annotation on the node names what came from the machine, so that this, and only this, is taken off again:
server-side apply could not, since the kubelet that registered the node owns its labels too, and a node's taints are
one atomic list that the child's node controller also writes. Must not: touch labels and taints of others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from capn import names
from capn.api.machine_template import Taint

Json = Mapping[str, Any]
TaintKey = tuple[str, str]
# kubeadm labels control planes itself; a kubelet may not give itself a role label, so workers get theirs from here.
WORKER_LABEL = "node-role.kubernetes.io/worker"


def compute_node_patch(node: Json, labels: Mapping[str, str], taints: Sequence[Taint]) -> dict[str, Any] | None:
    """The merge patch; None when the node is as it shall be. One that holds taints needs the node's revision too."""
    old_labels, old_taints = _read_record(node)
    metadata: dict[str, Any] = {}
    if changed := _compute_labels(node, labels, old_labels):
        metadata["labels"] = changed
    record = _build_record(labels, taints)
    if record != _annotation(node):
        metadata["annotations"] = {names.ANNOTATION_NODE_SETTINGS: record}
    patch: dict[str, Any] = {"metadata": metadata} if metadata else {}
    if (listed := _compute_taints(node, taints, old_taints)) is not None:
        patch["spec"] = {"taints": listed}
    return patch or None


def _compute_labels(node: Json, wanted: Mapping[str, str], old: Sequence[str]) -> dict[str, str | None]:
    live = node["metadata"].get("labels") or {}
    wanted = {**wanted, WORKER_LABEL: ""}
    changed: dict[str, str | None] = {key: value for key, value in wanted.items() if live.get(key) != value}
    return changed | {key: None for key in old if key in live and key not in wanted}


def _compute_taints(node: Json, wanted: Sequence[Taint], old: Sequence[TaintKey]) -> list[dict[str, Any]] | None:
    """The whole list, others' taints as they are and in their place; None when it is right already."""
    live: list[dict[str, Any]] = [
        taint for taint in (node.get("spec") or {}).get("taints") or () if isinstance(taint, dict)
    ]
    ours: dict[TaintKey, Taint] = {(taint.key, taint.effect): taint for taint in wanted}
    kept, seen = [], set()
    for taint in live:
        key = (str(taint.get("key", "")), str(taint.get("effect", "")))
        mine = ours.get(key)
        if mine is not None and taint.get("value", "") == mine.value:
            seen.add(key)
        elif mine is not None or key in old:
            continue
        kept.append(taint)
    kept += [taint.to_json() for key, taint in ours.items() if key not in seen]
    return kept if kept != live else None


def _annotation(node: Json) -> str | None:
    found = (node["metadata"].get("annotations") or {}).get(names.ANNOTATION_NODE_SETTINGS)
    return found if isinstance(found, str) else None


def _build_record(labels: Mapping[str, str], taints: Sequence[Taint]) -> str | None:
    """What the annotation shall be; none for a node that has nothing of ours but its role."""
    if not labels and not taints:
        return None
    record = {"labels": sorted(labels), "taints": sorted([taint.key, taint.effect] for taint in taints)}
    return json.dumps(record, separators=(",", ":"))


def _read_record(node: Json) -> tuple[list[str], list[TaintKey]]:
    """Keys of what came from the machine earlier; nothing when the annotation is missing or somebody spoilt it."""
    try:
        record = json.loads(_annotation(node) or "{}")
        labels = [str(key) for key in record.get("labels", ())]
        return labels, [(str(key), str(effect)) for key, effect in record.get("taints", ())]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return [], []
