"""Compact reading over any `KubeClient`.

Role: informers need `CompactReader`; clients that lack it (test doubles, wrappers) get an adapter that converts dicts.
Must not: do anything else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

from capn.api.resources import Resource
from capn.kube.client import KubeClient
from capn.kube.decode import CompactList, CompactReader, ObjectEvent, compact


def compact_reader(client: KubeClient) -> CompactReader:
    """The client itself when it reads compactly, else an adapter round it."""
    if hasattr(client, "list_compact") and hasattr(client, "watch_compact"):
        return cast("CompactReader", client)
    return _Adapter(client)


class _Adapter:
    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def list_compact(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str | None = None
    ) -> CompactList:
        listed = await self._client.list(resource, namespace=namespace, label_selector=label_selector)
        return CompactList([compact(item, resource) for item in listed.items], listed.resource_version)

    async def watch_compact(
        self,
        resource: Resource,
        *,
        resource_version: str,
        **scope: Any,  # noqa: ANN401 - passed on as it is
    ) -> AsyncGenerator[ObjectEvent, None]:
        events = self._client.watch(resource, resource_version=resource_version, **scope)
        try:
            async for event in events:
                yield ObjectEvent(event.type, compact(event.object, resource))
        finally:
            # A Protocol's AsyncIterator need not have aclose; those that do must free their connection now.
            if (close := getattr(events, "aclose", None)) is not None:
                await close()
