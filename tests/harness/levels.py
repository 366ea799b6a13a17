"""Clusters in clusters in one process: each level's controllers run on the API of a cluster above.

Only the hypervisor, the guests and the APIs are doubles; claims, providers and controllers are the real ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import yaml

from capn import names
from capn.api.resources import CONFIG_MAP, NESTED_CLUSTER, NESTED_MACHINE
from capn.kube.client import KubeClient
from capn.kube.http import Observer
from capn.kube.memory import MemoryKubeClient
from capn.providers.base import ClusterRef, Provider
from capn.providers.parent.provider import ParentProvider
from capn.settings import GateSettings, ParentEndpoint, Settings
from tests.harness.scenario import Scenario


class ReachingParentProvider(ParentProvider):
    """The real provider; only a child's API is found where the simulated hypervisor keeps it."""

    def __init__(self, upper: Scenario, endpoint: ParentEndpoint) -> None:
        async def connect(_told: Observer) -> KubeClient:
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

    def __init__(self, upper: Scenario, host: str, settings: Settings) -> None:
        self.upper = upper
        parent = settings.endpoints["parent"]["default"]
        assert isinstance(parent, ParentEndpoint)
        self.parent = parent
        super().__init__(api=upper.api_of(host), world=upper.world, endpoints=settings.endpoints)

    @classmethod
    async def over(cls, upper: Scenario, name: str = "c1") -> Level:
        """Start capn in the Ready cluster `name` of the level above, with the settings that were installed there."""
        cluster = await upper.cluster(name)
        assert cluster is not None
        uid = cluster["metadata"]["uid"]
        installed = await upper.api_of(uid).get(CONFIG_MAP, "capn-settings", names.SYSTEM_NAMESPACE)
        assert installed is not None
        level = cls(upper, uid, Settings(**yaml.safe_load(installed["data"]["settings.yaml"])))
        await level.start()
        return level

    def build_provider(self) -> Provider:
        """Claims in the level above."""
        return ReachingParentProvider(self.upper, self.parent)

    def find_api(self, uid: str) -> MemoryKubeClient | None:
        """The API of the cluster of this level with that UID."""
        claim = self.find_claim(uid)
        return None if claim is None else self.upper.find_api(claim)

    def claim_uid(self, uid: str) -> str:
        """UID of the claim, in the level above, of the cluster with this UID."""
        found = self.find_claim(uid)
        assert found is not None
        return found

    def find_claim(self, uid: str) -> str | None:
        """As `claim_uid`; None before there is a claim."""
        found = [
            claim["metadata"]["uid"]
            for claim in (stored.to_dict() for stored in self.upper.api.store.scan(NESTED_CLUSTER))
            if claim["metadata"].get("annotations", {}).get(names.ANNOTATION_OWNER_UID) == uid
        ]
        assert len(found) <= 1, found
        return str(found[0]) if found else None

    async def claims(self) -> list[str]:
        """What of this level's claims is left in the level above."""
        namespace = self.parent.namespace
        found = [*(await self.upper.api.list(NESTED_CLUSTER, namespace=namespace)).items]
        found += (await self.upper.api.list(NESTED_MACHINE, namespace=namespace)).items
        return [f"{item['kind']} {item['metadata']['name']}" for item in found]


@asynccontextmanager
async def running_levels(depth: int, *, gate: GateSettings | None = None) -> AsyncIterator[list[Scenario]]:
    """`depth` levels, the root first; in each but the last a Ready cluster `c1` carries the next."""
    async with AsyncExitStack() as stack:
        root = Scenario(gate=gate)
        levels: list[Scenario] = [root]
        stack.push_async_callback(_stop, levels)
        await root.start()
        while len(levels) < depth:
            await levels[-1].nest(maxDepth=16)
            levels.append(await Level.over(levels[-1]))
        yield levels


async def _stop(levels: list[Scenario]) -> None:
    for level in reversed(levels):
        await level.kill()
        await level.provider.close()
