"""Clusters over failure domains: how machines are spread, and what happens when a domain is down, full, new or gone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from capn.api.resources import NESTED_MACHINE
from capn.build.nesting import claims_namespace
from capn.providers.base import FailureDomain
from capn.settings import MemoryEndpoint
from tests.contract.provider_rigs import ParentRig, cluster_ref, cluster_request, worker
from tests.contract.test_provider import network, running
from tests.harness.failure_domains import THREE, WHOLE, DomainScenario, running_domains
from tests.harness.faults import Call, Fault, FaultyKubeClient
from tests.harness.pools import build_pool, node_of
from tests.harness.scenario import NAMESPACE_NAME

ZONE = "topology.kubernetes.io/zone"
SILENT = "the hypervisor does not answer"
# One machine of the usual size has room, a second has not.
SMALL = MemoryEndpoint(memory_mib=4096)
ON_B = {"failureDomains": ["b"]}


async def test_control_planes_and_pools_are_spread_and_stay_even() -> None:
    async with running_domains(THREE) as scenario:
        await scenario.create(controlPlane={"replicas": 3}, workers=[build_pool(3), {"name": "x", "replicas": 2}])
        assert await scenario.grown(3, None) == {"a": 1, "b": 1, "c": 1}
        assert await scenario.grown(3) == {"a": 1, "b": 1, "c": 1}
        assert sorted((await scenario.spread("x")).values()) == [1, 1]
        for name, domain in {**await scenario.places(), **await scenario.places(None)}.items():
            assert (await node_of(scenario, name))["metadata"]["labels"][ZONE] == domain
        rows = await scenario.rows()
        assert list(rows) == ["a", "b", "c"]
        assert sorted((row["machines"], row["ready"]) for row in rows.values()) == [(2, 2), (3, 3), (3, 3)]
        assert all(row["available"] for row in rows.values())
        await scenario.patch("c1", {"workers": [build_pool(6)]})
        assert await scenario.grown(6) == {"a": 2, "b": 2, "c": 2}
        await scenario.patch("c1", {"workers": [build_pool(3)]})
        assert await scenario.grown(3) == {"a": 1, "b": 1, "c": 1}
        await scenario.patch("c1", {"controlPlane": {"replicas": 1}})
        await scenario.grown(1, None)
        # Nothing is written once all is as it shall be, after a restart either.
        before = scenario.api.writes
        await scenario.restart()
        await scenario.settle()
        assert scenario.api.writes == before


async def test_machines_are_where_the_spec_lets_them_be_and_follow_it() -> None:
    async with running_domains(THREE) as scenario:
        pool = build_pool(2, failureDomains=["c", "b"])
        await scenario.create(controlPlane={"failureDomains": ["b"]}, workers=[pool])
        assert await scenario.grown(2) == {"b": 1, "c": 1}
        assert await scenario.places(None) == {"c1-cp-0": "b"}
        await scenario.patch("c1", {"workers": [pool | {"failureDomains": ["a"]}]})

        async def has_moved() -> bool:
            return await scenario.spread() == {"a": 2}

        await scenario.until(has_moved)
        await scenario.ready()
        await scenario.patch("c1", {"controlPlane": {"failureDomains": ["a", "c"]}})

        async def is_replaced() -> bool:
            return set((await scenario.places(None)).values()) <= {"a", "c"}

        await scenario.until(is_replaced)
        await scenario.grown(1, None)


async def test_a_domain_that_is_down_gets_no_machines_and_loses_none() -> None:
    async with running_domains(THREE) as scenario:
        await scenario.create(controlPlane=ON_B, workers=[build_pool(3)])
        assert await scenario.grown(3) == {"a": 1, "b": 1, "c": 1}
        before = await scenario.places()
        scenario.set_down("a")
        await scenario.patch("c1", {"workers": [build_pool(5)]})

        async def has_grown() -> bool:
            return await scenario.spread() == {"a": 1, "b": 2, "c": 2}

        await scenario.until(has_grown)
        await scenario.settle()
        row = (await scenario.rows())["a"]
        assert (row["machines"], row["available"], row["message"]) == (1, False, SILENT)
        assert (await scenario.places()).items() >= before.items()
        # A controller that starts meanwhile takes no machine for gone.
        await scenario.restart()
        await scenario.settle()
        assert await has_grown()
        scenario.set_down()
        await scenario.wake()
        assert await scenario.grown(5) == {"a": 1, "b": 2, "c": 2}  # nothing is moved for the sake of the spread
        await scenario.patch("c1", {"workers": [build_pool(6)]})
        assert await scenario.grown(6) == {"a": 2, "b": 2, "c": 2}


async def test_without_a_domain_that_answers_the_pool_waits_and_says_so() -> None:
    async with running_domains(THREE) as scenario:
        await scenario.create(controlPlane=ON_B)
        await scenario.ready()
        scenario.set_down("a", "c")
        await scenario.patch("c1", {"workers": [build_pool(2, failureDomains=["a", "c"])]})
        said = await scenario.says("WorkersReady", "HypervisorUnreachable")
        assert said["message"] == f"failure domain a: {SILENT}; failure domain c: {SILENT}"
        await scenario.settle()
        assert await scenario.places() == {}
        scenario.set_down()
        await scenario.wake()
        assert await scenario.grown(2) == {"a": 1, "c": 1}


async def test_a_full_domain_is_left_out_and_what_each_lacks_is_said() -> None:
    async with running_domains(THREE, a=SMALL, c=SMALL) as scenario:
        await scenario.create(controlPlane=ON_B, workers=[build_pool(6)])
        assert await scenario.grown(6) == {"a": 1, "b": 4, "c": 1}
        small = {"name": "x", "replicas": 1, "failureDomains": ["a", "c"]}
        await scenario.patch("c1", {"workers": [build_pool(6), small]})
        said = await scenario.says("WorkersReady", "InsufficientMemory")
        assert "failure domain a: spec.machine.memory: the machine needs 2560 MiB" in said["message"]
        assert "failure domain c: " in said["message"]
        assert await scenario.places("x") == {}
        stalled = await scenario.condition("c1", "Stalled")
        assert stalled["status"] == "False"  # it goes on by itself when there is room
        await scenario.patch("c1", {"workers": [build_pool(0), small]})
        await scenario.until(partial(_has, scenario, "x", 1))
        await scenario.ready()


async def _has(scenario: DomainScenario, pool: str, count: int) -> bool:
    return len(await scenario.places(pool)) == count


async def test_the_first_control_plane_waits_for_a_domain_too() -> None:
    async with running_domains(THREE, a=MemoryEndpoint(memory_mib=64)) as scenario:
        await scenario.create(controlPlane={"failureDomains": ["a"]})
        said = await scenario.says("ControlPlaneReady", "InsufficientMemory")
        assert said["message"].startswith("failure domain a: ")
        await scenario.patch("c1", {"controlPlane": ON_B})
        assert await scenario.grown(1, None) == {"b": 1}


@pytest.mark.parametrize("kind", ["crash_before", "crash_after", "lost_ack"])
async def test_a_controller_that_dies_at_the_create_makes_no_machine_twice(kind: Any) -> None:
    async with running_domains(THREE) as scenario:
        await scenario.create(workers=[build_pool(0)])
        await scenario.ready()
        await scenario.kill()
        made = lambda call: (call.verb, call.resource) == ("create", NESTED_MACHINE)  # noqa: E731 - a predicate
        faulty = FaultyKubeClient(scenario.api, [Fault(kind, made)])
        await scenario.start(faulty)
        await scenario.patch("c1", {"workers": [build_pool(3)]})
        await scenario.until(lambda: any(map(_is_create, faulty.calls)))
        await scenario.restart()
        # cp-0 is in a: of those that are alike, the domain with the fewest machines of the cluster is first.
        assert await scenario.grown(3) == {"a": 1, "b": 1, "c": 1}
        assert await scenario.places() == {"c1-md-0": "b", "c1-md-1": "c", "c1-md-2": "a"}
        assert len(scenario.world.machines) == 4


def _is_create(call: Call) -> bool:
    return (call.verb, call.resource) == ("create", NESTED_MACHINE)


async def test_machines_of_before_there_were_domains_stay_what_they_are() -> None:
    async with running_domains(WHOLE) as scenario:
        await scenario.create(workers=[build_pool(2)])
        assert await scenario.grown(2) == {"": 2}
        assert await scenario.rows() == {}
        vms = set(scenario.world.machines)
        await scenario.divide({"b": "b", "a": "a"})
        await scenario.ready()
        assert set(scenario.world.machines) == vms
        assert await scenario.spread() == {"": 2}
        scenario.set_down("b")  # where they are can still be found
        await scenario.wake()
        await scenario.ready()
        scenario.set_down()
        await scenario.patch("c1", {"workers": [build_pool(4)]})
        assert await scenario.grown(4) == {"": 2, "a": 1, "b": 1}
        await scenario.delete()
        await scenario.gone()


async def test_a_cluster_is_deleted_up_to_the_domain_that_is_down() -> None:
    async with running_domains(THREE) as scenario:
        await scenario.create(controlPlane=ON_B, workers=[build_pool(3)])
        await scenario.grown(3)
        scenario.set_down("c")
        await scenario.delete()
        await scenario.says("Deleting", "HypervisorUnreachable", of="c1-md-1")

        async def is_left() -> bool:
            return await scenario.places() == {"c1-md-1": "c"} and await scenario.places(None) == {}

        await scenario.until(is_left)
        assert [machine.host for machine in scenario.world.machines.values()] == ["c"]
        scenario.set_down()
        await scenario.gone()
        await scenario.until(lambda: not scenario.world.clusters)


async def test_a_name_that_does_not_exist_waits_and_moves_nobody() -> None:
    async with running_domains(THREE) as scenario:
        rollout = {"maxSurge": 0, "maxUnavailable": 1}
        await scenario.create(controlPlane=ON_B, workers=[build_pool(2, failureDomains=["a"], rollout=rollout)])
        assert await scenario.grown(2) == {"a": 2}
        wrong = build_pool(2, failureDomains=["a", "rack-1", "rack-2"], rollout=rollout)
        await scenario.patch("c1", {"workers": [wrong | {"failureDomains": ["rack-1", "rack-2"]}]})
        said = await scenario.says("WorkersReady", "DomainNotFound")
        known = "the endpoint has no rack-1, rack-2; its failure domains: a, b, c"
        assert said["message"] == f"spec.workers[md].failureDomains: {known}"
        await scenario.settle()
        assert await scenario.spread() == {"a": 2}
        await scenario.patch("c1", {"workers": [wrong | {"replicas": 3}], "controlPlane": {"failureDomains": ["x"]}})
        assert (
            "spec.controlPlane.failureDomains"
            in (await scenario.says("ControlPlaneReady", "DomainNotFound"))["message"]
        )
        await scenario.settle()
        assert await scenario.spread() == {"a": 2}
        right = build_pool(3, failureDomains=["a", "c"], rollout=rollout)
        await scenario.patch("c1", {"workers": [right], "controlPlane": ON_B})
        assert await scenario.grown(3) == {"a": 2, "c": 1}


async def test_an_endpoint_that_is_one_whole_has_no_names() -> None:
    async with running_domains(WHOLE) as scenario:
        await scenario.create(controlPlane={"failureDomains": ["a"]})
        said = await scenario.says("ControlPlaneReady", "DomainNotFound")
        assert said["message"].endswith("the endpoint has no a; its failure domains: none, it is one whole")
        await scenario.settle()
        assert await scenario.places(None) == {}


@pytest.mark.parametrize("left", [{"a": "a", "renamed": "b"}, WHOLE])
async def test_a_machine_whose_domain_the_settings_have_lost_is_not_made_again(left: dict[str, str]) -> None:
    async with running_domains({"a": "a", "b": "b"}) as scenario:
        await scenario.create(controlPlane={"failureDomains": ["a"]}, workers=[build_pool(2)])
        assert await scenario.grown(2) == {"a": 1, "b": 1}
        (lost,) = [name for name, domain in (await scenario.places()).items() if domain == "b"]
        vms = set(scenario.world.machines)
        await scenario.patch("c1", {"controlPlane": {"failureDomains": []}})
        await scenario.settle()
        await scenario.divide(left)
        said = await scenario.says("InfrastructureReady", "DomainNotFound", of=lost)
        assert "define the domain again" in said["message"]
        await scenario.settle()
        assert set(scenario.world.machines) == vms
        machine = await scenario.machine(lost)
        assert machine is not None
        assert machine["status"].get("failureReason") is None
        row = (await scenario.rows())["b"]
        assert (row["machines"], row["available"]) == (1, False)
        # Nor is it forgotten when it shall go.
        await scenario.user.delete(NESTED_MACHINE, lost, NAMESPACE_NAME)
        await scenario.says("Deleting", "DomainNotFound", of=lost)
        await scenario.divide({"a": "a", "b": "b"})

        async def is_another() -> bool:
            found = await scenario.machine(lost)
            return found is not None and found["metadata"]["uid"] != machine["metadata"]["uid"]

        await scenario.until(is_another)
        assert await scenario.grown(2) == {"a": 1, "b": 1}
        assert len(scenario.world.machines) == 3


async def test_a_child_has_the_failure_domains_of_its_parent() -> None:
    async with running_domains({"a": "a", "b": "b"}) as parent:
        await parent.nest()
        cluster = await parent.cluster()
        assert cluster is not None
        rig = ParentRig(parent, claims_namespace("c1", cluster["metadata"]["uid"]))
        claimed = await network(rig.provider, cluster_request(cluster_ref()))
        assert claimed.failure_domains == (FailureDomain("a"), FailureDomain("b"))
        request = worker(cluster_ref(), version="v1.37.2")
        await running(rig.provider, replace(request, ref=replace(request.ref, failure_domain="b")))
        hosts = [vm.host for vm in parent.world.machines.values() if vm.ref.cluster.namespace == rig.claims]
        assert hosts == ["b"]
        await rig.provider.close()
        await parent.delete()
        await parent.gone()
