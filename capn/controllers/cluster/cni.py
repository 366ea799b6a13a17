"""Phase CNIReady: the network add-on is applied to the child and no node lacks a network.

Nodes are watched, and flannel says on each of them that it runs there (condition NetworkUnavailable, False); so nothing
here polls the add-on's pods. The kubelet's own word is not enough: it is content once a configuration file lies there.
Must not: touch a child whose spec says cni None.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from capn.api.cluster import Cni
from capn.api.conditions import ClusterCondition, find_condition
from capn.api.resources import BY_KIND, DAEMON_SET
from capn.build.flannel import FlannelInput, build_flannel
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.kube.client import KubeClient


async def reconcile_cni(scope: ClusterScope) -> Wait | None:
    """Apply the add-on until it was once seen working, then only look; workers are made meanwhile."""
    if scope.cluster.spec.network.cni is Cni.NONE:
        return None
    child = scope.require_child()
    if not scope.was_true(ClusterCondition.CNI_READY):
        await _ensure_flannel(child.client, scope)
    return compute_network_wait(child.nodes.list())


async def _ensure_flannel(client: KubeClient, scope: ClusterScope) -> None:
    """Apply it in the builder's order, in which the DaemonSet is last: if that is there, all of it is."""
    infrastructure = scope.require_infrastructure()
    manifests = build_flannel(
        FlannelInput(
            pod_cidr=scope.cluster.spec.network.pod_cidr,
            api_host=infrastructure.endpoint_host,
            api_port=infrastructure.endpoint_port,
        )
    )
    last = manifests[-1]
    found = await client.get(DAEMON_SET, last["metadata"]["name"], last["metadata"]["namespace"])
    # One that came with the snapshot of another cluster asks that one's API server.
    if found is None or _read_environment(found) != _read_environment(last):
        for manifest in manifests:
            await apply_manifest(client, manifest)


def _read_environment(daemon_set: dict[str, Any]) -> dict[str, str]:
    """What its containers are told in plain values: where the API server is. Nothing of one that makes no sense."""
    try:
        containers = daemon_set["spec"]["template"]["spec"]["containers"]
        told = [variable for container in containers for variable in container.get("env", ())]
        return {variable["name"]: variable["value"] for variable in told if "value" in variable}
    except (KeyError, TypeError, AttributeError):
        return {}


def compute_network_wait(nodes: Iterable[dict[str, Any]]) -> Wait | None:
    """Wait while no node is there or one has no network yet."""
    seen = list(nodes)
    lacking = sorted(node["metadata"]["name"] for node in seen if lacks_network(node))
    if lacking:
        return Wait("WaitingForCNI", f"flannel does not run yet on {', '.join(lacking)}", blocks=False)
    if not seen:
        return Wait("WaitingForCNI", "flannel is applied; no node has registered yet", blocks=False)
    return None


def lacks_network(node: dict[str, Any]) -> bool:
    """Whether flannel has not said of this node that its network is there, or the kubelet says that it is not."""
    unavailable = find_condition(node, "NetworkUnavailable")
    if unavailable is None or unavailable.get("status") != "False":
        return True
    ready = find_condition(node, "Ready") or {}
    return ready.get("status") != "True" and "network" in str(ready.get("message", "")).lower()


async def apply_manifest(client: KubeClient, manifest: dict[str, Any]) -> None:
    """Server-side apply of one manifest of ours to a child."""
    await client.apply(BY_KIND[(manifest["apiVersion"], manifest["kind"])], manifest)
