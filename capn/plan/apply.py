"""What `kubectl apply` would make of an object: client-side by the manifest applied last, server-side by its manager.

Role: pure. Inputs: the object as it is, the manifest; output: the object as it would be. Formats: kubectl's annotation
last-applied-configuration, JSON merge (RFC 7386: lists are replaced whole). Must not: know capn's fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_DEFAULT_MANAGER = "kubectl"


def read_last_applied(live: Json) -> dict[str, Any] | None:
    """The manifest of the last client-side apply; None when there was none that can be read."""
    text = (live["metadata"].get("annotations") or {}).get(_LAST_APPLIED)
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def compute_applied(live: Json, manifest: Json, last: Json) -> dict[str, Any]:
    """The object after a client-side apply: what was applied before and is no longer said goes."""
    spec = _merge(live.get("spec") or {}, manifest.get("spec") or {}, last.get("spec") or {})
    return {**live, "metadata": {**live["metadata"], **manifest["metadata"]}, "spec": spec}


def _merge(live: Json, wanted: Json, last: Json) -> dict[str, Any]:
    merged = {key: value for key, value in live.items() if key in wanted or key not in last}
    for key, value in wanted.items():
        before = live.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            earlier = last.get(key)
            merged[key] = _merge(before, value, earlier if isinstance(earlier, Mapping) else {})
        else:
            merged[key] = value
    return merged


def choose_manager(live: Json | None) -> str:
    """Who applies the object server-side; so that what the manifest no longer says goes in the dry run as well."""
    entries = ((live or {}).get("metadata") or {}).get("managedFields") or ()
    appliers = [
        str(entry.get("manager"))
        for entry in entries
        if entry.get("operation") == "Apply"
        and not entry.get("subresource")
        and "f:spec" in (entry.get("fieldsV1") or {})
    ]
    return appliers[0] if appliers else _DEFAULT_MANAGER
