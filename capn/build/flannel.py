"""Manifests of flannel (VXLAN), the network add-on that capn installs in a child.

Role: pure. The settings that matter to nesting (VNI, UDP port, MTU) are inputs, since a child's overlay must not
collide with its parent's. The objects follow flannel's documented set-up (`--kube-subnet-mgr`, net-conf.json).
Must not: name an image that the node image does not hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

FLANNEL_IMAGE = "ghcr.io/flannel-io/flannel:v0.28.10"
NAMESPACE = "kube-flannel"
_NAME = "flannel"
_LABELS = {"app.kubernetes.io/name": "flannel", "app.kubernetes.io/managed-by": "capn"}
_SELECTOR = {"app.kubernetes.io/name": "flannel"}
# Read-write directories of the host: (volume, path on the host).
_RUN = ("run", "/run/flannel")
_CNI_CONFIG = ("cni", "/etc/cni/net.d")
_CNI_PLUGIN = ("cni-plugin", "/opt/cni/bin")
_XTABLES = ("xtables-lock", "/run/xtables.lock")
_CONFIG = ("flannel-cfg", "/etc/kube-flannel")


@dataclass(frozen=True, slots=True)
class FlannelInput:
    """`port` is the VXLAN's UDP port, `mtu` that of the overlay; `api_host` and `api_port` are the child's endpoint.

    flannel asks the API there and not at the Service's address, which nothing serves on a new node before kube-proxy
    does: a packet to it would leave the node by its default route.
    """

    pod_cidr: str
    api_host: str
    api_port: int
    image: str = FLANNEL_IMAGE
    vni: int = 1
    port: int = 8472
    mtu: int | None = None


def build_flannel(flannel: FlannelInput) -> list[dict[str, Any]]:
    """All objects, in the order in which to apply them."""
    backend: dict[str, Any] = {"Type": "vxlan", "VNI": flannel.vni, "Port": flannel.port}
    if flannel.mtu is not None:
        backend["MTU"] = flannel.mtu
    network = {"Network": flannel.pod_cidr, "EnableNFTables": False, "Backend": backend}
    return [
        _build_namespace(),
        _object("v1", "ServiceAccount", {"namespace": NAMESPACE}),
        _build_role(),
        _build_binding(),
        _build_config(network),
        _build_daemon_set(flannel),
    ]


def _object(api_version: str, kind: str, metadata: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": _NAME, "labels": dict(_LABELS), **metadata},
        **fields,
    }


def _build_namespace() -> dict[str, Any]:
    # flannel changes the host's network: it cannot run under a stricter Pod Security level.
    labels = {**_LABELS, "pod-security.kubernetes.io/enforce": "privileged"}
    return _object("v1", "Namespace", {"name": NAMESPACE, "labels": labels})


def _build_role() -> dict[str, Any]:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    ]
    return _object("rbac.authorization.k8s.io/v1", "ClusterRole", {}, rules=rules)


def _build_binding() -> dict[str, Any]:
    return _object(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        {},
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _NAME},
        subjects=[{"kind": "ServiceAccount", "name": _NAME, "namespace": NAMESPACE}],
    )


def _build_config(network: dict[str, Any]) -> dict[str, Any]:
    plugins = [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    cni = {"name": "cbr0", "cniVersion": "0.3.1", "plugins": plugins}
    data = {"cni-conf.json": json.dumps(cni, indent=2), "net-conf.json": json.dumps(network, indent=2)}
    return _object("v1", "ConfigMap", {"namespace": NAMESPACE}, data=data)


def _build_daemon_set(flannel: FlannelInput) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "hostNetwork": True,
        "priorityClassName": "system-node-critical",
        "serviceAccountName": _NAME,
        # The network must come up on every node, whatever its taints; `not-ready` is what it cures.
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}, {"operator": "Exists", "effect": "NoExecute"}],
        "initContainers": [
            _copy_container(
                "install-plugin", flannel.image, "/opt/cni/bin/flannel", f"{_CNI_PLUGIN[1]}-host/", _CNI_PLUGIN
            ),
            _copy_container(
                "install-config",
                flannel.image,
                f"{_CONFIG[1]}/cni-conf.json",
                f"{_CNI_CONFIG[1]}/10-flannel.conflist",
                _CNI_CONFIG,
            ),
        ],
        "containers": [_daemon_container(flannel)],
        "volumes": [
            *(_host_volume(name, path, "DirectoryOrCreate") for name, path in (_RUN, _CNI_CONFIG, _CNI_PLUGIN)),
            _host_volume(*_XTABLES, "FileOrCreate"),
            {"name": _CONFIG[0], "configMap": {"name": _NAME}},
        ],
    }
    return _object(
        "apps/v1",
        "DaemonSet",
        {"namespace": NAMESPACE},
        spec={
            "selector": {"matchLabels": dict(_SELECTOR)},
            "template": {"metadata": {"labels": dict(_LABELS)}, "spec": pod},
        },
    )


def _copy_container(name: str, image: str, source: str, target: str, volume: tuple[str, str]) -> dict[str, Any]:
    # The plugin's source has the same path in the image as its target on the host, so the host's is mounted beside it.
    mount = f"{volume[1]}-host" if target.startswith(f"{volume[1]}-host") else volume[1]
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", "-f", source, target],
        "volumeMounts": [
            {"name": volume[0], "mountPath": mount},
            {"name": _CONFIG[0], "mountPath": _CONFIG[1]},
        ],
    }


def _daemon_container(flannel: FlannelInput) -> dict[str, Any]:
    return {
        "name": "flannel",
        "image": flannel.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/bin/flanneld"],
        # By default its rules are checked every 5 s by 20 programs, which cost an emulated machine a fifth of a CPU.
        "args": ["--ip-masq", "--kube-subnet-mgr", "--iptables-resync=60"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            # Where the other nodes send to: not always the address of the card that packets leave by.
            {"name": "FLANNELD_PUBLIC_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "KUBERNETES_SERVICE_HOST", "value": flannel.api_host},
            {"name": "KUBERNETES_SERVICE_PORT", "value": str(flannel.api_port)},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "50Mi"}},
        "securityContext": {"privileged": False, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        "volumeMounts": [
            {"name": _RUN[0], "mountPath": _RUN[1]},
            {"name": _XTABLES[0], "mountPath": _XTABLES[1]},
            {"name": _CONFIG[0], "mountPath": _CONFIG[1]},
        ],
    }


def _host_volume(name: str, path: str, kind: str) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": path, "type": kind}}
