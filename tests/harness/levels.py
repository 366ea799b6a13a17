"""Clusters in clusters in one process: each level's controllers run on the API of a cluster above.

Only the hypervisor, the guests and the APIs are doubles; claims, providers and controllers are the real ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from capn import names
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.kube.client import KubeClient
from capn.providers.base import ClusterRef, Provider
from capn.providers.parent.provider import ParentProvider
from capn.settings import ParentEndpoint, SecretKey
from tests.harness.scenario import NAMESPACE_NAME, Scenario

CLAIMS = "claims"


class ReachingParentProvider(ParentProvider):
    """The real provider; only a child's API is found where the simulated hypervisor keeps it."""

    def __init__(self, upper: Scenario, endpoint: ParentEndpoint) -> None:
        async def connect() -> KubeClient:
            return upper.api.as_manager("capn-child")

        super().__init__(endpoint, connect)
        self._upper = upper

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:
        """The child's simulated API, asked for level by level up to the hypervisor's."""
        claim = await self._find_cluster(ref)
        assert claim is not None
        meta = claim["metadata"]
        return await self._upper.open_child(ClusterRef(meta["namespace"], meta["name"], meta["uid"]), kubeconfig)


class Level(Scenario):
    """capn in a cluster that another level made: its machines are claimed there."""

    def __init__(self, upper: Scenario, host: ClusterRef, *, infrastructure: str) -> None:
        self.upper = upper
        self.parent = ParentEndpoint(
            kubeconfig=SecretKey(namespace="capn-system", name="parent"),
            namespace=CLAIMS,
            path=f"{host.namespace}/{host.name}",
            infrastructure_kind=infrastructure,
        )
        endpoints = {"parent": {"default": self.parent}}
        super().__init__(api=upper.api_of(host.uid), world=upper.world, endpoints=endpoints)

    @classmethod
    async def over(cls, upper: Scenario, name: str = "c1") -> Level:
        """Start capn in the Ready cluster `name` of the level above."""
        cluster = await upper.cluster(name)
        assert cluster is not None
        host = ClusterRef(NAMESPACE_NAME, name, cluster["metadata"]["uid"])
        level = cls(upper, host, infrastructure="parent" if isinstance(upper, Level) else "memory")
        await level.start()
        return level

    def build_provider(self) -> Provider:
        """Claims in the level above."""
        return ReachingParentProvider(self.upper, self.parent)

    async def create(self, name: str = "c1", **spec: Any) -> dict[str, Any]:
        """Create a NestedCluster on the parent endpoint."""
        return await super().create(name, **({"infrastructure": {"kind": "parent"}} | spec))

    def api_of(self, uid: str) -> Any:
        """The API of the cluster of this level with that UID."""
        return self.upper.api_of(self.claim_uid(uid))

    def claim_uid(self, uid: str) -> str:
        """UID of the claim, in the level above, of the cluster with this UID."""
        found = [
            claim["metadata"]["uid"]
            for claim in (stored.to_dict() for stored in self.upper.api.store.scan(NESTED_CLUSTER))
            if claim["metadata"].get("annotations", {}).get(names.ANNOTATION_OWNER_UID) == uid
        ]
        assert len(found) == 1, found
        return str(found[0])

    async def claims(self) -> list[str]:
        """What of this level's claims is left in the level above."""
        found = [*(await self.upper.api.list(NESTED_CLUSTER, namespace=CLAIMS)).items]
        found += (await self.upper.api.list(NESTED_MACHINE, namespace=CLAIMS)).items
        return [f"{item['kind']} {item['metadata']['name']}" for item in found]


@asynccontextmanager
async def running_levels(depth: int) -> AsyncIterator[list[Scenario]]:
    """`depth` levels, the root first; in each but the last a Ready cluster `c1` carries the next."""
    async with AsyncExitStack() as stack:
        root = Scenario()
        levels: list[Scenario] = [root]
        stack.push_async_callback(_stop, levels)
        await root.start()
        while len(levels) < depth:
            await levels[-1].create()
            await levels[-1].ready()
            levels.append(await Level.over(levels[-1]))
        yield levels


async def _stop(levels: list[Scenario]) -> None:
    for level in reversed(levels):
        await level.kill()
        await level.provider.close()
