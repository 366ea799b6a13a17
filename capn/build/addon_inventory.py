"""The inventory of an add-on: a ConfigMap in the child that lists what the add-on has there, for pruning.

Role: pure; manifest and back. It is in the child so that it is never without the objects, nor they without it, whatever
happens to the parent's status; and no status grows with it. Everything read from the child is hostile. Must not: raise
on damage: what cannot be read lists nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capn import names
from capn.build.addons import MAX_OBJECTS, ObjectId

NAMESPACE = "kube-system"
SELECTOR = names.LABEL_ADDON_INVENTORY
_PARTS = 5


@dataclass(frozen=True, slots=True)
class Inventory:
    """`digest`: of the content that is wholly applied, empty while that goes on. `seen`: how each object was left."""

    addon: str
    digest: str = ""
    seen: Mapping[ObjectId, str] = field(default_factory=dict)


def build_inventory(inventory: Inventory) -> dict[str, Any]:
    """The ConfigMap."""
    listed = [
        [which.api_version, which.kind, which.namespace, which.name, seen] for which, seen in inventory.seen.items()
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.addon_inventory(inventory.addon),
            "namespace": NAMESPACE,
            "labels": {names.LABEL_ADDON_INVENTORY: inventory.addon},
        },
        "data": {"digest": inventory.digest, "objects": json.dumps(listed, separators=(",", ":"))},
    }


def read_inventory(obj: Mapping[str, Any]) -> Inventory | None:
    """What the ConfigMap lists; None when it is not one of ours by name and label."""
    meta = obj.get("metadata") or {}
    addon = (meta.get("labels") or {}).get(names.LABEL_ADDON_INVENTORY)
    if not isinstance(addon, str) or meta.get("name") != names.addon_inventory(addon):
        return None
    data = obj.get("data") or {}
    try:
        listed = json.loads(data.get("objects") or "[]")
        entries = [entry for entry in listed if isinstance(entry, list) and len(entry) == _PARTS]
    except (ValueError, TypeError, RecursionError):
        return Inventory(addon)
    # Twice the limit: while a new content is applied, the old one's objects are listed too.
    seen = {ObjectId(*map(str, entry[:4])): str(entry[4]) for entry in entries[: 2 * MAX_OBJECTS]}
    return Inventory(addon, str(data.get("digest") or ""), seen)
