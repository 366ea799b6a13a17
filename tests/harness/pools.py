"""What tests of worker pools ask of a scenario and do to its nodes."""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.resources import NESTED_MACHINE, NODE
from capn.kube.memory import MemoryKubeClient
from tests.harness.scenario import NAMESPACE_NAME, Scenario

Json = dict[str, Any]


async def child_of(scenario: Scenario, name: str = "c1") -> MemoryKubeClient:
    """The child's API."""
    cluster = await scenario.cluster(name)
    assert cluster is not None
    return scenario.api_of(cluster["metadata"]["uid"])


async def node_of(scenario: Scenario, name: str) -> Json:
    found = await (await child_of(scenario)).get(NODE, name)
    assert found is not None
    return found


async def workers_of(scenario: Scenario) -> list[Json]:
    """The workers, by name."""
    listed = await scenario.api.list(NESTED_MACHINE, namespace=NAMESPACE_NAME)
    return [machine for machine in listed.items if machine["spec"]["role"] == names.ROLE_WORKER]


async def worker_names(scenario: Scenario) -> list[str]:
    return [machine["metadata"]["name"] for machine in await workers_of(scenario)]


async def set_node_ready(scenario: Scenario, name: str, status: str) -> None:
    """Let the node say that it is Ready, or not; flannel's word stays as it is."""
    condition = {"type": "Ready", "status": status, "reason": "Told", "message": "by the test"}
    network = {"type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp"}
    kubelet = (await child_of(scenario)).as_manager("kubelet")
    patch = {"metadata": {"name": name}, "status": {"conditions": [network, condition]}}
    await kubelet.apply(NODE, patch, subresource="status")


async def workers_say(scenario: Scenario, reason: str) -> Json:
    """Wait until WorkersReady has that reason; the condition."""
    found: Json = {}

    async def says() -> bool:
        nonlocal found
        found = await scenario.condition("c1", "WorkersReady")
        return found.get("reason") == reason

    await scenario.until(says)
    return found


async def all_are(scenario: Scenario, pool: Json, *, count: int) -> bool:
    """Whether the cluster is Ready with so many workers, and each has the size that the pool says."""
    workers = await workers_of(scenario)
    sizes = {machine["spec"]["machine"]["cpus"] for machine in workers}
    settled = (await scenario.condition("c1", "WorkersReady")).get("status") == "True"
    return settled and len(workers) == count and sizes == {pool["machine"]["cpus"]}


def build_pool(replicas: int = 3, cpus: int = 2, **fields: Any) -> Json:
    return {"name": "md", "replicas": replicas, "machine": {"cpus": cpus}, **fields}
