"""URL paths of the Kubernetes API.

Role: pure. Inputs are resources and names, which are escaped, so that no name can reach another path. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from capn.api.resources import Resource
from capn.errors import TerminalError


def build_path(
    resource: Resource, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None
) -> str:
    """Path of a collection (no name), an object, or a subresource of it."""
    base = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    if namespace and resource.namespaced:
        base += f"/namespaces/{_segment(namespace)}"
    base += f"/{resource.plural}"
    if name is not None:
        base += f"/{_segment(name)}"
    return f"{base}/{subresource}" if subresource else base


def build_query(params: Mapping[str, str | None]) -> str:
    """`?a=b` of the parameters that have a value; empty when none has."""
    given = {key: value for key, value in params.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def object_key(resource: Resource, obj: Mapping[str, Any]) -> tuple[str | None, str]:
    """(namespace, name) of an object to write; TerminalError when it lacks what its kind needs."""
    meta = obj.get("metadata") or {}
    name, namespace = meta.get("name"), meta.get("namespace")
    if not name:
        raise TerminalError(f"{resource.kind} to write has no metadata.name")
    _segment(name)
    if resource.namespaced and not namespace:
        raise TerminalError(f"{resource.kind} {name} to write has no metadata.namespace")
    return (namespace if resource.namespaced else None), name


def _segment(text: str) -> str:
    if text in {"", ".", ".."}:
        raise TerminalError(f"{text!r} is no name of a Kubernetes object")
    return quote(text, safe="")
