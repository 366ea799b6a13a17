"""A client that writes only while the lease holds.

Role: the last line against two active controllers: whatever still runs after the lease's deadline cannot write, and a
write that is on its way at the deadline is given up. Reads pass. Must not: know how the lease is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from capn.api.resources import Resource
from capn.errors import TransientError
from capn.kube.client import ExecResult, KubeClient, ObjectList, WatchEvent
from capn.kube.compact import compact_reader
from capn.kube.decode import CompactList, ObjectEvent

T = TypeVar("T")


class LeaseLostError(TransientError):
    """Another controller may be active: this process must not write any more."""

    default_reason = "LeaseLost"


class GuardedKubeClient:
    """`inner`, with writes only while `remaining_s()` (seconds to the lease's deadline) is positive."""

    def __init__(self, inner: KubeClient, remaining_s: Callable[[], float]) -> None:
        self._inner = inner
        self._compact = compact_reader(inner)
        self._remaining_s = remaining_s

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """As the inner client."""
        return await self._inner.get(resource, name, namespace)

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> ObjectList:
        """As the inner client."""
        return await self._inner.list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )

    async def list_compact(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str | None = None
    ) -> CompactList:
        """As the inner client."""
        return await self._compact.list_compact(resource, namespace=namespace, label_selector=label_selector)

    async def watch(self, resource: Resource, **scope: Any) -> AsyncGenerator[WatchEvent, None]:  # noqa: ANN401
        """As the inner client."""
        async for event in self._inner.watch(resource, **scope):
            yield event

    def watch_compact(self, resource: Resource, **scope: Any) -> AsyncGenerator[ObjectEvent, None]:  # noqa: ANN401
        """As the inner client."""
        return self._compact.watch_compact(resource, **scope)

    async def create(self, resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
        """As the inner client; LeaseLostError past the deadline."""
        return await self._write(lambda: self._inner.create(resource, obj))

    async def apply(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        subresource: str | None = None,
        force: bool = True,
        manager: str | None = None,
    ) -> dict[str, Any]:
        """As the inner client; LeaseLostError past the deadline."""
        return await self._write(
            lambda: self._inner.apply(resource, obj, subresource=subresource, force=force, manager=manager)
        )

    async def dry_run(self, resource: Resource, obj: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """As the inner client; nothing is written."""
        return await self._inner.dry_run(resource, obj, manager=manager)

    async def merge_patch(
        self, resource: Resource, name: str, namespace: str | None, patch: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """As the inner client; LeaseLostError past the deadline."""
        return await self._write(lambda: self._inner.merge_patch(resource, name, namespace, patch))

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        """As the inner client; LeaseLostError past the deadline."""
        return await self._write(lambda: self._inner.delete(resource, name, namespace, uid=uid))

    async def evict(self, pod: str, namespace: str, *, uid: str | None = None) -> bool:
        """As the inner client; LeaseLostError past the deadline."""
        return await self._write(lambda: self._inner.evict(pod, namespace, uid=uid))

    async def request_token(self, account: str, namespace: str, *, lifetime_s: int) -> str:
        """As the inner client, while the lease is held."""
        return await self._write(lambda: self._inner.request_token(account, namespace, lifetime_s=lifetime_s))

    async def get_raw(self, path: str) -> tuple[int, str]:
        """As the inner client."""
        return await self._inner.get_raw(path)

    async def upload(self, path: str, source: Path, *, sha256: str, timeout_s: float) -> tuple[int, str]:
        """As the inner client, while the lease is held."""
        return await self._write(lambda: self._inner.upload(path, source, sha256=sha256, timeout_s=timeout_s))

    async def exec(
        self,
        pod: str,
        namespace: str,
        **call: Any,  # noqa: ANN401
    ) -> ExecResult:
        """As the inner client, while the lease is held: a command may change anything."""
        return await self._write(lambda: self._inner.exec(pod, namespace, **call))

    async def exec_stream(
        self,
        pod: str,
        namespace: str,
        *,
        container: str,
        command: Sequence[str],
        silence_s: float = 60.0,
    ) -> AsyncGenerator[bytes, None]:
        """As the inner client, if the lease is held at its beginning and at every piece."""
        stream = self._inner.exec_stream(pod, namespace, container=container, command=command, silence_s=silence_s)
        async with aclosing(stream):
            self._check()
            async for piece in stream:
                self._check()
                yield piece

    async def close(self) -> None:
        """Close the inner client."""
        await self._inner.close()

    async def _write(self, call: Callable[[], Awaitable[T]]) -> T:
        left_s = self._check()
        try:
            async with asyncio.timeout(left_s):
                return await call()
        except TimeoutError as error:
            raise LeaseLostError("the lease ran out during a write") from error

    def _check(self) -> float:
        """Seconds to the deadline."""
        if (left_s := self._remaining_s()) <= 0:
            raise LeaseLostError("the lease is lost; this process does not write any more")
        return left_s
