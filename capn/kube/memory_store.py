"""What `MemoryKubeClient` keeps: objects, one revision counter, the log of changes that watches read.

Role: the etcd and garbage collector of the in-process API double. Every change takes one revision, in order. Deleting
an object deletes what it alone owns. Must not: know verbs, field managers' rules or capn's kinds.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from capn.api.resources import NAMESPACE, Resource
from capn.errors import ApiStatusError
from capn.kube.decode import Key, Object, ObjectEvent, decode_dict, decode_object, encode
from capn.kube.errors import WatchExpiredError
from capn.kube.fields import Fields

Manager = tuple[str, str, str]
"""(field manager, operation, subresource), as metadata.managedFields tells them apart."""

_LOG_LENGTH = 20_000
_UID_SPACE = uuid.UUID("5f3c1f4e-6b0a-4f7e-9a55-2f6f2a3c8d10")
# Kinds without metadata.generation: the API server keeps it only where a controller acts on a spec.
_NO_GENERATION = frozenset({"", "coordination.k8s.io", "events.k8s.io", "rbac.authorization.k8s.io"})


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as it is now."""

    object: Object
    data: bytes
    managers: dict[Manager, Fields]

    def to_dict(self) -> dict[str, Any]:
        """A copy that the caller may change."""
        return decode_dict(self.data)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log. `before` is None for a new object."""

    revision: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    stored: Stored
    before: Object | None


Subscriber = asyncio.Queue[Change | None]
"""Changes of one kind as they happen; None ends the watch as a broken connection does."""


State = dict[Resource, dict[Key, Stored]]
"""What a store holds at one time."""


@dataclass(slots=True)
class MemoryStore:
    """State of one simulated API server."""

    clock: Callable[[], datetime]
    uid_seed: str = "memory"
    revision: int = 1
    compacted: int = 0
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    _objects: dict[Resource, dict[Key, Stored]] = field(default_factory=dict)
    _log: deque[tuple[Resource, Change]] = field(default_factory=deque)
    _subscribers: dict[Resource, list[Subscriber]] = field(default_factory=dict)
    _uids: int = 0
    _owners: set[str] = field(default_factory=set)  # every UID that was ever named as an owner

    def find(self, resource: Resource, key: Key) -> Stored | None:
        """The object, or None."""
        return self._objects.get(resource, {}).get(key)

    def scan(self, resource: Resource) -> Iterator[Stored]:
        """All objects of a kind by namespace and name."""
        objects = self._objects.get(resource, {})
        return iter([objects[key] for key in sorted(objects)])

    def timestamp(self) -> str:
        """Now, as metav1.Time."""
        return self.clock().strftime("%Y-%m-%dT%H:%M:%SZ")

    def insert(self, resource: Resource, obj: dict[str, Any], managers: dict[Manager, Fields]) -> Stored:
        """Keep a new object: gives uid, creation time, generation and revision."""
        self._refuse_terminating(resource, obj["metadata"].get("namespace", ""))
        self._uids += 1
        meta = obj["metadata"]
        meta["uid"] = str(uuid.uuid5(_UID_SPACE, f"{self.uid_seed}/{self._uids}"))
        meta["creationTimestamp"] = self.timestamp()
        if resource.group not in _NO_GENERATION:
            meta["generation"] = 1
        return self._commit(resource, obj, managers, None)

    def update(self, resource: Resource, obj: dict[str, Any], managers: dict[Manager, Fields], old: Stored) -> Stored:
        """Replace an object; an equal one takes no revision. One that was only waiting for its finalizers goes."""
        before = old.to_dict()
        obj["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        if obj == before and managers == old.managers:
            return old
        if "generation" in before["metadata"] and _spec(obj) != _spec(before):
            obj["metadata"]["generation"] = before["metadata"]["generation"] + 1
        if obj["metadata"].get("deletionTimestamp") and not obj["metadata"].get("finalizers"):
            return self.remove(resource, obj, managers, old)
        return self._commit(resource, obj, managers, old)

    def mark_deleted(self, resource: Resource, old: Stored) -> None:
        """Delete, or wait for the finalizers; what lives in a deleted namespace goes with it."""
        if old.object.metadata.deletion_timestamp is None:
            obj = old.to_dict()
            obj["metadata"]["deletionTimestamp"] = self.timestamp()
            if "generation" in obj["metadata"]:
                obj["metadata"]["generation"] += 1
            if obj["metadata"].get("finalizers") or (resource == NAMESPACE and self._inhabited(old.object.key[1])):
                old = self._commit(resource, obj, old.managers, old)
            else:
                self.remove(resource, obj, old.managers, old)
        if resource == NAMESPACE:
            for other, stored in self._inhabitants(old.object.key[1]):
                if self.find(other, stored.object.key) is stored:  # not collected meanwhile
                    self.mark_deleted(other, stored)

    def remove(self, resource: Resource, obj: dict[str, Any], managers: dict[Manager, Fields], old: Stored) -> Stored:
        """Forget an object, and what only it owned."""
        del self._objects[resource][old.object.key]
        stored = self._publish(resource, obj, managers, old.object, "DELETED")
        self._collect(old.object.metadata.uid)
        self._end_namespace(old.object.key[0])
        return stored

    def copy_state(self) -> State:
        """All objects as they are now; none of them is ever changed, so this is cheap."""
        return {resource: dict(objects) for resource, objects in self._objects.items()}

    def replace_state(self, state: State, *, bump: int) -> None:
        """Be another data store: other objects, a revision far on, and nothing that a watch could go on with."""
        self._objects = {resource: dict(objects) for resource, objects in state.items()}
        stored = [one for objects in state.values() for one in objects.values()]
        self._owners = {owner.uid for one in stored for owner in one.object.metadata.owner_references}
        self.revision += bump
        self.compact()
        self.drop_watches()

    def compact(self) -> None:
        """Forget the log: a watch from an earlier revision answers 410."""
        self.compacted = self.revision
        self._log.clear()

    def drop_watches(self) -> None:
        """Break every running watch."""
        for queues in self._subscribers.values():
            for queue in queues:
                queue.put_nowait(None)

    def subscribe(self, resource: Resource, revision: int) -> Subscriber:
        """A queue that holds the changes since `revision` and gets those to come. WatchExpiredError when compacted."""
        if revision < self.compacted:
            raise WatchExpiredError(f"watch {resource.plural}: too old resource version: {revision} ({self.compacted})")
        if revision > self.revision:
            raise ApiStatusError(504, f"Too large resource version: {revision}, current: {self.revision}")
        queue: Subscriber = asyncio.Queue()
        for kind, change in self._log:
            if kind == resource and change.revision > revision:
                queue.put_nowait(change)
        self._subscribers.setdefault(resource, []).append(queue)
        return queue

    def unsubscribe(self, resource: Resource, queue: Subscriber) -> None:
        """End what `subscribe` began."""
        self._subscribers[resource].remove(queue)

    def _commit(
        self, resource: Resource, obj: dict[str, Any], managers: dict[Manager, Fields], old: Stored | None
    ) -> Stored:
        before = old.object if old else None
        stored = self._publish(resource, obj, managers, before, "MODIFIED" if old else "ADDED")
        self._objects.setdefault(resource, {})[stored.object.key] = stored
        return stored

    def _publish(
        self,
        resource: Resource,
        obj: dict[str, Any],
        managers: dict[Manager, Fields],
        before: Object | None,
        change_type: Literal["ADDED", "MODIFIED", "DELETED"],
    ) -> Stored:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        data = encode(obj)
        stored = Stored(decode_object(data, resource), data, managers)
        self._owners.update(owner.uid for owner in stored.object.metadata.owner_references)
        change = Change(self.revision, change_type, stored, before)
        self._log.append((resource, change))
        if len(self._log) > _LOG_LENGTH:
            self.compacted = self._log.popleft()[1].revision
        for queue in self._subscribers.get(resource, ()):
            queue.put_nowait(change)
        return stored

    def _collect(self, owner_uid: str) -> None:
        if owner_uid not in self._owners:
            return
        for resource, objects in list(self._objects.items()):
            for stored in list(objects.values()):
                owners = [owner.uid for owner in stored.object.metadata.owner_references]
                orphaned = owner_uid in owners and not any(map(self._lives, owners))
                if orphaned and objects.get(stored.object.key) is stored:
                    self.mark_deleted(resource, stored)

    def _lives(self, uid: str) -> bool:
        return any(
            stored.object.metadata.uid == uid for objects in self._objects.values() for stored in objects.values()
        )

    def _inhabitants(self, namespace: str) -> list[tuple[Resource, Stored]]:
        return [
            (resource, stored)
            for resource, objects in self._objects.items()
            for (where, _), stored in objects.items()
            if where == namespace
        ]

    def _inhabited(self, namespace: str) -> bool:
        return bool(self._inhabitants(namespace))

    def _end_namespace(self, namespace: str) -> None:
        stored = self.find(NAMESPACE, ("", namespace)) if namespace else None
        if stored and stored.object.metadata.deletion_timestamp and not self._inhabited(namespace):
            self.remove(NAMESPACE, stored.to_dict(), stored.managers, stored)

    def _refuse_terminating(self, resource: Resource, namespace: str) -> None:
        stored = self.find(NAMESPACE, ("", namespace)) if namespace else None
        if stored and stored.object.metadata.deletion_timestamp:
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise ApiStatusError(403, f"{resource.plural}: {message}", reason="NamespaceTerminating")


def build_event(change: Change) -> ObjectEvent:
    """The watch event of a change."""
    return ObjectEvent(change.type, change.stored.object)


def _spec(obj: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in obj.items() if key not in {"metadata", "status"}}
