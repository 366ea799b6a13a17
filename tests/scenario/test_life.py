"""Create, settle, pause, scale, delete: the whole of it over doubles, each step's writes counted."""

from __future__ import annotations

import pytest

from capn.api.resources import NESTED_MACHINE, NODE, SECRET
from capn.errors import UnreachableError
from capn.kube.client import KubeClient
from capn.providers.base import ClusterRef, MachineState
from capn.providers.memory import MemoryProvider
from capn.settings import MemoryEndpoint
from tests.harness.faults import Fault, FaultyKubeClient
from tests.harness.pools import child_of
from tests.harness.scenario import NAMESPACE_NAME, Scenario, running_scenario

ONE_WORKER = [{"name": "md", "replicas": 1}]


async def test_cluster_becomes_ready_with_all_secrets_and_nodes(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    cluster = await scenario.cluster()
    assert cluster is not None
    status = cluster["status"]
    assert status["phase"] == "Ready"
    assert status["machines"] == {"desired": 2, "created": 2, "ready": 2}
    assert status["version"] == "v1.37.2"
    assert status["observedGeneration"] == cluster["metadata"]["generation"]
    false = [entry["type"] for entry in status["conditions"] if entry["status"] != "True"]
    assert sorted(false) == ["Paused", "Reconciling", "Stalled"]
    for suffix in ("ca", "etcd", "proxy", "sa", "kubeconfig"):
        secret = await scenario.secret(f"c1-{suffix}")
        assert secret is not None
        assert secret["type"] == "cluster.x-k8s.io/secret"
    child = scenario.world.clusters[cluster["metadata"]["uid"]].api
    nodes = {node["metadata"]["name"]: node for node in (await child.list(NODE)).items}
    assert sorted(nodes) == ["c1-cp-0", "c1-md-0"]
    machine = await scenario.machine("c1-md-0")
    assert machine is not None
    assert nodes["c1-md-0"]["spec"]["providerID"] == machine["status"]["providerID"]
    assert "node-role.kubernetes.io/worker" in nodes["c1-md-0"]["metadata"]["labels"]


async def test_settled_cluster_makes_no_writes_not_even_after_a_restart(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    before = scenario.api.writes
    await scenario.settle()
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == before


async def test_bootstrap_secrets_are_taken_back_after_the_join(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    assert all(vm.seed is None for vm in scenario.world.machines.values())
    cluster = await scenario.cluster()
    assert cluster is not None
    child = scenario.world.clusters[cluster["metadata"]["uid"]].api
    tokens = [
        secret["metadata"]["name"]
        for secret in (await child.list(SECRET, namespace="kube-system")).items
        if secret["metadata"]["name"].startswith("bootstrap-token-")
    ]
    assert tokens == []


async def test_delete_leaves_nothing(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    await scenario.delete()
    await scenario.gone()
    assert scenario.world.machines == {}
    assert scenario.world.clusters == {}
    assert (await scenario.api.list(SECRET)).items == []


async def test_delete_works_while_the_hypervisor_was_down_for_a_while(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    scenario.provider.set_down(True)
    await scenario.delete()

    async def says_why() -> bool:
        return (await scenario.condition("c1-md-0", "Deleting", of="machine")).get("reason") == "HypervisorUnreachable"

    await scenario.until(says_why)
    scenario.provider.set_down(False)
    await scenario.gone()


async def test_a_machine_of_a_cluster_that_is_going_does_not_ask_the_child(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    await scenario.kill()
    await scenario.delete()
    asked = []

    async def open_child(_: MemoryProvider, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:
        asked.append((ref.name, len(kubeconfig)))
        raise UnreachableError("the child's API server does not answer")

    monkeypatch.setattr(MemoryProvider, "open_child", open_child)
    # The moment between the cluster's deletion and its machines' is made to last.
    refuse = Fault("unreachable", lambda call: (call.verb, call.resource) == ("delete", NESTED_MACHINE), times=1000)
    held = FaultyKubeClient(scenario.api, [refuse])
    await scenario.start(held)
    await scenario.until(lambda: held.calls)
    await scenario.settle()
    machines = (await scenario.api.list(NESTED_MACHINE)).items
    assert ["deletionTimestamp" in machine["metadata"] for machine in machines] == [False, False]
    await scenario.restart()
    await scenario.gone()
    assert asked == []


async def test_delete_works_without_secrets(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    for secret in (await scenario.api.list(SECRET)).items:
        await scenario.user.delete(SECRET, secret["metadata"]["name"], NAMESPACE_NAME)
    await scenario.delete()
    await scenario.gone()


async def test_delete_in_mid_boot(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.until(lambda: scenario.world.machines)
    await scenario.delete()
    await scenario.gone()


async def test_pause_stops_writes_and_says_so(scenario: Scenario) -> None:
    await scenario.create(paused=True)

    async def is_paused() -> bool:
        return (await scenario.condition("c1", "Paused")).get("status") == "True"

    await scenario.until(is_paused)
    await scenario.settle()
    assert scenario.world.machines == {}
    assert await scenario.secret("c1-ca") is None
    await scenario.patch("c1", {"paused": False})
    await scenario.ready()
    assert (await scenario.condition("c1", "Paused"))["status"] == "False"


async def test_workers_scale_up_and_down_and_their_nodes_go(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    await scenario.patch("c1", {"workers": [{"name": "md", "replicas": 3}]})

    async def has_workers(count: int) -> bool:
        cluster = await scenario.cluster()
        return cluster is not None and cluster["status"]["workers"] == {
            "desired": count,
            "created": count,
            "ready": count,
            "updated": count,
        }

    await scenario.until(lambda: has_workers(3))
    await scenario.patch("c1", {"workers": ONE_WORKER})
    await scenario.until(lambda: has_workers(1))
    cluster = await scenario.cluster()
    assert cluster is not None
    child = scenario.world.clusters[cluster["metadata"]["uid"]].api
    assert [node["metadata"]["name"] for node in (await child.list(NODE)).items] == ["c1-cp-0", "c1-md-0"]
    assert [vm.ref.name for vm in scenario.world.machines.values()] == ["c1-cp-0", "c1-md-0"]


async def test_three_control_planes_join_one_after_the_other(scenario: Scenario) -> None:
    await scenario.create(controlPlane={"replicas": 3})
    await scenario.ready()
    machines = (await scenario.api.list(NESTED_MACHINE)).items
    assert [machine["metadata"]["name"] for machine in machines] == ["c1-cp-0", "c1-cp-1", "c1-cp-2"]


async def test_stopped_machine_is_started_again_and_keeps_its_node(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    ref = await scenario.machine_ref("c1-md-0")
    scenario.provider.crash(ref, MachineState.STOPPED)
    await scenario.until(lambda: scenario.world.machines[ref.uid].state is MachineState.RUNNING)
    await scenario.ready()


async def test_worker_removed_behind_our_back_is_said_to_be_lost(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER, healthCheck={"enabled": False})
    await scenario.ready()
    scenario.provider.remove(await scenario.machine_ref("c1-md-0"))

    async def is_lost() -> bool:
        found = await scenario.condition("c1-md-0", "InfrastructureReady", of="machine")
        return found.get("reason") == "MachineLost"

    async def cluster_says_so() -> bool:
        return (await scenario.condition("c1", "Ready")).get("reason") == "MachineLost"

    await scenario.until(is_lost)
    await scenario.until(cluster_says_so)


async def test_machine_removed_in_mid_boot_is_made_again() -> None:
    async with running_scenario(MemoryEndpoint(boot_s=1.0)) as scenario:
        await scenario.create(workers=ONE_WORKER)
        await scenario.until(lambda: scenario.world.machines)
        uid, vm = next(iter(scenario.world.machines.items()))
        scenario.provider.remove(vm.ref)
        await scenario.until(lambda: uid in scenario.world.machines)
        await scenario.ready()


async def test_a_cluster_costs_no_write_that_tells_nothing(scenario: Scenario) -> None:
    """One control plane and one worker, by kind of write; `make bench` holds the real API server to the same."""
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    writes = scenario.api.requests
    assert writes["create", "secrets"] == 7
    assert writes["create", "nestedmachines"] == 2
    assert writes["patch", "nestedclusters"] == 1
    # What falls into one status depends on how events interleave; more would be a status that was stale at once.
    assert writes["apply", "nestedclusters/status"] <= 5
    assert writes["apply", "nestedmachines/status"] <= 6


async def test_a_network_that_comes_last_is_seen_at_once(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    kubelet = (await child_of(scenario)).as_manager("kubelet")

    async def say(lacks_network: str) -> None:
        """Nothing else of the node changes, and so nothing of its machine."""
        network = {"type": "NetworkUnavailable", "status": lacks_network, "reason": "Told"}
        conditions = [network, {"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        patch = {"metadata": {"name": "c1-md-0"}, "status": {"conditions": conditions}}
        await kubelet.apply(NODE, patch, subresource="status")

    async def says(status: str) -> bool:
        return (await scenario.condition("c1", "CNIReady")).get("status") == status

    await say("True")
    await scenario.until(lambda: says("False"))
    await say("False")
    await scenario.until(lambda: says("True"))
