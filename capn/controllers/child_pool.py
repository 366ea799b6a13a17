"""One client and one node watch for each child cluster.

Role: keeps connections to children and tells the reconcilers when a node changes, so that nothing polls.
Inputs: kubeconfigs (hostile: the provider's `open_child` takes only server, CA and client certificate); output:
`Child`. Must not: write to children.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.api.resources import NODE
from capn.errors import UnreachableError
from capn.kube.client import KubeClient
from capn.kube.decode import Object
from capn.kube.discovery import Discovery
from capn.providers.base import ClusterRef, Provider
from capn.runtime.informer import Informer

# A reconcile that holds the connection of before a renewed kubeconfig ends within the time that one call may take, or
# comes back for a new one.
RETIRE_S = 60.0
_ANNOTATIONS = (
    names.ANNOTATION_NODE_SETTINGS,
    names.ANNOTATION_CERTIFICATES_END,
    names.ANNOTATION_CERTIFICATES_FAILURE,
)


@dataclass(frozen=True)
class Child:
    """A child's API: the client, its nodes as last seen, and what kinds it serves."""

    client: KubeClient
    nodes: Informer
    discovery: Discovery

    def node(self, name: str) -> dict[str, Any] | None:
        """The node as last seen, or None."""
        return self.nodes.get("", name)


@dataclass
class _Entry:
    child: Child
    kubeconfig: bytes
    task: asyncio.Task[None] | None = None


class ChildPool:
    """Children by their cluster's UID."""

    def __init__(
        self,
        wake_node: Callable[[ClusterRef, str], None],
        *,
        sync_timeout_s: float = 10.0,
        retire_s: float = RETIRE_S,
    ) -> None:
        self._sync_timeout_s = sync_timeout_s
        self._retire_s = retire_s
        self._wake_node = wake_node
        self._entries: dict[str, _Entry] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._drops: set[asyncio.Task[None]] = set()

    async def open(self, provider: Provider, ref: ClusterRef, kubeconfig: bytes) -> Child:
        """The child's client; a changed kubeconfig opens a new one. The node watch is begun by `watch_nodes`.

        The client of before stays usable for a while, since another reconcile may be in the middle of a call.
        """
        # The cluster's and its machines' reconcilers ask at the same time; they must get the same child.
        async with self._locks.setdefault(ref.uid, asyncio.Lock()):
            entry = self._entries.get(ref.uid)
            if entry is not None and entry.kubeconfig == kubeconfig:
                return entry.child
            client = await provider.open_child(ref, kubeconfig)
            child = Child(client=client, nodes=self._build_informer(ref, client), discovery=Discovery(client))
            self._entries[ref.uid] = _Entry(child=child, kubeconfig=kubeconfig)
            if entry is not None:
                self._keep(asyncio.create_task(self._retire(entry), name="retire", context=contextvars.Context()))
            return child

    def get(self, uid: str) -> Child | None:
        """The child if it was opened, else None."""
        entry = self._entries.get(uid)
        return None if entry is None else entry.child

    def watch_nodes(self, ref: ClusterRef) -> None:
        """Begin to watch the child's nodes, once its API is known to answer."""
        entry = self._entries.get(ref.uid)
        if entry is not None and entry.task is None:
            entry.task = asyncio.create_task(
                entry.child.nodes.run(), name=f"nodes/{ref.name}", context=contextvars.Context()
            )

    async def sync_nodes(self, ref: ClusterRef) -> None:
        """Watch the nodes and wait for the first list. UnreachableError when the child does not answer in time."""
        self.watch_nodes(ref)
        entry = self._entries.get(ref.uid)
        if entry is None or entry.child.nodes.synced:
            return
        try:
            async with asyncio.timeout(self._sync_timeout_s):
                await entry.child.nodes.wait_synced()
        except TimeoutError:
            raise UnreachableError("the child's API server does not answer", reason="ChildUnreachable") from None

    def drop_soon(self, uid: str) -> None:
        """As `drop`, from where nothing can be awaited."""
        if uid in self._entries:
            self._keep(asyncio.create_task(self.drop(uid), name="drop child", context=contextvars.Context()))

    async def drop(self, uid: str) -> None:
        """End the connection to a child."""
        self._locks.pop(uid, None)
        if (entry := self._entries.pop(uid, None)) is not None:
            await self._close(entry)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._drops.add(task)
        task.add_done_callback(self._drops.discard)

    async def _retire(self, entry: _Entry) -> None:
        """End the watch now, and the connections when nobody can be using them any more."""
        try:
            await self._end_watch(entry)
            await asyncio.sleep(self._retire_s)
        finally:
            await entry.child.client.close()

    @staticmethod
    async def _end_watch(entry: _Entry) -> None:
        if entry.task is not None:
            entry.task.cancel()
            await asyncio.gather(entry.task, return_exceptions=True)

    @classmethod
    async def _close(cls, entry: _Entry) -> None:
        await cls._end_watch(entry)
        await entry.child.client.close()

    async def close(self) -> None:
        """End all connections, those of earlier kubeconfigs too."""
        for uid in list(self._entries):
            await self.drop(uid)
        ending = list(self._drops)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _build_informer(self, ref: ClusterRef, client: KubeClient) -> Informer:
        informer = Informer(client, NODE)

        def on_change(old: Object | None, new: Object | None) -> None:
            obj = new if new is not None else old
            if obj is not None and compute_node_essence(old) != compute_node_essence(new):
                self._wake_node(ref, obj.metadata.name)

        informer.add_handler(on_change)
        return informer


def compute_node_essence(node: Object | None) -> object:
    """What of a node matters to its machine and cluster; heartbeats and image lists do not."""
    if node is None:
        return None
    decoded = node.to_dict()
    conditions = [
        (condition.get("type"), condition.get("status"), condition.get("reason"))
        for condition in (decoded.get("status") or {}).get("conditions") or ()
    ]
    spec = decoded.get("spec") or {}
    annotations = node.metadata.annotations or {}
    settings = (node.metadata.labels, *(annotations.get(name) for name in _ANNOTATIONS))
    return (node.metadata.uid, settings, spec.get("providerID"), spec.get("taints"), conditions)
