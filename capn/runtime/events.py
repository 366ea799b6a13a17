"""Events for users: `kubectl describe` and `kubectl events` show them.

Role: `event` puts a line into a bounded queue and returns at once; `run` writes. The same line about the same object
is not written again for a while; after a restart, or later, its count goes up instead of a second Event. Must not:
block or fail a reconcile, carry secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import structlog

from capn.api.resources import EVENT
from capn.errors import CapnError, ConflictError
from capn.kube.client import KubeClient
from capn.runtime.clock import utc_now
from capn.runtime.metrics import Metrics

_log = structlog.get_logger(__name__)
_QUEUE_LENGTH = 1000
_REMEMBERED = 8192
_QUIET_S = 600.0
_MAX_NOTE = 1024  # the API server's limit
_DRAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    regarding: Mapping[str, str]
    type: Literal["Normal", "Warning"]
    reason: str
    note: str
    action: str


class EventRecorder:
    """Writes events as `component`; `instance` is the process (its lease identity)."""

    def __init__(  # noqa: PLR0913 - the rest is for tests
        self,
        client: KubeClient,
        *,
        component: str = "capn",
        instance: str = "capn",
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._component, self._instance = component, instance[:128]
        self._metrics = metrics
        self._clock, self._now = clock, now
        self._queue: asyncio.Queue[_Line] = asyncio.Queue(_QUEUE_LENGTH)
        self._seen: OrderedDict[str, float] = OrderedDict()

    def event(
        self,
        obj: Mapping[str, Any],
        event_type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        *,
        action: str = "Reconcile",
    ) -> None:
        """Tell of `obj` (its apiVersion, kind and metadata are read). Never blocks or raises."""
        line = _build_line(obj, event_type, reason, message, action)
        if self._is_repeated(line.name):
            return
        try:
            self._queue.put_nowait(line)
        except asyncio.QueueFull:
            self._drop()

    async def run(self) -> None:
        """Write events until cancelled; what waits then is still written, for a moment."""
        writing: asyncio.Task[None] | None = None
        try:
            while True:
                line = await self._queue.get()
                writing = asyncio.create_task(self._write(line))
                await asyncio.shield(writing)  # cut off in the middle, the line would be lost
        except asyncio.CancelledError:
            await self._drain(writing)
            raise

    async def _drain(self, writing: asyncio.Task[None] | None) -> None:
        try:
            async with asyncio.timeout(_DRAIN_S):
                if writing is not None:
                    await writing
                while not self._queue.empty():
                    await self._write(self._queue.get_nowait())
        except TimeoutError:
            _log.warning("events left unwritten", count=self._queue.qsize())

    async def _write(self, line: _Line) -> None:
        try:
            await self._client.create(EVENT, self._build(line))
        except ConflictError:
            await self._count_up(line)
        except CapnError as error:
            self._drop()
            _log.debug("event not written", error=str(error))

    async def _count_up(self, line: _Line) -> None:
        """The same line was written before (by us or before a restart): a higher count, no second Event."""
        namespace = _namespace(line.regarding)
        try:
            known = await self._client.get(EVENT, line.name, namespace)
            count = int(((known or {}).get("series") or {}).get("count") or 1) + 1
            series = {"count": count, "lastObservedTime": self._timestamp()}
            await self._client.merge_patch(EVENT, line.name, namespace, {"series": series})
        except CapnError as error:
            self._drop()
            _log.debug("event not counted", error=str(error))

    def _build(self, line: _Line) -> dict[str, Any]:
        return {
            "metadata": {"name": line.name, "namespace": _namespace(line.regarding)},
            "eventTime": self._timestamp(),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": line.action,
            "reason": line.reason,
            "regarding": dict(line.regarding),
            "note": line.note,
            "type": line.type,
        }

    def _is_repeated(self, name: str) -> bool:
        now = self._clock()
        last = self._seen.get(name)
        if last is not None and now - last < _QUIET_S:
            return True
        self._seen[name] = now
        self._seen.move_to_end(name)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _drop(self) -> None:
        if self._metrics:
            self._metrics.events_dropped.inc()

    def _timestamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _build_line(
    obj: Mapping[str, Any], event_type: Literal["Normal", "Warning"], reason: str, message: str, action: str
) -> _Line:
    meta = obj.get("metadata") or {}
    regarding = {key: obj[key] for key in ("apiVersion", "kind") if obj.get(key)}
    regarding |= {key: meta[key] for key in ("name", "namespace", "uid") if meta.get(key)}
    note = message if len(message) <= _MAX_NOTE else message[: _MAX_NOTE - 3] + "..."
    digest = hashlib.sha256("\0".join([meta.get("uid") or "", event_type, reason, note]).encode()).hexdigest()[:16]
    return _Line(f"{str(meta.get('name'))[:200]}.{digest}", regarding, event_type, reason, note, action)


def _namespace(regarding: Mapping[str, str]) -> str:
    return regarding.get("namespace") or "default"
