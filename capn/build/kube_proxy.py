"""kube-proxy of a child during and after an upgrade: each node runs the one of its own version.

A node has only its own version's container images and there need be no registry, so one DaemonSet cannot serve nodes of
two versions. kubeadm's keeps the nodes that it has; for each other version there is one beside it, on the nodes that
say by their label that they are of it. When all nodes are of one version, kubeadm's DaemonSet takes it on and the
others go. Role: pure. Inputs: DaemonSets as the child has them (untrusted) and versions of machines; output: a
`ProxyStep`. Must not: touch a kube-proxy that is not kubeadm's, or start one of kubeadm's pods anew on an old node.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.build.kubeadm import API_PORT
from capn.build.version_skew import parse_version

Json = Mapping[str, Any]
NAME, NAMESPACE = "kube-proxy", "kube-system"
EXTRA_SELECTOR = names.LABEL_KUBE_PROXY
_IMAGE = re.compile(r"(?P<repository>[^\s@]{0,200}/)?kube-proxy:(?P<tag>v1\.[0-9]{1,3}\.[0-9]{1,3})")
_HOST = "CAPN_HOST_IP"
_KUBEADMS_STRATEGY = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}


@dataclass(frozen=True, slots=True)
class ProxyStep:
    """What to write, in this order: `create`, `patch` (of kubeadm's), `delete` (names). `waits`: for what, or empty."""

    create: tuple[dict[str, Any], ...] = ()
    patch: dict[str, Any] | None = None
    delete: tuple[str, ...] = ()
    waits: str = ""


def compute_proxy_step(
    main: Json | None, extras: Sequence[Json], *, planes: Sequence[str], workers: Sequence[str], version: str
) -> ProxyStep:
    """The next step towards `version`; `planes` and `workers`: versions of the machines that there are."""
    found = {str(extra["metadata"]["name"]): extra for extra in extras}
    own = None if main is None else read_tag(main)
    if main is None or own is None:
        return ProxyStep(delete=tuple(sorted(found)))
    others = sorted({*planes, *workers, version} - {own})
    if {*planes, *workers} <= {version}:
        return _settle(main, found, version)
    wanted = {build_extra_name(other): build_extra(main, other, local=_is_ahead(other, planes)) for other in others}
    return ProxyStep(
        create=tuple(made for name, made in wanted.items() if name not in found or _differs(found[name], made)),
        patch=_build_guard(main, others),
        delete=tuple(sorted(found.keys() - wanted.keys())),
    )


def read_tag(daemon_set: Json) -> str | None:
    """The version of kubeadm's kube-proxy; None when somebody has another one there."""
    container = _container(daemon_set)
    match = None if container is None else _IMAGE.fullmatch(str(container.get("image", "")))
    return None if match is None else match["tag"]


def build_extra_name(version: str) -> str:
    """Name of the DaemonSet beside kubeadm's for nodes of this version."""
    return f"{NAME}-{version}"


def build_extra(main: Json, version: str, *, local: bool) -> dict[str, Any]:
    """A copy of kubeadm's DaemonSet for the nodes of `version` only.

    `local`: it asks its own node's API server. While control planes are of two versions, the endpoint leads to older
    ones too, and a kube-proxy may not be newer than the API server that it talks to (the version skew policy).
    """
    labels = {"k8s-app": NAME, EXTRA_SELECTOR: version}
    pod = copy.deepcopy(main["spec"]["template"]["spec"])
    pod.pop("affinity", None)
    pod["nodeSelector"] = {**(pod.get("nodeSelector") or {}), names.LABEL_VERSION: version}
    container = next(one for one in pod["containers"] if one["name"] == NAME)
    container["image"] = _retag(container["image"], version)
    if local:
        address = {"name": _HOST, "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
        container["env"] = [*(container.get("env") or ()), address]
        container["command"] = [*(container.get("command") or ()), f"--master=https://$({_HOST}):{API_PORT}"]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": build_extra_name(version), "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def is_rolled_out(daemon_set: Json) -> bool:
    """Whether every node that shall run it runs its present form."""
    status, meta = daemon_set.get("status") or {}, daemon_set["metadata"]
    desired = status.get("desiredNumberScheduled", 0)
    seen = bool(status.get("observedGeneration", 0) >= meta.get("generation", 0))
    return seen and desired == status.get("updatedNumberScheduled", 0) == status.get("numberAvailable", 0)


def _settle(main: Json, found: Mapping[str, Json], version: str) -> ProxyStep:
    """All machines are of one version: kubeadm's DaemonSet serves them all, then the others go."""
    if read_tag(main) != version or _read_guard(main):
        container = _container(main) or {}
        patch = _build_patch(main, image=_retag(str(container.get("image", "")), version), guard=())
        return ProxyStep(patch=patch, waits=f"kube-proxy takes over at {version}")
    if found and not is_rolled_out(main):
        return ProxyStep(waits=f"kube-proxy {version} does not run on every node yet")
    return ProxyStep(delete=tuple(sorted(found)))


def _build_guard(main: Json, others: Sequence[str]) -> dict[str, Any] | None:
    """Keep kubeadm's off nodes of the other versions; None when it is kept off already."""
    return None if _read_guard(main) == list(others) else _build_patch(main, image=None, guard=others)


def _build_patch(main: Json, *, image: str | None, guard: Sequence[str]) -> dict[str, Any]:
    """The merge patch of kubeadm's DaemonSet. Lists go whole, so it holds the revision that they are from.

    While it is guarded, its pods are replaced only on deletion: the change of the template restarts none.
    """
    meta, pod = main["metadata"], main["spec"]["template"]["spec"]
    changed: dict[str, Any] = {"affinity": _guard(pod.get("affinity") or {}, guard)}
    if image is not None:
        changed["containers"] = [
            {**container, "image": image} if container.get("name") == NAME else container
            for container in pod["containers"]
        ]
    # Null takes away the parameters of the other type.
    strategy: dict[str, Any] = {"type": "OnDelete", "rollingUpdate": None} if guard else _KUBEADMS_STRATEGY
    return {
        "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        "spec": {"updateStrategy": strategy, "template": {"spec": changed}},
    }


def _guard(affinity: Json, versions: Sequence[str]) -> dict[str, Any] | None:
    """The affinity with our expression in each of its terms, in place of an earlier one; None when nothing is left."""
    node = dict(affinity.get("nodeAffinity") or {})
    required = node.pop("requiredDuringSchedulingIgnoredDuringExecution", None) or {}
    terms = []
    for term in required.get("nodeSelectorTerms") or [{}]:
        kept = [one for one in term.get("matchExpressions") or () if one.get("key") != names.LABEL_VERSION]
        ours = [{"key": names.LABEL_VERSION, "operator": "NotIn", "values": list(versions)}] if versions else []
        rest = {key: value for key, value in term.items() if key != "matchExpressions"}
        if rest or kept or ours:
            terms.append(rest | ({"matchExpressions": [*kept, *ours]} if kept or ours else {}))
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms} if terms else None
    other = {key: value for key, value in affinity.items() if key != "nodeAffinity"}
    if not terms and len(node) == 1:
        return {**other, "nodeAffinity": None} if other else None
    return {**other, "nodeAffinity": node}


def _read_guard(main: Json) -> list[str]:
    """The versions that it is kept off."""
    affinity = main["spec"]["template"]["spec"].get("affinity") or {}
    required = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for one in term.get("matchExpressions") or ():
            if one.get("key") == names.LABEL_VERSION:
                return [str(value) for value in one.get("values") or ()]
    return []


def _is_ahead(version: str, planes: Sequence[str]) -> bool:
    return any(parse_version(plane) < parse_version(version) for plane in planes)


def _differs(live: Json, wanted: Json) -> bool:
    """Whether the live one starts another program, or the same one otherwise; what a server fills in says nothing."""
    return _essence(live) != _essence(wanted)


def _essence(daemon_set: Json) -> object:
    container = _container(daemon_set) or {}
    selector = daemon_set["spec"]["template"]["spec"].get("nodeSelector") or {}
    return container.get("image"), container.get("command"), selector.get(names.LABEL_VERSION)


def _container(daemon_set: Json) -> Json | None:
    containers = daemon_set["spec"]["template"]["spec"].get("containers") or ()
    return next((one for one in containers if one.get("name") == NAME), None)


def _retag(image: str, version: str) -> str:
    return f"{image.rpartition(':')[0]}:{version}"
