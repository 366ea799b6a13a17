"""Which pods must leave a node before its machine goes, and how those that are left are told of.

Role: pure. Inputs: a child's node and pods as its API gives them (hostile input); outputs: choices and text. Must not:
do I/O or read the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capn.api.conditions import find_condition

Pod = Mapping[str, Any]

_MIRROR = "kubernetes.io/config.mirror"
_UNREACHABLE = "node.kubernetes.io/unreachable"
_FINISHED = frozenset({"Succeeded", "Failed"})
# So many pods are named; a status is read by every watcher.
_NAMED = 5
_MAX_WHY = 160


def must_leave(pod: Pod) -> bool:
    """Whether a drain evicts the pod.

    Not those that would come back to the same node (of a DaemonSet), that only the kubelet can end (mirrors of static
    pods), or that have ended. A pod with local data or without a controller leaves too: its machine goes in any case.
    """
    meta = pod.get("metadata") or {}
    owners = meta.get("ownerReferences") or ()
    if any(owner.get("controller") and owner.get("kind") == "DaemonSet" for owner in owners):
        return False
    if _MIRROR in (meta.get("annotations") or {}):
        return False
    return (pod.get("status") or {}).get("phase") not in _FINISHED


def is_leaving(pod: Pod) -> bool:
    """Whether the pod was told to end and has not ended yet."""
    return bool((pod.get("metadata") or {}).get("deletionTimestamp"))


def is_silent(node: Mapping[str, Any]) -> bool:
    """Whether the node's kubelet no longer reports, so that no pod there will ever be seen to end."""
    taints = (node.get("spec") or {}).get("taints") or ()
    ready = find_condition(node, "Ready") or {}
    return ready.get("status") == "Unknown" or any(taint.get("key") == _UNREACHABLE for taint in taints)


def name_pod(pod: Pod) -> str:
    """`namespace/name`."""
    meta = pod.get("metadata") or {}
    return f"{meta.get('namespace', '')}/{meta.get('name', '')}"


def describe_left(node: str, left: Mapping[str, str]) -> str:
    """Pods that are left on the node and why, by name, in the same order each time; the first few of many."""
    named = [f"{name} ({why[:_MAX_WHY]})" for name, why in sorted(left.items())[:_NAMED]]
    more = [f"and {len(left) - _NAMED} more"] if len(left) > _NAMED else []
    return f"{len(left)} pod{'s' if len(left) != 1 else ''} left on {node}: {', '.join([*named, *more])}"
