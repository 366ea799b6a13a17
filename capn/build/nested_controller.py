"""capn in a child: the manifests of config/ with the child's settings, its image and its way to the parent.

Role: pure. Inputs: manifests as they are shipped, settings, a kubeconfig that may only make claims. Outputs: objects in
the order in which they are applied. Must not: know which hypervisor the parent has.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capn import names
from capn.build.nesting import compute_digest
from capn.build.yaml_text import build_yaml

KUBECONFIG_SECRET = "capn-parent"  # noqa: S105 - a name
KUBECONFIG_KEY = "value"
_SETTINGS = "capn-settings"
_SETTINGS_FILE = "settings.yaml"
# An API server in a guest under emulation takes half a minute for an answer at times, and a controller that has lost
# its lease takes minutes to start. One that runs elsewhere after its node was lost waits for that long.
LEASE_S = 120.0
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


@dataclass(frozen=True, slots=True)
class NestedControllerInput:
    """What differs from cluster to cluster. `server` is the child's own API as its children reach it.

    `server_name` is the name in its certificate, where that is not the server's host.
    """

    image: str
    path: str
    claims_namespace: str
    infrastructure: tuple[str, str]  # kind and endpoint in the parent
    server: str
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class ParentAccess:
    """The kubeconfig for the parent and when to renew it (RFC 3339)."""

    kubeconfig: str = field(repr=False)
    renew_after: str


def build_settings(given: NestedControllerInput) -> dict[str, Any]:
    """The child's settings: whatever names a manifest of the parent has for its machines, they are claimed.

    So a manifest that works in the parent works in the child as it is.
    """
    kind, endpoint = given.infrastructure
    parent = {
        "kind": "parent",
        "kubeconfig": {"namespace": names.SYSTEM_NAMESPACE, "name": KUBECONFIG_SECRET, "key": KUBECONFIG_KEY},
        "namespace": given.claims_namespace,
        "path": given.path,
        "infrastructure_kind": kind,
        "infrastructure_endpoint": endpoint,
    }
    by_kind: dict[str, dict[str, Any]] = {"parent": {"default": parent}, "libvirt": {"default": parent}}
    by_kind.setdefault(kind, {}).update({"default": parent, endpoint: parent})
    return {
        "bind": "0.0.0.0",  # noqa: S104 - the pod's own address; the probes come from the node
        "port": 8085,
        "log_format": "json",
        "lease_namespace": names.SYSTEM_NAMESPACE,
        "lease_duration_s": LEASE_S,
        "endpoints": by_kind,
        "nesting": {
            "server": given.server,
            "image": given.image,
            **({"server_name": given.server_name} if given.server_name else {}),
        },
    }


def build_objects(given: NestedControllerInput, manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All but the kubeconfig and the Deployment, which `build_deployment` makes from the same manifests."""
    settings = {_SETTINGS_FILE: build_yaml(build_settings(given))}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _SETTINGS, "namespace": names.SYSTEM_NAMESPACE},
        "data": settings,
    }
    return [*(copy.deepcopy(dict(item)) for item in manifests if item["kind"] != "Deployment"), config]


def build_access_secret(access: ParentAccess) -> dict[str, Any]:
    """The Secret that the child's endpoint names."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": KUBECONFIG_SECRET,
            "namespace": names.SYSTEM_NAMESPACE,
            "annotations": {names.ANNOTATION_RENEW_AFTER: access.renew_after},
        },
        "type": "Opaque",
        "stringData": {KUBECONFIG_KEY: access.kubeconfig},
    }


def build_deployment(
    given: NestedControllerInput, manifests: Sequence[Mapping[str, Any]], *, renew_after: str
) -> dict[str, Any]:
    """The controller, beside the control plane. Its digest is over everything: it is applied last, and says so.

    A renewed credential is another pod template, so that the pod starts anew with it.
    """
    found = copy.deepcopy(dict(next(item for item in manifests if item["kind"] == "Deployment")))
    pod = found["spec"]["template"]
    pod["spec"]["nodeSelector"] = {_CONTROL_PLANE: ""}
    pod["spec"]["tolerations"] = [{"key": _CONTROL_PLANE, "operator": "Exists", "effect": "NoSchedule"}]
    container = pod["spec"]["containers"][0]
    container["image"] = given.image
    annotations = pod["metadata"].setdefault("annotations", {})
    annotations[names.ANNOTATION_RENEW_AFTER] = renew_after
    digest = compute_digest([*build_objects(given, manifests), found])
    annotations[names.ANNOTATION_APPLIED] = digest
    found["metadata"].setdefault("annotations", {})[names.ANNOTATION_APPLIED] = digest
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # aliases of YAML become values of their own
