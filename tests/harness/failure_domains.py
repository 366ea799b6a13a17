"""A scenario whose endpoint has failure domains: simulated hosts of one network, which a test takes down one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from capn.api.resources import NESTED_MACHINE
from capn.providers.failure_domains import DomainProvider
from capn.providers.memory import MemoryProvider
from capn.settings import MemoryEndpoint
from tests.harness.scenario import NAMESPACE_NAME, Scenario

# The endpoint as it is while the administrator has not divided it: its one host.
WHOLE = {"": "a"}
THREE = {"a": "a", "b": "b", "c": "c"}


class DomainScenario(Scenario):
    """`domains`: the host of each domain, as the settings have them when the controllers start."""

    def __init__(self, domains: Mapping[str, str], **hosts: MemoryEndpoint) -> None:
        self.domains = domains
        self.hosts = hosts
        super().__init__()

    def build_provider(self) -> DomainProvider:
        return DomainProvider(
            {
                name: MemoryProvider(self.hosts.get(host), world=self.world, host=host)
                for name, host in self.domains.items()
            }
        )

    def set_down(self, *names: str) -> None:
        """Take these hosts off the network, and bring all others back."""
        for name, host in self.provider.domains.items():
            host.set_down(name in names)

    async def divide(self, domains: Mapping[str, str]) -> None:
        """Start the controllers again with other settings."""
        await self.kill()
        self.domains = domains
        await self.start()

    async def places(self, pool: str | None = "md") -> dict[str, str]:
        """The domain of each machine of a pool (None: of the control plane), by its name; empty for one without."""
        listed = await self.api.list(NESTED_MACHINE, namespace=NAMESPACE_NAME)
        found = {item["metadata"]["name"]: item["spec"] for item in listed.items}
        return {name: spec.get("failureDomain", "") for name, spec in found.items() if spec.get("pool") == pool}

    async def spread(self, pool: str | None = "md") -> Counter[str]:
        """How many machines of a pool each domain has."""
        return Counter((await self.places(pool)).values())

    async def grown(self, count: int, pool: str | None = "md") -> Counter[str]:
        """Wait until the cluster is Ready with so many machines in the pool; how they are spread."""

        async def is_there() -> bool:
            ready = (await self.condition("c1", "Ready")).get("status") == "True"
            return ready and len(await self.places(pool)) == count

        await self.until(is_there)
        await self.settle()
        return await self.spread(pool)

    async def says(self, kind: str, reason: str, *, of: str = "c1") -> dict[str, Any]:
        """Wait until a condition of a cluster or machine has that reason; the condition."""
        what = "cluster" if of == "c1" else "machine"

        async def is_said() -> bool:
            return (await self.condition(of, kind, of=what)).get("reason") == reason

        await self.until(is_said)
        return await self.condition(of, kind, of=what)

    async def rows(self) -> dict[str, dict[str, Any]]:
        """What the cluster's status says of each domain."""
        cluster = await self.cluster()
        assert cluster is not None
        return {row["name"]: row for row in cluster["status"].get("failureDomains", [])}


@asynccontextmanager
async def running_domains(domains: Mapping[str, str], **hosts: MemoryEndpoint) -> AsyncIterator[DomainScenario]:
    """A started scenario; at its end each VM is where its machine says, and nothing leaks."""
    scenario = DomainScenario(domains, **hosts)
    await scenario.start()
    try:
        yield scenario
        assert await scenario.leaks() == []
        for machine in scenario.world.machines.values():
            assert machine.host == machine.ref.failure_domain or not machine.ref.failure_domain
    finally:
        await scenario.kill()
        await scenario.provider.close()
