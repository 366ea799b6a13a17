"""Which change wakes which reconciler: pure predicates over the old and new form of an object.

Our own status writes come back as events; were they to wake their own reconciler, a failing one would never back off. So a
cluster or machine is woken by what people change (spec, deletion, metadata), and by the status of the OTHER kind only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capn.runtime.queue import Key

Object = Mapping[str, Any]


def key_of(obj: Object) -> Key:
    """The object's own key."""
    return Key(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def cluster_key_of(machine: Object) -> Key:
    """The key of the cluster that a machine belongs to."""
    return Key(machine["metadata"].get("namespace", ""), machine["spec"]["clusterName"])


def index_by_cluster(machine: Object) -> str:
    """Index value of a machine: `<namespace>/<cluster>`."""
    key = cluster_key_of(machine)
    return f"{key.namespace}/{key.name}"


def wants_own_reconcile(old: Object | None, new: Object | None) -> bool:
    """Whether a change is one that people (or the API server) made, not our own status write."""
    if old is None or new is None:
        return True
    return _intent(old) != _intent(new)


def wants_other_reconcile(old: Object | None, new: Object | None) -> bool:
    """Whether a change matters to objects that depend on this one: its status too."""
    if old is None or new is None:
        return True
    return (_intent(old), old.get("status")) != (_intent(new), new.get("status"))


def _intent(obj: Object) -> tuple[object, ...]:
    meta = obj["metadata"]
    return (
        meta.get("uid"),
        meta.get("generation"),
        meta.get("deletionTimestamp"),
        meta.get("labels"),
        meta.get("annotations"),
        meta.get("ownerReferences"),
        meta.get("finalizers"),
    )
