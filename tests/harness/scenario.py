"""A whole capn in one process: parent API double, simulated hypervisor, the real controllers.

Everything in between is production code. `restart` is what SIGKILL and a new start are to the outside: the controllers'
memory is gone, the API and the machines are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from capn import names
from capn.api.machine_template import Infrastructure
from capn.api.resources import CONFIG_MAP, DEPLOYMENT, NAMESPACE, NESTED_CLUSTER, NESTED_MACHINE, SECRET
from capn.build.nesting import claims_namespace
from capn.controllers.setup import Controllers
from capn.kube.client import KubeClient
from capn.kube.memory import MemoryKubeClient
from capn.providers.base import ClusterRef, MachineRef, Provider
from capn.providers.memory import MemoryProvider
from capn.providers.memory_world import MemoryWorld
from capn.providers.registry import ProviderRegistry
from capn.runtime.clock import utc_now
from capn.runtime.controller import Key
from capn.settings import BackupStore, Endpoint, GateSettings, MemoryEndpoint, NestingSettings, Settings

LIMIT_S = 20.0
NAMESPACE_NAME = "team"


@dataclass
class Recorded:
    """Events that the controllers told of."""

    lines: list[tuple[str, str, str, str]] = field(default_factory=list)

    def event(self, obj: Mapping[str, Any], event_type: str, reason: str, message: str) -> None:
        self.lines.append((obj["metadata"]["name"], event_type, reason, message))

    def reasons(self, name: str) -> list[str]:
        return [reason for who, _, reason, _ in self.lines if who == name]


class OneProvider:
    """The scenario's provider for every endpoint that its settings name; the registry's own refusal for every other."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self._provider = provider
        self._registry = ProviderRegistry(settings, client=cast("Any", MemoryKubeClient()))  # never connected to

    def get(self, infrastructure: Infrastructure) -> Any:
        self._registry.get(infrastructure)
        return self._provider


class Scenario:
    """Drives the controllers; waits on conditions, never on time."""

    def __init__(  # noqa: PLR0913 - what a test may want to differ
        self,
        endpoint: MemoryEndpoint | None = None,
        *,
        bootstrap_timeout_s: float = 1800.0,
        shutdown_timeout_s: float = 180.0,
        api: MemoryKubeClient | None = None,
        world: MemoryWorld | None = None,
        endpoints: Mapping[str, Mapping[str, Endpoint]] | None = None,
        gate: GateSettings | None = None,
        backup_stores: Mapping[str, BackupStore] | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.api = api or MemoryKubeClient()
        self.user = self.api.as_manager("kubectl")
        # How far the clocks of the controllers and of the machines are ahead of the test's.
        self.shift = timedelta()
        self.child_ahead = timedelta(0)
        self.world = world or MemoryWorld(lambda: utc_now() + self.child_ahead)
        self.endpoint = endpoint or MemoryEndpoint()
        named = endpoints or {"memory": {"default": MemoryEndpoint()}}
        self.settings = Settings(
            endpoints={kind: dict(by_name) for kind, by_name in named.items()},
            gate=gate,
            backup_stores=dict(backup_stores or {}),
        )
        self.now = now
        self.events = Recorded()
        self.bootstrap_timeout_s = bootstrap_timeout_s
        self.shutdown_timeout_s = shutdown_timeout_s
        self.provider: Any = self.build_provider()
        self._tasks: list[asyncio.Task[None]] = []
        self.controllers: Controllers | None = None
        self._wakes = 0

    async def start(self, client: KubeClient | None = None) -> None:
        """Start the controllers, through `client` if one is given (a faulty one)."""
        self.provider = self.build_provider()
        self.controllers = parts = Controllers(
            client or self.api,
            OneProvider(self.provider, self.settings),
            self.events,
            bootstrap_timeout_s=self.bootstrap_timeout_s,
            shutdown_timeout_s=self.shutdown_timeout_s,
            nesting=NestingSettings(server="https://198.18.0.1:6443"),
            gate=self.settings.gate,
            backup_stores=self.settings.backup_stores,
            now=lambda: self.now() + self.shift,
        )
        runs = (parts.clusters.run(), parts.machines.run())
        self._tasks = [asyncio.create_task(run) for run in runs]
        await asyncio.gather(parts.clusters.wait_synced(), parts.machines.wait_synced())
        more = (parts.cluster_controller.run(), parts.machine_controller.run(), parts.hold())
        self._tasks += [asyncio.create_task(run) for run in more]

    def build_provider(self) -> Any:
        """The provider of the controllers that start now; what it made before is in the world."""
        return MemoryProvider(self.endpoint, world=self.world)

    async def nest(self, name: str = "c1", **nesting: Any) -> None:
        """Create a cluster that may have clusters, and do what real API servers and kubelets do for it.

        That is: publish this API's CA in the namespace of its claims, and run the Deployment in the child.
        """
        cluster = await self.create(name, nesting={"enabled": True, **nesting})
        namespace = claims_namespace(name, cluster["metadata"]["uid"])
        root_ca = {"metadata": {"name": "kube-root-ca.crt", "namespace": namespace}, "data": {"ca.crt": "the CA"}}
        await self.user.create(CONFIG_MAP, root_ca)

        async def is_installed() -> bool:
            api = self.find_api(cluster["metadata"]["uid"])
            found = None if api is None else await api.get(DEPLOYMENT, names.CONTROLLER, names.SYSTEM_NAMESPACE)
            if found is None or api is None:
                return False
            where = {"name": names.CONTROLLER, "namespace": names.SYSTEM_NAMESPACE}
            status = {"metadata": where, "status": {"availableReplicas": 1}}
            await api.as_manager("kubelet").apply(DEPLOYMENT, status, subresource="status")
            return True

        await self.until(is_installed)
        await self.ready(name)

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:
        """The API of a cluster of this scenario, as its controllers see it."""
        child: KubeClient = await self.provider.open_child(ref, kubeconfig)
        return child

    def find_api(self, uid: str) -> MemoryKubeClient | None:
        """The simulated API of the cluster with that UID; None before there is one."""
        cluster = self.world.clusters.get(uid)
        return None if cluster is None else cluster.api

    def api_of(self, uid: str) -> MemoryKubeClient:
        """The simulated API of the cluster with that UID."""
        found = self.find_api(uid)
        assert found is not None
        return found

    def advance(self, seconds: float) -> None:
        """Let time pass for the controllers, and their timers for clusters with it."""
        self.shift += timedelta(seconds=seconds)
        assert self.controllers is not None
        for cluster in self.world.clusters.values():
            self.controllers._wake_ref(cluster.ref)

    async def kill(self) -> None:
        """Stop the controllers wherever they are; the guests go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.controllers = None

    async def restart(self) -> None:
        """Kill, then start with an empty memory."""
        await self.kill()
        await self.start()

    async def until(self, predicate: Callable[[], Any], *, limit_s: float = LIMIT_S) -> None:
        """Wait until `predicate()` (which may be a coroutine function) is true; fail with what there is."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while True:
            result = predicate()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(await self.describe())
            await asyncio.sleep(0.01)

    async def settle(self) -> None:
        """Wait until the queues are empty and stay so for a moment."""
        calm = 0

        def is_calm() -> bool:
            nonlocal calm
            parts = self.controllers
            idle = parts is not None and parts.cluster_controller.queue.idle and parts.machine_controller.queue.idle
            calm = calm + 1 if idle else 0
            return calm >= 10

        await self.until(is_calm)

    async def create(self, name: str = "c1", **spec: Any) -> dict[str, Any]:
        """Create a NestedCluster on the memory endpoint; `spec` adds to the smallest one."""
        if await self.api.get(NAMESPACE, NAMESPACE_NAME) is None:
            await self.user.create(NAMESPACE, {"metadata": {"name": NAMESPACE_NAME}})
        body = {"version": "v1.37.2", "infrastructure": {"kind": "memory"}} | spec
        obj = {
            "apiVersion": names.API_VERSION,
            "kind": "NestedCluster",
            "metadata": {"name": name, "namespace": NAMESPACE_NAME},
            "spec": body,
        }
        return await self.user.create(NESTED_CLUSTER, obj)

    def key(self, name: str = "c1") -> Key:
        """The cluster's key in the controllers' queue."""
        return Key(NAMESPACE_NAME, name)

    async def wake(self, name: str = "c1") -> None:
        """Have the cluster reconciled now, as an edit of its annotations does, and wait until all is calm."""
        self._wakes += 1
        annotations = {"test/wake": str(self._wakes)}
        await self.user.merge_patch(NESTED_CLUSTER, name, NAMESPACE_NAME, {"metadata": {"annotations": annotations}})
        await self.settle()

    async def patch(self, name: str, spec: dict[str, Any]) -> None:
        await self.user.merge_patch(NESTED_CLUSTER, name, NAMESPACE_NAME, {"spec": spec})

    async def delete(self, name: str = "c1") -> None:
        await self.user.delete(NESTED_CLUSTER, name, NAMESPACE_NAME)

    async def cluster(self, name: str = "c1") -> dict[str, Any] | None:
        return await self.api.get(NESTED_CLUSTER, name, NAMESPACE_NAME)

    async def machine(self, name: str) -> dict[str, Any] | None:
        return await self.api.get(NESTED_MACHINE, name, NAMESPACE_NAME)

    async def secret(self, name: str) -> dict[str, Any] | None:
        return await self.api.get(SECRET, name, NAMESPACE_NAME)

    async def machine_ref(self, name: str) -> MachineRef:
        found = await self.machine(name)
        assert found is not None
        cluster = await self.cluster(found["spec"]["clusterName"])
        assert cluster is not None
        ref = ClusterRef(NAMESPACE_NAME, cluster["metadata"]["name"], cluster["metadata"]["uid"])
        return MachineRef(ref, name, found["metadata"]["uid"])

    async def condition(self, name: str, kind: str, *, of: str = "cluster") -> dict[str, Any]:
        """The condition of a cluster or machine; empty when it is not there."""
        obj = await (self.cluster(name) if of == "cluster" else self.machine(name))
        conditions = (obj or {}).get("status", {}).get("conditions", [])
        return next((entry for entry in conditions if entry["type"] == kind), {})

    async def ready(self, name: str = "c1") -> None:
        """Wait until the cluster is Ready and nothing moves any more."""

        async def is_ready() -> bool:
            return (await self.condition(name, "Ready")).get("status") == "True"

        await self.until(is_ready)
        await self.settle()

    async def gone(self, name: str = "c1") -> None:
        """Wait until the cluster, its machines and its VMs are gone."""

        async def is_gone() -> bool:
            left = await self.api.list(NESTED_MACHINE, label_selector=f"{names.LABEL_CLUSTER}={name}")
            return await self.cluster(name) is None and not left.items

        await self.until(is_gone)

    async def gone_but(self, kept: str) -> None:
        """Wait until the cluster is gone; a machine of that name is not ours."""
        cluster = "c1"

        async def is_gone() -> bool:
            return await self.cluster(cluster) is None

        await self.until(is_gone)
        assert kept not in {vm.ref.name for vm in self.world.machines.values()}

    async def leaks(self) -> list[str]:
        """What is left of clusters that do not exist (invariant S2)."""
        clusters = {obj["metadata"]["uid"] for obj in (await self.api.list(NESTED_CLUSTER)).items}
        machines = {obj["metadata"]["uid"] for obj in (await self.api.list(NESTED_MACHINE)).items}
        found = [f"network {uid}" for uid in self.world.clusters if uid not in clusters]
        found += [f"VM {vm.ref.name}" for uid, vm in self.world.machines.items() if uid not in machines]
        for secret in (await self.api.list(SECRET)).items:
            owners = {owner["uid"] for owner in secret["metadata"].get("ownerReferences", ())}
            if owners and not owners & (clusters | machines):
                found.append(f"Secret {secret['metadata']['name']}")
        return found

    async def describe(self) -> str:
        """Everything that a failing test's reader wants to see."""
        lines = ["the condition waited for did not come; what there is:"]
        for resource in (NESTED_CLUSTER, NESTED_MACHINE):
            for obj in (await self.api.list(resource)).items:
                lines.append(f"{resource.kind} {obj['metadata']['name']} {obj.get('status', {}).get('phase')}")
                lines += [
                    f"    {entry['type']}={entry['status']} {entry['reason']}: {entry.get('message')}"
                    for entry in obj.get("status", {}).get("conditions", [])
                ]
        return "\n".join(lines)


@asynccontextmanager
async def running_scenario(
    endpoint: MemoryEndpoint | None = None, *, bootstrap_timeout_s: float = 1800.0
) -> AsyncIterator[Scenario]:
    """A started scenario; whatever the test did, its end leaks nothing."""
    scenario = Scenario(endpoint, bootstrap_timeout_s=bootstrap_timeout_s)
    await scenario.start()
    try:
        yield scenario
        if scenario.controllers is not None:
            assert await scenario.leaks() == []
    finally:
        await scenario.kill()
        await scenario.provider.close()
