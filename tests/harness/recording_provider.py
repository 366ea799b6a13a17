"""The memory provider, noting each call that may change something at the hypervisor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from capn.providers.base import ClusterRef, ClusterRequest, MachineRef, MachineRequest
from capn.providers.memory import MemoryProvider
from capn.settings import MemoryEndpoint
from tests.harness.scenario import Scenario


class RecordingProvider(MemoryProvider):
    """`deeds` are (verb, name) in the order in which they were asked for."""

    def __init__(self, *args: Any, deeds: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deeds = deeds

    async def ensure_cluster(self, request: ClusterRequest) -> Any:
        self._deeds.append(("ensure cluster", request.ref.name))
        return await super().ensure_cluster(request)

    async def delete_cluster(self, ref: ClusterRef) -> bool:
        self._deeds.append(("delete cluster", ref.name))
        return await super().delete_cluster(ref)

    async def ensure_machine(self, request: MachineRequest) -> Any:
        self._deeds.append(("start", request.ref.name))
        return await super().ensure_machine(request)

    async def release_bootstrap_data(self, ref: MachineRef) -> None:
        self._deeds.append(("release", ref.name))
        await super().release_bootstrap_data(ref)

    async def stop_machine(self, ref: MachineRef, *, force: bool) -> bool:
        self._deeds.append(("cut" if force else "stop", ref.name))
        return await super().stop_machine(ref, force=force)

    async def delete_machine(self, ref: MachineRef) -> bool:
        self._deeds.append(("delete", ref.name))
        return await super().delete_machine(ref)


class RecordingScenario(Scenario):
    """A scenario whose provider's deeds are noted, over restarts too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.deeds: list[tuple[str, str]] = []
        super().__init__(*args, **kwargs)

    def build_provider(self) -> RecordingProvider:
        return RecordingProvider(self.endpoint, world=self.world, deeds=self.deeds)

    def order_of(self, *verbs: str) -> list[str]:
        """Names of machines in the order in which one of the verbs was first asked of each."""
        return list(dict.fromkeys(name for verb, name in self.deeds if verb in verbs))


@asynccontextmanager
async def running_recorded(
    endpoint: MemoryEndpoint | None = None, *, shutdown_timeout_s: float = 180.0
) -> AsyncIterator[RecordingScenario]:
    """A started scenario whose deeds are noted; whatever the test did, its end leaks nothing."""
    scenario = RecordingScenario(endpoint, shutdown_timeout_s=shutdown_timeout_s)
    await scenario.start()
    try:
        yield scenario
        if scenario.controllers is not None:
            assert await scenario.leaks() == []
    finally:
        await scenario.kill()
        await scenario.provider.close()
