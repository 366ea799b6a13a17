"""What tests of upgrades ask of a scenario, and what they wait for."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.resources import CONFIG_MAP, NESTED_MACHINE
from capn.build.kubeadm_record import read_version
from capn.controllers.cluster import control_planes, preflight, upgrade
from capn.kube.memory import MemoryKubeClient
from capn.providers.memory_etcd import SimulatedEtcd
from tests.harness.pools import child_of
from tests.harness.scenario import NAMESPACE_NAME, Scenario

OLD, NEW, PATCH = "v1.36.3", "v1.37.2", "v1.36.4"
NEWER = "v1.37.3"
LIMIT_S = 60.0
SYSTEM = "kube-system"
KEPT: dict[str, Any] = {"healthCheck": {"enabled": False}}


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is tested depends on how often is looked."""
    for module in (upgrade, control_planes):
        monkeypatch.setattr(module, "POLL_S", 0.05)
    monkeypatch.setattr(preflight, "POLL_S", 0.1)
    monkeypatch.setattr(upgrade, "IMAGE_POLL_S", 0.1)


async def machines(scenario: Scenario, role: str) -> list[dict[str, Any]]:
    items = (await scenario.api.list(NESTED_MACHINE, namespace=NAMESPACE_NAME)).items
    return [item for item in items if item["spec"]["role"] == role]


async def versions(scenario: Scenario) -> set[str]:
    items = (await scenario.api.list(NESTED_MACHINE, namespace=NAMESPACE_NAME)).items
    return {item["spec"]["version"] for item in items}


async def etcd_of(scenario: Scenario) -> SimulatedEtcd:
    cluster = await scenario.cluster()
    assert cluster is not None
    return scenario.world.clusters[cluster["metadata"]["uid"]].etcd


async def recorded(child: MemoryKubeClient) -> str | None:
    config = await child.get(CONFIG_MAP, "kubeadm-config", SYSTEM)
    assert config is not None
    return read_version(config)


async def create(scenario: Scenario, *, replicas: int = 1, workers: int = 0, **spec: Any) -> MemoryKubeClient:
    """A Ready cluster of the old version; its child's API."""
    pools = [{"name": "md", "replicas": workers}] if workers else []
    await scenario.create(version=OLD, controlPlane={"replicas": replicas}, workers=pools, **KEPT, **spec)
    await has_settled(scenario, OLD)
    return await child_of(scenario)


async def has_settled(scenario: Scenario, version: str) -> None:
    """Wait until the cluster is Ready in that version, by its own word, and nothing moves."""

    async def is_there() -> bool:
        cluster = await scenario.cluster()
        ready = (await scenario.condition("c1", "Ready")).get("status") == "True"
        said = (cluster or {}).get("status", {}).get("version")
        return ready and said == version and await versions(scenario) == {version}

    await scenario.until(is_there, limit_s=LIMIT_S)
    await scenario.settle()


async def says(scenario: Scenario, reason: str, words: str = "", kind: str = "Upgraded") -> None:
    """Wait for the condition's reason and words."""

    async def is_said() -> bool:
        found = await scenario.condition("c1", kind)
        return found.get("reason") == reason and words in found.get("message", "")

    await scenario.until(is_said, limit_s=LIMIT_S)


async def has_failed(scenario: Scenario, name: str) -> None:
    """Wait until a machine has failed."""

    async def is_told() -> bool:
        found = await scenario.machine(name)
        return bool(found and found.get("status", {}).get("failureReason"))

    await scenario.until(is_told, limit_s=LIMIT_S)
