"""The static pods of a simulated control plane, as its kubelet shows them to the child's API.

Role: one mirror pod for each of kubeadm's programs; it goes with its node. Inputs: the kubelet's client; output: pods
that are Ready, except those that a test holds back. Must not: run anything; `memory_etcd` answers commands in etcd's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from capn.api.conditions import find_condition
from capn.api.resources import POD
from capn.build.static_pods import COMPONENTS, NAMESPACE, SELECTOR, name_mirror_pod
from capn.errors import ConflictError
from capn.kube.client import KubeClient

# Where kubeadm's ClusterConfiguration has a program's arguments.
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "etcd": ("etcd", "local"),
    "kube-apiserver": ("apiServer",),
    "kube-controller-manager": ("controllerManager",),
    "kube-scheduler": ("scheduler",),
}


async def show_static_pods(
    kubelet: KubeClient, node: dict[str, Any], told: Mapping[str, Any], *, unready: Collection[str] = ()
) -> None:
    """Make the node's mirror pods that are not there, and say that all are Ready except those named in `unready`.

    `told`: kubeadm's ClusterConfiguration, which says how the programs are run.
    """
    name, uid = node["metadata"]["name"], node["metadata"]["uid"]
    listed = await kubelet.list(POD, namespace=NAMESPACE, label_selector=SELECTOR)
    there = {pod["metadata"]["name"]: pod for pod in listed.items}
    for component in COMPONENTS:
        pod_name = name_mirror_pod(component, name)
        if pod_name not in there:
            with contextlib.suppress(ConflictError):
                await kubelet.create(POD, _build(component, name, uid, read_command(told, component)))
        if pod_name not in unready and find_condition(there.get(pod_name, {}), "Ready") is None:
            await tell_readiness(kubelet, pod_name, ready=True)


async def tell_readiness(kubelet: KubeClient, pod: str, *, ready: bool) -> None:
    """Let the kubelet say whether that static pod answers its probe."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    told = {"metadata": {"name": pod, "namespace": NAMESPACE}, "status": {"conditions": [condition]}}
    await kubelet.apply(POD, told, subresource="status")


def read_command(told: Mapping[str, Any], component: str) -> list[str]:
    """The program's command line as kubeadm writes it: of its own arguments, only those that it was told of."""
    section: Any = told
    for key in _SECTIONS[component]:
        section = section.get(key) or {}
    return [component, *(f"--{argument['name']}={argument['value']}" for argument in section.get("extraArgs", ()))]


def _build(component: str, node: str, node_uid: str, command: list[str]) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": True}
    return {
        "metadata": {
            "name": name_mirror_pod(component, node),
            "namespace": NAMESPACE,
            "labels": {"component": component, "tier": "control-plane"},
            "annotations": {"kubernetes.io/config.mirror": node_uid},  # a drain leaves it where it is
            "ownerReferences": [owner],
        },
        "spec": {"nodeName": node, "containers": [{"name": component, "command": command}]},
    }
