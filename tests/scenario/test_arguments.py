"""Arguments of a control plane's components change: who is replaced, what kubeadm is told, what is mended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml

from capn import names
from capn.api.resources import CONFIG_MAP, NESTED_MACHINE, POD
from capn.kube.memory import MemoryKubeClient
from capn.settings import MemoryEndpoint
from tests.harness.pools import child_of
from tests.harness.scenario import NAMESPACE_NAME, Scenario, running_scenario

LIMIT_S = 60.0
SYSTEM = "kube-system"
BAD = {"apiServer": {"extraArgs": {"no-such-flag": "true"}}}


def with_verbosity(level: str, **more: Any) -> dict[str, Any]:
    return {"apiServer": {"extraArgs": {"v": level}}, **more}


async def planes(scenario: Scenario) -> dict[str, str]:
    """UIDs of the control planes' machines by their names."""
    items = (await scenario.api.list(NESTED_MACHINE, namespace=NAMESPACE_NAME)).items
    return {
        item["metadata"]["name"]: item["metadata"]["uid"]
        for item in items
        if item["spec"]["role"] == names.ROLE_CONTROL_PLANE
    }


async def record_of(child: MemoryKubeClient) -> dict[str, Any]:
    config = await child.get(CONFIG_MAP, "kubeadm-config", SYSTEM)
    assert config is not None
    found: dict[str, Any] = yaml.safe_load(config["data"]["ClusterConfiguration"])
    return found


async def flags_of(child: MemoryKubeClient, component: str = "kube-apiserver") -> list[set[str]]:
    """The command lines of that program on each node, as the child shows them."""
    pods = (await child.list(POD, namespace=SYSTEM, label_selector=f"component={component}")).items
    return [set(pod["spec"]["containers"][0]["command"]) for pod in pods]


async def all_new(scenario: Scenario, before: dict[str, str], replicas: int) -> None:
    """Wait until none of these is left and the cluster is Ready with so many."""

    async def is_done() -> bool:
        found = await planes(scenario)
        is_ready = (await scenario.condition("c1", "Ready")).get("status") == "True"
        return is_ready and len(found) == replicas and not set(found.values()) & set(before.values())

    await scenario.until(is_done, limit_s=LIMIT_S)
    await scenario.settle()


async def settled(scenario: Scenario, **control_plane: Any) -> MemoryKubeClient:
    """A cluster that is Ready with all its control planes; its child."""
    await scenario.create(controlPlane=control_plane)
    await all_new(scenario, {}, control_plane.get("replicas", 1))
    return await child_of(scenario)


@pytest.mark.parametrize("replicas", [1, 3])
async def test_a_change_of_arguments_replaces_all_control_planes_and_then_nothing_is_written(
    scenario: Scenario, replicas: int
) -> None:
    child = await settled(scenario, **with_verbosity("2", replicas=replicas))
    assert all("--v=2" in flags for flags in await flags_of(child))
    before = await planes(scenario)
    asked = {"v": None, "max-requests-inflight": "200"}
    changed = {"apiServer": {"extraArgs": asked}, "etcd": {"extraArgs": {"quota": "1"}}}
    await scenario.patch("c1", {"controlPlane": {"extraSANs": ["api.example.org"], **changed}})
    await all_new(scenario, before, replicas)
    found = await flags_of(child)
    assert len(found) == replicas
    assert all("--max-requests-inflight=200" in flags and "--v=2" not in flags for flags in found)
    assert all({"--quota=1", "--heartbeat-interval=500"} <= flags for flags in await flags_of(child, "etcd"))
    assert "api.example.org" in (await record_of(child))["apiServer"]["certSANs"]
    told = [line for line in scenario.events.lines if line[2] == "ArgumentsRecorded"]
    assert len(told) == 1
    revision = scenario.api.store.revision, child.store.revision
    await scenario.restart()
    await scenario.settle()
    assert (scenario.api.store.revision, child.store.revision) == revision


async def test_what_else_people_have_put_into_kubeadms_record_stays(scenario: Scenario) -> None:
    child = await settled(scenario, **with_verbosity("2"))
    record = await record_of(child)
    volume = {"name": "audit", "hostPath": "/a", "mountPath": "/a"}
    record["apiServer"]["extraVolumes"] = [volume]
    record["imageRepository"] = "registry.example.org"
    data = {"data": {"ClusterConfiguration": yaml.safe_dump(record)}}
    await child.merge_patch(CONFIG_MAP, "kubeadm-config", SYSTEM, data)
    before = await planes(scenario)
    await scenario.patch("c1", {"controlPlane": with_verbosity("4")})
    await all_new(scenario, before, 1)
    after = await record_of(child)
    assert after["apiServer"]["extraVolumes"] == [volume]
    assert after["imageRepository"] == "registry.example.org"
    assert {"name": "v", "value": "4"} in after["apiServer"]["extraArgs"]


async def test_the_order_of_names_in_the_certificate_changes_nothing(scenario: Scenario) -> None:
    await settled(scenario, extraSANs=["a.example.org", "b.example.org"])
    before = await planes(scenario)
    await scenario.patch("c1", {"controlPlane": {"extraSANs": ["b.example.org", "a.example.org"]}})
    await scenario.settle()
    assert await planes(scenario) == before


async def test_one_that_cannot_join_with_the_new_arguments_is_given_up_when_they_are_corrected(
    scenario: Scenario,
) -> None:
    child = await settled(scenario, replicas=3)
    before = await planes(scenario)
    scenario.provider.fail_bootstrap("c1-cp-3", "error: unknown flag: --no-such-flag\n", stage="kubeadm/join")
    await scenario.patch("c1", {"controlPlane": BAD, "healthCheck": {"maxRetries": 0}})

    async def is_said() -> bool:
        said = await scenario.condition("c1", "ControlPlaneReady")
        return "c1-cp-3" in said["message"] and "InvalidArgument" in said["message"]

    await scenario.until(is_said, limit_s=LIMIT_S)
    assert before.items() <= (await planes(scenario)).items()  # nobody left for it
    await scenario.patch("c1", {"controlPlane": {"apiServer": None}})

    async def is_as_before() -> bool:
        is_ready = (await scenario.condition("c1", "ControlPlaneReady")).get("status") == "True"
        return is_ready and await planes(scenario) == before

    await scenario.until(is_as_before, limit_s=LIMIT_S)
    scenario.world.failures.clear()
    await scenario.patch("c1", {"controlPlane": {"replicas": 5}})
    await all_new(scenario, {}, 5)
    assert all("--no-such-flag=true" not in flags for flags in await flags_of(child))


async def test_the_first_one_is_made_again_when_what_it_failed_with_is_corrected(scenario: Scenario) -> None:
    scenario.provider.fail_bootstrap("c1-cp-0", "error: unknown flag: --no-such-flag\n")
    await scenario.create(controlPlane=BAD)

    async def has_failed() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("status") == "True"

    await scenario.until(has_failed)
    await scenario.settle()
    before = await planes(scenario)
    await scenario.patch("c1", {"drain": {"timeoutSeconds": 60}})  # which mends nothing
    await scenario.settle()
    assert await planes(scenario) == before
    scenario.world.failures.clear()
    await scenario.patch("c1", {"controlPlane": {"apiServer": {"extraArgs": {"no-such-flag": None, "v": "4"}}}})
    await all_new(scenario, before, 1)
    assert all("--v=4" in flags for flags in await flags_of(await child_of(scenario)))


async def test_the_first_one_is_made_again_when_its_image_was_not_there_and_another_version_is_asked_for() -> None:
    async with running_scenario(MemoryEndpoint(versions=("v1.37.2",))) as scenario:
        await scenario.create(version="v1.36.3")

        async def is_missed() -> bool:
            machine = await scenario.machine("c1-cp-0")
            return bool((machine or {}).get("status", {}).get("failureReason") == "ImageNotFound")

        await scenario.until(is_missed)
        before = await planes(scenario)
        await scenario.patch("c1", {"version": "v1.37.2"})
        await all_new(scenario, before, 1)


async def test_one_that_boots_with_what_is_not_wanted_any_more_is_not_thrown_away() -> None:
    """It may have made a cluster by the time that it is looked at; then it is replaced as any other one."""
    async with running_scenario(MemoryEndpoint(boot_s=1.0)) as scenario:
        await scenario.create(controlPlane=with_verbosity("2"))

        async def boots() -> bool:
            return (await scenario.condition("c1-cp-0", "BootstrapSucceeded", of="machine")).get("status") == "False"

        await scenario.until(boots)
        before = await planes(scenario)
        await scenario.patch("c1", {"controlPlane": with_verbosity("4")})

        async def is_initialized() -> bool:
            return (await scenario.condition("c1", "ControlPlaneInitialized")).get("status") == "True"

        await scenario.until(is_initialized, limit_s=LIMIT_S)
        assert before.items() <= (await planes(scenario)).items()
        await all_new(scenario, before, 1)
        assert all("--v=4" in flags for flags in await flags_of(await child_of(scenario)))


async def test_a_control_plane_of_an_earlier_release_is_not_replaced_for_its_arguments(scenario: Scenario) -> None:
    child = await settled(scenario, **with_verbosity("2"))
    before = await planes(scenario)
    await scenario.api.merge_patch(NESTED_MACHINE, "c1-cp-0", NAMESPACE_NAME, {"spec": {"kubeadm": None}})
    await scenario.patch("c1", {"controlPlane": with_verbosity("4")})
    await scenario.settle()
    assert await planes(scenario) == before
    await scenario.patch("c1", {"controlPlane": {"replicas": 3}})
    await all_new(scenario, {}, 3)
    assert sorted("--v=4" in flags for flags in await flags_of(child)) == [False, True, True]


async def test_a_controller_that_dies_in_the_middle_of_it_goes_on() -> None:
    async with running_scenario() as scenario:
        child = await settled(scenario, replicas=3)
        before = await planes(scenario)
        await scenario.patch("c1", {"controlPlane": with_verbosity("4")})
        for _again in range(8):
            await asyncio.sleep(0.05)
            await scenario.restart()
        await all_new(scenario, before, 3)
        assert all("--v=4" in flags for flags in await flags_of(child))
