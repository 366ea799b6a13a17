"""CoreDNS of a child during and after an upgrade: its pods are where their image is, and there are never none.

A node has only its own version's container images. So CoreDNS changes with the first node of the new version: the
Deployment asks for such nodes by their label, and no old pod is taken away before a new one is ready. When all nodes
are of one version, it is kubeadm's again. The Corefile stays: kubeadm's is the same in 1.36 and 1.37, and between their
versions of CoreDNS no option was taken away. Role: pure. Inputs: the Deployment as the child has it
(untrusted). Must not: touch a CoreDNS that is not of a version that kubeadm names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from capn import names
from capn.build.companions import COMPANIONS, find_companions

Json = Mapping[str, Any]
NAME, NAMESPACE = "coredns", "kube-system"
_IMAGE = re.compile(r"(?P<repository>[^\s@]{0,200}/)?coredns:(?P<tag>v1\.[0-9]{1,3}\.[0-9]{1,3})")
_KNOWN = frozenset(companions.coredns for companions in COMPANIONS.values())
# kubeadm's own, the API server's default with it; and one that leaves every old pod until a new one serves.
_KUBEADMS = {"maxUnavailable": 1, "maxSurge": "25%"}
_CAREFUL = {"maxUnavailable": 0, "maxSurge": 1}


def compute_dns_patch(deployment: Json | None, *, versions: Iterable[str], version: str) -> dict[str, Any] | None:
    """The merge patch towards `version`, where machines are of `versions`; None when there is nothing to change."""
    companions = find_companions(version)
    tag = None if deployment is None else read_tag(deployment)
    if deployment is None or companions is None or tag is None:
        return None
    settled = set(versions) <= {version}
    pinned = (deployment["spec"]["template"]["spec"].get("nodeSelector") or {}).get(names.LABEL_VERSION)
    wanted = None if settled else version
    if tag == companions.coredns and (pinned == wanted or (pinned is None and not settled)):
        return None  # as it shall be; or the same image on every node, new or old
    return _build_patch(deployment, companions.coredns, wanted)


def read_tag(deployment: Json) -> str | None:
    """The version of kubeadm's CoreDNS; None when somebody has another one there."""
    container = _container(deployment)
    match = None if container is None else _IMAGE.fullmatch(str(container.get("image", "")))
    return match["tag"] if match is not None and match["tag"] in _KNOWN else None


def describe_rollout(deployment: Json | None) -> str | None:
    """How far its change is, or None when all of it is of its present form and serves (or it is not kubeadm's)."""
    if deployment is None or read_tag(deployment) is None:
        return None
    status, meta = deployment.get("status") or {}, deployment["metadata"]
    replicas = deployment["spec"].get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    seen = status.get("observedGeneration", 0) >= meta.get("generation", 0)
    total = status.get("replicas", 0)
    if seen and updated >= replicas and available >= replicas and total <= updated:
        return None
    # Those that do not serve may all be new ones.
    ready = max(0, min(replicas, updated - (total - available))) if seen else 0
    return f"CoreDNS {read_tag(deployment)}: {ready} of {replicas} pods serve"


def _build_patch(deployment: Json, tag: str, pinned: str | None) -> dict[str, Any]:
    meta, pod = deployment["metadata"], deployment["spec"]["template"]["spec"]
    containers = [
        {**one, "image": f"{one['image'].rpartition(':')[0]}:{tag}"} if one.get("name") == NAME else one
        for one in pod["containers"]
    ]
    strategy = {"type": "RollingUpdate", "rollingUpdate": _KUBEADMS if pinned is None else _CAREFUL}
    template = {"spec": {"containers": containers, "nodeSelector": {names.LABEL_VERSION: pinned}}}
    return {
        "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        "spec": {"strategy": strategy, "template": template},
    }


def _container(deployment: Json) -> Json | None:
    containers = deployment["spec"]["template"]["spec"].get("containers") or ()
    return next((one for one in containers if one.get("name") == NAME), None)
