"""Informer: a local copy of all objects of one kind, kept by list and watch.

Role: list -> watch -> again when the stream ends; relist when the revision expired. Handlers are told each change once,
in order, with the old and the new object. Own writes are put in by `note_write`, so that a reconcile never acts on a
state older than what it wrote itself. Inputs: a client. Must not: call the API server but to list and watch, block in
handlers.

Invariants: an object is never replaced by an older revision of itself; what the server no longer has is gone after a
relist; `synced` means that one full list has been taken in; an error of the API never ends `run`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import structlog

from capn.api.resources import Resource
from capn.errors import CapnError
from capn.kube.client import KubeClient
from capn.kube.compact import compact_reader
from capn.kube.decode import CompactList, Key, Object, ObjectEvent, compact, parse_revision
from capn.kube.errors import WatchExpiredError, is_too_new
from capn.runtime.metrics import Metrics

Handler = Callable[[Object | None, Object | None], None]
"""Called with (old, new); old is None for a new object, new is None for a deleted one."""
IndexFunction = Callable[[Object], Iterable[str]]

# `list` is a method's name in the class.
_Dicts = list[dict[str, Any]]
_Objects = list[Object]

WATCH_S = 290.0
_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 30.0
_HEALTHY_S = 1.0
# So many watches in a row that brought nothing: the revision itself may be the trouble.
_FAILURES_BEFORE_RELIST = 3

_log = structlog.get_logger(__name__)


class Informer:
    """All objects of one kind (in a namespace, with labels), as the API server has them, a moment late."""

    def __init__(  # noqa: PLR0913 - the rest is for tests
        self,
        client: KubeClient,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.resource = resource
        self._reader = compact_reader(client)
        self._scope: dict[str, Any] = {"namespace": namespace, "label_selector": label_selector}
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._objects: dict[Key, Object] = {}
        self._noted: dict[Key, int] = {}  # own writes that the watch has not shown yet
        self._handlers: list[Handler] = []
        self._indexes: dict[str, IndexFunction] = {}
        self._indexed: dict[str, dict[str, dict[Key, None]]] = {}
        self._version: str | None = None  # where the watch goes on; None: list first
        self._revision = 0  # the same as a number
        self._contact: float | None = None
        self._synced = asyncio.Event()
        if metrics:
            metrics.informer_age.labels(resource.plural).set_function(lambda: self.age_s() or 0.0)

    @property
    def synced(self) -> bool:
        """True once a full list has been taken in."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return when `synced`."""
        await self._synced.wait()

    def age_s(self) -> float | None:
        """Seconds since the server last sent anything (also a bookmark); None before the first list."""
        return None if self._contact is None else self._clock() - self._contact

    def add_handler(self, handler: Handler) -> None:
        """Tell `handler` of every change from now on. It must not block or raise."""
        self._handlers.append(handler)

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Find objects by the values that `function` gives for them; before the first list."""
        self._indexes[name] = function
        self._indexed[name] = {}
        for obj in self._objects.values():
            self._index(name, obj)

    def get_object(self, namespace: str, name: str) -> Object | None:
        """The compact object, or None."""
        return self._objects.get((namespace, name))

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The object as a dict of its own, or None."""
        found = self._objects.get((namespace, name))
        return found.to_dict() if found else None

    def list_objects(self, namespace: str | None = None) -> Iterator[Object]:
        """All compact objects, in one namespace or in all."""
        found = tuple(self._objects.values())  # the cache may change while the caller awaits
        return (obj for obj in found if namespace is None or obj.metadata.namespace == namespace)

    def list(self, namespace: str | None = None) -> _Dicts:
        """All objects as dicts."""
        return [obj.to_dict() for obj in self.list_objects(namespace)]

    def by_index(self, name: str, value: str) -> _Dicts:
        """The objects whose index `name` holds `value`, as dicts."""
        return [obj.to_dict() for obj in self.objects_by_index(name, value)]

    def objects_by_index(self, name: str, value: str) -> _Objects:
        """As `by_index`, compact."""
        return [self._objects[key] for key in self._indexed[name].get(value, ())]

    def note_write(self, obj: dict[str, Any]) -> None:
        """Take in what the API server answered to a write of our own, unless the watch has shown as much already."""
        new = compact(obj, self.resource)
        # Everything up to the watch's revision is in the cache; an object missing there has been deleted since.
        if new.revision <= self._revision or not self._is_newer(new):
            return
        if new.metadata.deletion_timestamp and not new.metadata.finalizers:
            return  # our write let it go; the watch tells of the deletion
        self._noted[new.key] = new.revision
        self._put(new)

    async def run(self) -> None:
        """List and watch until cancelled. API errors are logged and waited out with growing, jittered pauses."""
        failures = 0
        while True:
            try:
                if self._version is None:
                    await self._relist()
                failures = 0 if await self._watch() else failures + 1
            except (CapnError, OSError) as error:
                failures += 1
                if isinstance(error, WatchExpiredError) or is_too_new(error) or failures >= _FAILURES_BEFORE_RELIST:
                    self._version = None
                _log.warning("watch failed", resource=self.resource.plural, error=str(error), failures=failures)
            if failures:
                await self._sleep(self._pause_s(failures))

    def _pause_s(self, failures: int) -> float:
        longest: float = min(_BACKOFF_S * 2 ** min(failures - 1, 16), _MAX_BACKOFF_S)
        return longest * self._rng.uniform(0.5, 1.0)

    async def _relist(self) -> None:
        listed = await self._reader.list_compact(self.resource, **self._scope)
        if self._metrics:
            self._metrics.informer_lists.labels(self.resource.plural).inc()
        self._replace(listed)
        self._version = listed.resource_version
        self._touch()
        self._synced.set()

    async def _watch(self) -> bool:
        """Follow one stream to its end; False when it ended at once without a word, which must not become a loop."""
        started, progressed = self._clock(), False
        stream = self._reader.watch_compact(
            self.resource,
            resource_version=self._version or "0",
            timeout_s=WATCH_S * self._rng.uniform(0.8, 1.0),  # informers shall not all reconnect at once
            **self._scope,
        )
        async with aclosing(stream):
            async for event in stream:
                progressed = True
                self._version = event.object.metadata.resource_version
                self._take(event)
                self._touch()
        return progressed or self._clock() - started >= _HEALTHY_S

    def _take(self, event: ObjectEvent) -> None:
        if self._metrics:
            self._metrics.informer_events.labels(self.resource.plural, event.type).inc()
        obj = event.object
        self._revision = obj.revision
        if event.type == "BOOKMARK":
            return
        if event.type == "DELETED":
            known = self._objects.get(obj.key)
            # Another object of that name may have been written by us since.
            if known and (known.metadata.uid == obj.metadata.uid or known.revision <= obj.revision):
                self._drop(obj.key)
            return
        if self._noted.get(obj.key, 0) <= obj.revision:
            self._noted.pop(obj.key, None)
        if self._is_newer(obj):
            self._put(obj)

    def _replace(self, listed: CompactList) -> None:
        """Make the cache what the list says, but for own writes that are newer than the list."""
        revision = parse_revision(listed.resource_version)
        self._noted = {key: noted for key, noted in self._noted.items() if noted > revision}
        seen = set(self._noted)
        for obj in listed.items:
            if obj.key not in self._noted:
                seen.add(obj.key)
                # No order here: after a restore of the server's backup, older is right.
                if self._objects.get(obj.key) != obj:
                    self._put(obj)
        for key in [key for key in self._objects if key not in seen]:
            self._drop(key)
        self._revision = revision

    def _is_newer(self, obj: Object) -> bool:
        known = self._objects.get(obj.key)
        return known is None or obj.revision > known.revision

    def _put(self, obj: Object) -> None:
        old = self._objects.get(obj.key)
        if old:
            self._unindex(old)
        self._objects[obj.key] = obj
        for name in self._indexes:
            self._index(name, obj)
        self._tell(old, obj)

    def _drop(self, key: Key) -> None:
        old = self._objects.pop(key)
        self._noted.pop(key, None)
        self._unindex(old)
        self._tell(old, None)

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            try:
                handler(old, new)
            except Exception:  # noqa: BLE001 - one bad handler must not stop the others or the watch
                _log.exception("handler failed", resource=self.resource.plural)

    def _index(self, name: str, obj: Object) -> None:
        for value in self._indexes[name](obj):
            self._indexed[name].setdefault(value, {})[obj.key] = None

    def _unindex(self, obj: Object) -> None:
        for name, function in self._indexes.items():
            for value in function(obj):
                keys = self._indexed[name].get(value, {})
                keys.pop(obj.key, None)
                if not keys:
                    self._indexed[name].pop(value, None)

    def _touch(self) -> None:
        self._contact = self._clock()
        if self._metrics:
            self._metrics.informer_objects.labels(self.resource.plural).set(len(self._objects))
