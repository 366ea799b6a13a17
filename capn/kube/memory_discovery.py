"""What the in-process API double answers under `/api/v1` and `/apis/<group>/<version>`.

Role: pure. Built-in kinds from the table of those that capn knows, all others only once their CRD is there, as a real
API server has it. Must not: serve what nobody has defined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from capn.api.resources import BY_KIND, Resource

_BUILT_IN = frozenset({"", "apps"})


def answer_discovery(path: str, crds: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """Status and APIResourceList of a group's version; 404 when nothing is served there."""
    served = [resource for resource in _list_served(crds) if _path(resource) == path]
    if not served:
        return 404, "404 page not found"
    resources = [
        {"name": resource.plural, "singularName": "", "namespaced": resource.namespaced, "kind": resource.kind}
        for resource in served
    ]
    listed = {"kind": "APIResourceList", "groupVersion": served[0].api_version, "resources": resources}
    return 200, json.dumps(listed)


def _list_served(crds: Iterable[dict[str, Any]]) -> Iterator[Resource]:
    for resource in BY_KIND.values():
        if resource.group in _BUILT_IN or resource.group.endswith(".k8s.io"):
            yield resource
    for crd in crds:
        spec = crd["spec"]
        for version in spec["versions"]:
            if version.get("served", True):
                named = spec["names"]
                yield Resource(
                    spec["group"], version["name"], named["plural"], named["kind"], spec["scope"] == "Namespaced"
                )


def _path(resource: Resource) -> str:
    return f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
