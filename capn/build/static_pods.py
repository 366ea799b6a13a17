"""Which of the programs that make a node a control plane are not ready yet.

Role: pure. kubeadm has the kubelet run them as static pods, which the child lists as mirror pods. A node is Ready as
soon as its kubelet is; the API server on it may need minutes more, and so may an etcd that catches up. Inputs: the
child's pods (hostile: a child that lies holds up nobody but itself) and names of nodes. Must not: ask anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from capn.api.conditions import find_condition

# kubeadm's names of the programs, the label that its manifests carry, and where their mirror pods are.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NAMESPACE = "kube-system"
SELECTOR = "tier=control-plane"


def name_mirror_pod(component: str, node: str) -> str:
    """The name under which the node's kubelet shows a static pod of kubeadm's to the API server."""
    return f"{component}-{node}"


def find_unready(pods: Iterable[Mapping[str, Any]], nodes: Sequence[str]) -> list[str]:
    """What is not ready, as "kube-apiserver of c1-cp-1"; a pod that is not there is not ready."""
    ready = {pod["metadata"]["name"] for pod in pods if _is_ready(pod)}
    return [
        f"{component} of {node}"
        for node in nodes
        for component in COMPONENTS
        if name_mirror_pod(component, node) not in ready
    ]


def _is_ready(pod: Mapping[str, Any]) -> bool:
    ready = find_condition(pod, "Ready")
    return ready is not None and ready.get("status") == "True" and not pod["metadata"].get("deletionTimestamp")
