"""The objects that install KubeVirt, as far as its own generator does not print them.

Role: pure builders: image names in, manifests out. Must not: do I/O, or copy what KubeVirt generates itself (the CRD,
the operator's permissions).
The operator takes the names of all other images from its own: same repository, same tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NAMESPACE = "kubevirt"
OPERATOR = "virt-operator"
PRIORITY_CLASS = "kubevirt-cluster-critical"
_SERVICE_ACCOUNT = "kubevirt-operator"  # as in KubeVirt's generated permissions
_LABEL = "kubevirt.io"
# HostDisk: disks from a directory of the node. ImageVolume: containerDisks as volumes of the pod; without it one can
# stay in Scheduled (KubeVirt writes an unsigned checksum into a signed field of the status).
FEATURE_GATES = ("HostDisk", "ImageVolume")


def build_namespace() -> dict[str, Any]:
    """KubeVirt's namespace; virt-handler is privileged."""
    labels = {_LABEL: "", "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def build_operator(image: str, version: str) -> dict[str, Any]:
    """The operator's Deployment with one replica: there is one node."""
    labels = {_LABEL: OPERATOR}
    pod = {
        "serviceAccountName": _SERVICE_ACCOUNT,
        "priorityClassName": PRIORITY_CLASS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_build_container(image, version)],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": OPERATOR, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _build_container(image: str, version: str) -> dict[str, Any]:
    return {
        "name": OPERATOR,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [OPERATOR],
        "args": ["--port", "8443", "-v", "2"],
        "env": [{"name": "VIRT_OPERATOR_IMAGE", "value": image}, {"name": "KUBEVIRT_VERSION", "value": version}],
        "ports": [{"name": "metrics", "containerPort": 8443}, {"name": "webhooks", "containerPort": 8444}],
        "readinessProbe": {
            "httpGet": {"scheme": "HTTPS", "port": 8443, "path": "/metrics"},
            "timeoutSeconds": 10,
            "periodSeconds": 2,
        },
        "resources": {"requests": {"cpu": "10m", "memory": "200Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def build_kubevirt(*, emulate: bool) -> dict[str, Any]:
    """The object that the operator acts on. `emulate` runs guests without KVM."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": NAMESPACE},
        "spec": {
            "imagePullPolicy": "IfNotPresent",
            # A placement of our own: KubeVirt's default wants a node that is labelled as a control plane.
            "infra": {"replicas": 1, "nodePlacement": {"nodeSelector": {"kubernetes.io/os": "linux"}}},
            "configuration": {
                "imagePullPolicy": "IfNotPresent",
                "developerConfiguration": {"useEmulation": emulate, "featureGates": list(FEATURE_GATES)},
            },
        },
    }


def describe_pods(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each pod that is not ready: its name, and what its containers wait for or ended with."""
    lines = []
    for pod in pods:
        status = pod.get("status", {})
        statuses = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        if statuses and all(one.get("ready") for one in statuses):
            continue
        details = [text for one in statuses if (text := _describe_container(one))] or _unmet_conditions(status)
        why = f" ({'; '.join(details)})" if details else ""
        lines.append(f"{pod['metadata']['name']}: {status.get('phase', 'Unknown')}{why}")
    return lines


def _describe_container(status: Mapping[str, Any]) -> str:
    state = status.get("state", {})
    for kind in ("waiting", "terminated"):
        found = state.get(kind)
        if found and found.get("reason") not in {None, "Completed", "PodInitializing", "ContainerCreating"}:
            message = f": {found['message'].strip()}" if found.get("message") else ""
            return f"{status['name']} {found['reason']}{message}"
    return ""


def _unmet_conditions(status: Mapping[str, Any]) -> list[str]:
    unmet = [one for one in status.get("conditions", []) if one.get("status") != "True" and one.get("message")]
    return [f"{one['type']}: {one['message']}" for one in unmet[:1]]
