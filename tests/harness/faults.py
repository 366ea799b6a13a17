"""Faults between a controller and its API server: production code has no hooks, this wrapper has.

Writes are counted from 1 over all verbs. A `Fault` names the write (or a predicate on the call) and what happens:
`crash_before` / `crash_after` the write, `lost_ack` (committed, the caller sees no answer), `conflict`, `refuse` (with
a code), `overload`, `unreachable` (not committed), `slow`. `down`: nothing is answered at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from capn.api.resources import POD, Resource
from capn.errors import ApiStatusError, ConflictError, UnreachableError
from capn.kube.client import ExecResult, KubeClient, ObjectList, WatchEvent
from capn.kube.compact import compact_reader
from capn.kube.decode import CompactList, ObjectEvent
from capn.kube.errors import OverloadedError

T = TypeVar("T")
Kind = Literal["crash_before", "crash_after", "lost_ack", "conflict", "refuse", "overload", "unreachable", "slow"]


class SimulatedCrash(BaseException):
    """The controller died at this point; the test starts a new one. No `except Exception` may see it."""


@dataclass(frozen=True)
class Call:
    """One write: its number, verb, kind and the name of the object."""

    number: int
    verb: str
    resource: Resource
    name: str


@dataclass
class Fault:
    """What happens to the writes that `where` matches (a number, or a predicate), `times` times."""

    kind: Kind
    where: int | Callable[[Call], bool]
    times: int = 1
    code: int = 500
    delay_s: float = 0.0

    def matches(self, call: Call) -> bool:
        hit = call.number == self.where if isinstance(self.where, int) else self.where(call)
        if not hit or self.times <= 0:
            return False
        self.times -= 1
        return True


@dataclass
class FaultyKubeClient:
    """`inner` with faults. `calls` lists the writes that were tried; after a crash every call crashes."""

    inner: KubeClient
    plan: Sequence[Fault] = ()
    calls: list[Call] = field(default_factory=list)
    crashed: bool = False
    down: bool = False

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        self._check_read()
        return await self.inner.get(resource, name, namespace)

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> ObjectList:
        self._check_read()
        return await self.inner.list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )

    async def list_compact(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str | None = None
    ) -> CompactList:
        self._check_read()
        reader = compact_reader(self.inner)
        return await reader.list_compact(resource, namespace=namespace, label_selector=label_selector)

    async def watch(self, resource: Resource, **scope: Any) -> AsyncGenerator[WatchEvent, None]:
        self._check_read()
        async for event in self.inner.watch(resource, **scope):
            yield event

    def watch_compact(self, resource: Resource, **scope: Any) -> AsyncGenerator[ObjectEvent, None]:
        self._check_read()
        return compact_reader(self.inner).watch_compact(resource, **scope)

    async def create(self, resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
        return await self._write("create", resource, _name(obj), lambda: self.inner.create(resource, obj))

    async def apply(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        subresource: str | None = None,
        force: bool = True,
        manager: str | None = None,
    ) -> dict[str, Any]:
        verb = f"apply/{subresource}" if subresource else "apply"
        return await self._write(
            verb,
            resource,
            _name(obj),
            lambda: self.inner.apply(resource, obj, subresource=subresource, force=force, manager=manager),
        )

    async def dry_run(self, resource: Resource, obj: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        self._check_read()
        return await self.inner.dry_run(resource, obj, manager=manager)

    async def merge_patch(
        self, resource: Resource, name: str, namespace: str | None, patch: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        return await self._write(
            "patch", resource, name, lambda: self.inner.merge_patch(resource, name, namespace, patch)
        )

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        return await self._write(
            "delete", resource, name, lambda: self.inner.delete(resource, name, namespace, uid=uid)
        )

    async def evict(self, pod: str, namespace: str, *, uid: str | None = None) -> bool:
        return await self._write("evict", POD, pod, lambda: self.inner.evict(pod, namespace, uid=uid))

    async def request_token(self, account: str, namespace: str, *, lifetime_s: int) -> str:
        self._check_read()
        return await self.inner.request_token(account, namespace, lifetime_s=lifetime_s)

    async def get_raw(self, path: str) -> tuple[int, str]:
        self._check_read()
        return await self.inner.get_raw(path)

    async def upload(self, path: str, source: Path, *, sha256: str, timeout_s: float) -> tuple[int, str]:
        self._check_read()
        return await self.inner.upload(path, source, sha256=sha256, timeout_s=timeout_s)

    async def exec(self, pod: str, namespace: str, **call: Any) -> ExecResult:
        return await self._write("exec", POD, pod, lambda: self.inner.exec(pod, namespace, **call))

    async def exec_stream(
        self, pod: str, namespace: str, *, container: str, command: Sequence[str], silence_s: float = 60.0
    ) -> AsyncGenerator[bytes, None]:
        self._check_read()
        stream = self.inner.exec_stream(pod, namespace, container=container, command=command, silence_s=silence_s)
        async with aclosing(stream):
            async for piece in stream:
                yield piece

    async def close(self) -> None:
        await self.inner.close()

    def _check_read(self) -> None:
        if self.crashed:
            raise SimulatedCrash
        if self.down:
            raise UnreachableError("no answer from the API server")

    async def _write(self, verb: str, resource: Resource, name: str, send: Callable[[], Awaitable[T]]) -> T:
        self._check_read()
        call = Call(len(self.calls) + 1, verb, resource, name)
        self.calls.append(call)
        fault = next((fault for fault in self.plan if fault.matches(call)), None)
        if fault is None:
            return await send()
        self._fail_before(fault, call)
        if fault.kind == "slow":
            await asyncio.sleep(fault.delay_s)
        answer = await send()
        if fault.kind == "crash_after":
            self._crash(call)
        if fault.kind == "lost_ack":
            raise UnreachableError(f"{verb} {name}: no answer within 30 s")
        return answer

    def _fail_before(self, fault: Fault, call: Call) -> None:
        if fault.kind == "crash_before":
            self._crash(call)
        if fault.kind == "conflict":
            raise ConflictError(f"{call.verb} {call.name}: the object has been modified")
        if fault.kind == "refuse":
            raise ApiStatusError(fault.code, f"{call.verb} {call.name}: HTTP {fault.code}")
        if fault.kind == "overload":
            raise OverloadedError(429, f"{call.verb} {call.name}: too many requests", retry_after_s=1.0)
        if fault.kind == "unreachable":
            raise UnreachableError(f"{call.verb} {call.name}: no answer from the API server")

    def _crash(self, call: Call) -> None:
        self.crashed = True
        raise SimulatedCrash(f"write {call.number}: {call.verb} {call.resource.plural} {call.name}")


def _name(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"]["name"])
