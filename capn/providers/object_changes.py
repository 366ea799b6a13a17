"""Tells whose objects change in a Kubernetes API: a watch on all that carry our label.

Role: list, then watch; what is not seen in a gap is announced after it. Inputs: a way to connect, which is asked anew
after each failure, the kind, whose an object of it is, and what of it matters. Must not: decide anything.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

import structlog

from capn.api.resources import Resource
from capn.build.stamps import LABEL_MANAGED_BY, MANAGED_BY
from capn.errors import CapnError
from capn.kube.client import KubeClient
from capn.kube.errors import WatchExpiredError
from capn.providers.base import ClusterRef, MachineRef

log = structlog.get_logger(__name__)

_RETRY_S = 1.0
_LONGEST_S = 30.0
_SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


RefT = TypeVar("RefT", MachineRef, ClusterRef)


class ObjectChanges(Generic[RefT]):
    """The machines or clusters whose object changed or is gone.

    `read` says whose an object is (None: nobody's of ours); `essence` is what of it matters, and must be comparable.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[KubeClient]],
        resource: Resource,
        namespace: str | None,
        read: Callable[[Mapping[str, Any]], RefT | None],
        essence: Callable[[Mapping[str, Any]], object],
    ) -> None:
        self._connect = connect
        self._resource = resource
        self._namespace = namespace
        self._read: Callable[[Mapping[str, Any]], RefT | None] = read
        self._essence = essence
        self._seen: dict[str, tuple[RefT, object]] = {}

    async def follow(self) -> AsyncIterator[RefT]:
        """Yield for ever, through every failure of the API.

        What was seen before a failure is kept, so that what changed meanwhile is found by the list after it.
        """
        first, wait_s = True, _RETRY_S
        while True:
            try:
                client = await self._connect()
                listed = await client.list(self._resource, namespace=self._namespace, label_selector=_SELECTOR)
                for ref in self._compare(listed.items):
                    if not first:
                        yield ref
                first, wait_s = False, _RETRY_S
                async for ref in self._watch(client, listed.resource_version):
                    yield ref
            except WatchExpiredError:
                continue
            except CapnError as error:  # also what it refuses: an API server that has just begun knows no roles yet
                log.info(
                    "the watch on objects of ours broke off; watching again", kind=self._resource.kind, error=str(error)
                )
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
                wait_s = min(2 * wait_s, _LONGEST_S)

    async def _watch(self, client: KubeClient, revision: str) -> AsyncIterator[RefT]:
        """Watch from a revision on, again and again."""
        while True:
            async for event in client.watch(
                self._resource, resource_version=revision, namespace=self._namespace, label_selector=_SELECTOR
            ):
                revision = event.object["metadata"]["resourceVersion"]
                if event.type == "BOOKMARK":
                    continue
                changed = self._note(event.object, gone=event.type == "DELETED")
                if changed is not None:
                    yield changed

    def _compare(self, items: list[dict[str, Any]]) -> list[RefT]:
        """Take over a whole list; those that differ from what was known."""
        present = {item["metadata"]["uid"] for item in items}
        changed = [ref for uid, (ref, _essence) in self._seen.items() if uid not in present]
        for uid in set(self._seen) - present:
            del self._seen[uid]
        return changed + [ref for item in items if (ref := self._note(item, gone=False)) is not None]

    def _note(self, obj: Mapping[str, Any], *, gone: bool) -> RefT | None:
        """Take over one object; whose it is when something that matters has changed."""
        ref = self._read(obj)
        if ref is None:
            return None
        uid = obj["metadata"]["uid"]
        if gone:
            self._seen.pop(uid, None)
            return ref
        essence, before = self._essence(obj), self._seen.get(uid)
        self._seen[uid] = (ref, essence)
        return ref if before is None or before[1] != essence else None


async def follow_both(
    machines: AsyncIterator[MachineRef], clusters: AsyncIterator[ClusterRef]
) -> AsyncIterator[MachineRef | ClusterRef]:
    """Two endless streams as one; an error of either ends both."""
    found: asyncio.Queue[MachineRef | ClusterRef] = asyncio.Queue()

    async def pass_on(stream: AsyncIterator[MachineRef] | AsyncIterator[ClusterRef]) -> None:
        async for ref in stream:
            found.put_nowait(ref)

    readers = [asyncio.create_task(pass_on(machines)), asyncio.create_task(pass_on(clusters))]
    try:
        while True:
            following = asyncio.create_task(found.get())
            await asyncio.wait({following, *readers}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                yield following.result()
                continue
            following.cancel()
            for reader in readers:
                if reader.done():
                    reader.result()
                    return
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
