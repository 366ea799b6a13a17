"""From changes to keys: which reconcile a change of an object asks for.

Role: informer handlers that put keys into a queue. Our own status writes do not wake the object's own controller, or
they would reset its backoff. Must not: decide what a reconcile does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from capn.kube.decode import Object
from capn.runtime.controller import Key
from capn.runtime.informer import Handler
from capn.runtime.queue import WorkQueue


def has_new_spec(old: Object | None, new: Object | None) -> bool:
    """True unless only the status (or bookkeeping) differs."""
    if old is None or new is None:
        return True
    a, b = old.metadata, new.metadata
    if (a.uid, a.generation, a.deletion_timestamp) != (b.uid, b.generation, b.deletion_timestamp):
        return True
    outside = (a.labels, a.annotations, a.finalizers, a.owner_references) != (
        b.labels, b.annotations, b.finalizers, b.owner_references,
    )  # fmt: skip
    # Kinds without a generation (Secrets) change in their data.
    return outside or (not b.generation and (old.data != new.data or old.spec != new.spec))


def enqueue_self(
    queue: WorkQueue[Key], *, when: Callable[[Object | None, Object | None], bool] = has_new_spec
) -> Handler:
    """Reconcile the object that changed."""

    def handle(old: Object | None, new: Object | None) -> None:
        obj = new or old
        if obj is not None and when(old, new):
            queue.add(Key(*obj.key))

    return handle


def enqueue_mapped(queue: WorkQueue[Key], keys: Callable[[Object], Iterable[Key]]) -> Handler:
    """Reconcile what `keys` names for the old and the new object."""

    def handle(old: Object | None, new: Object | None) -> None:
        for key in dict.fromkeys(key for obj in (old, new) if obj is not None for key in keys(obj)):
            queue.add(key)

    return handle
