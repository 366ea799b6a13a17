"""Phase CNIReady: the network add-on is applied to the child and no node lacks a network.

Nodes themselves say whether their network plugin works, and they are watched; so nothing here polls the add-on's pods.
Must not: touch a child whose spec says cni None.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from capn.api.cluster import Cni
from capn.api.conditions import ClusterCondition
from capn.api.resources import BY_KIND, DAEMON_SET
from capn.build.flannel import build_flannel
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.errors import TransientError
from capn.kube.client import KubeClient


async def reconcile_cni(scope: ClusterScope) -> Wait | None:
    """Apply the add-on until it was once seen working, then only look; workers are made meanwhile."""
    if scope.cluster.spec.network.cni is Cni.NONE:
        return None
    if scope.child is None:
        raise TransientError("the child's API is not open yet")
    if not scope.was_true(ClusterCondition.CNI_READY):
        await _ensure_flannel(scope.child.client, scope.cluster.spec.network.pod_cidr)
    return compute_network_wait(scope.child.nodes.list())


async def _ensure_flannel(client: KubeClient, pod_cidr: str) -> None:
    """Apply it in the builder's order, in which the DaemonSet is last: if that is there, all of it is."""
    manifests = build_flannel(pod_cidr=pod_cidr)
    last = manifests[-1]["metadata"]
    if await client.get(DAEMON_SET, last["name"], last["namespace"]) is None:
        for manifest in manifests:
            await apply_manifest(client, manifest)


def compute_network_wait(nodes: Iterable[dict[str, Any]]) -> Wait | None:
    """Wait while no node is there or one says that its network is not ready."""
    seen = list(nodes)
    lacking = sorted(node["metadata"]["name"] for node in seen if lacks_network(node))
    if lacking:
        return Wait("WaitingForCNI", f"the network plugin is not ready on {', '.join(lacking)}", blocks=False)
    if not seen:
        return Wait("WaitingForCNI", "flannel is applied; no node has registered yet", blocks=False)
    return None


def lacks_network(node: dict[str, Any]) -> bool:
    """Whether the kubelet says that the node is not ready for want of a network plugin."""
    for condition in (node.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready":
            message = str(condition.get("message", "")).lower()
            return condition.get("status") != "True" and "network" in message
    return True


async def apply_manifest(client: KubeClient, manifest: dict[str, Any]) -> None:
    """Server-side apply of one manifest of ours to a child."""
    await client.apply(BY_KIND[(manifest["apiVersion"], manifest["kind"])], manifest)
