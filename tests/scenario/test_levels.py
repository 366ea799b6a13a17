"""Clusters in clusters: machines claimed level by level, up to the one simulated hypervisor."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from capn import names
from capn.api.resources import CONFIG_MAP, DEPLOYMENT, NAMESPACE, NESTED_CLUSTER, NESTED_MACHINE, NODE, SECRET
from capn.controllers.gate import find_target
from capn.providers.base import MachineState
from capn.settings import GateSettings
from tests.harness.levels import Level, running_levels
from tests.harness.scenario import NAMESPACE_NAME, Scenario

ONE_WORKER = [{"name": "md", "replicas": 1}]


class EveryGuest(dict[str, tuple[str, str]]):
    """The same failure for every machine: what a claimed one is called at the root is nobody's business."""

    def get(self, _name: str, _default: Any = None) -> tuple[str, str]:
        return self[""]


async def leaf_of(levels: list[Scenario], **spec: Any) -> Level:
    """The last level, with a Ready cluster `c1` of its own."""
    leaf = levels[-1]
    assert isinstance(leaf, Level)
    await leaf.create(**spec)
    await leaf.ready()
    return leaf


@pytest.mark.parametrize("depth", [2, 3, 8])
async def test_a_cluster_at_any_depth_is_as_one_at_the_root(depth: int) -> None:
    async with running_levels(depth) as levels:
        leaf = await leaf_of(levels, workers=ONE_WORKER)
        cluster = await leaf.cluster()
        assert cluster is not None
        assert cluster["status"]["machines"] == {"desired": 2, "created": 2, "ready": 2}
        nodes = {
            node["metadata"]["name"]: node for node in (await leaf.api_of(cluster["metadata"]["uid"]).list(NODE)).items
        }
        assert sorted(nodes) == ["c1-cp-0", "c1-md-0"]
        machine = await leaf.machine("c1-md-0")
        assert machine is not None
        assert nodes["c1-md-0"]["spec"]["providerID"] == machine["status"]["providerID"]
        # VMs stay flat: one a cluster above, two of the leaf, all at the one hypervisor.
        assert len(levels[0].world.machines) == depth - 1 + 2
        assert all(vm.seed is None for vm in levels[0].world.machines.values())
        await leaf.delete()
        await leaf.gone()
        assert await leaf.claims() == []
        assert len(levels[0].world.machines) == depth - 1
        assert await levels[0].leaks() == []


async def test_a_settled_tree_writes_nothing_not_even_after_a_restart_of_any_level() -> None:
    async with running_levels(3) as levels:
        await leaf_of(levels, workers=ONE_WORKER)
        for level in levels:
            await level.settle()
        before = [level.api.writes for level in levels]
        vms = set(levels[0].world.machines)
        for level in levels:
            await level.restart()
            for other in levels:
                await other.settle()
        assert [level.api.writes for level in levels] == before
        assert set(levels[0].world.machines) == vms


async def test_losing_a_middle_levels_control_plane_leaves_the_leafs_machines_alone() -> None:
    async with running_levels(3) as levels:
        root, middle, leaf = levels
        await leaf_of(levels)
        vms = {uid for uid, vm in root.world.machines.items() if vm.state is MachineState.RUNNING}
        assert len(vms) == 3
        ref = await middle.machine_ref("c1-cp-0")
        claim = middle.claim_uid(ref.cluster.uid) if isinstance(middle, Level) else ""
        [vm] = root.world.machines_of(claim)
        # capn in the middle's child dies with it; the VMs are the root's.
        await leaf.kill()
        root.provider.crash(vm.ref)
        await root.until(lambda: vm.state is MachineState.RUNNING)
        await leaf.start()
        for level in levels:
            await level.settle()
        assert set(root.world.machines) == vms
        assert (await leaf.condition("c1", "Ready"))["status"] == "True"


async def test_a_failed_bootstrap_is_explained_to_the_one_who_asked() -> None:
    async with running_levels(3) as levels:
        leaf = levels[-1]
        tail = 'E0101 "command failed" err="unknown flag: --nonsense"'
        levels[0].world.failures = EveryGuest({"": ("kubeadm/wait-control-plane", tail)})
        await leaf.create()
        await leaf.until(lambda: _failed(leaf))
        machine = await leaf.machine("c1-cp-0")
        assert machine is not None
        assert machine["status"]["failureReason"] == "InvalidArgument"
        assert "--nonsense" in machine["status"]["bootstrap"]["logTail"]


async def _failed(level: Scenario) -> bool:
    return bool((await level.machine("c1-cp-0") or {}).get("status", {}).get("failureReason"))


async def test_deleting_from_the_root_is_complete_with_the_middle_dead() -> None:
    async with running_levels(3) as levels:
        root, middle, leaf = levels
        await leaf_of(levels, workers=ONE_WORKER)
        assert len(root.world.machines) == 4
        # Nothing below the root runs any more: whoever could give a claim back is gone.
        await leaf.kill()
        await middle.kill()
        await root.delete()
        await root.gone()
        assert root.world.machines == {}
        assert root.world.clusters == {}
        assert await root.leaks() == []
        assert (await root.api.list(NESTED_CLUSTER)).items == []
        assert [item["metadata"]["name"] for item in (await root.api.list(NAMESPACE)).items] == [NAMESPACE_NAME]


async def test_a_broken_nesting_keeps_nothing_from_being_deleted() -> None:
    async with running_levels(2) as levels:
        root, child = levels
        await leaf_of(levels)
        await child.kill()
        # As an object stored before a rule existed; the API server's own rules would refuse it today.
        await root.patch("c1", {"nesting": {"enabled": True, "maxDepth": "many", "budget": None}})
        await root.delete()
        await root.gone()
        assert root.world.machines == {}
        assert [item["metadata"]["name"] for item in (await root.api.list(NAMESPACE)).items] == [NAMESPACE_NAME]


async def test_machines_beyond_the_budget_wait_and_say_the_numbers() -> None:
    async with running_levels(1) as [root]:
        await root.nest(budget={"cpus": 3})
        child = await Level.over(root)
        try:
            await child.create(workers=ONE_WORKER)

            async def says() -> bool:
                condition = await child.condition("c1-md-0", "InfrastructureReady", of="machine")
                return condition.get("reason") == "BudgetExceeded"

            await child.until(says)
            condition = await child.condition("c1-md-0", "InfrastructureReady", of="machine")
            assert "cpus: 2 of 3 taken, 2 more asked for" in condition["message"]
            assert "team/c1" in condition["message"]
            assert len(root.world.machines) == 2
            await root.patch("c1", {"nesting": {"enabled": True, "budget": {"cpus": 4}}})
            await child.until(lambda: len(root.world.machines) == 3, limit_s=60)
            await child.ready()
            await child.delete()
            await child.gone()
        finally:
            await child.kill()
            await child.provider.close()


async def test_a_cluster_deeper_than_allowed_is_refused_at_the_level_that_forbids_it() -> None:
    async with running_levels(1) as [root]:
        await root.nest(maxDepth=1)
        child = await Level.over(root)
        await child.nest()
        grandchild = await Level.over(child)
        try:
            await grandchild.create()

            async def refused() -> bool:
                return (await grandchild.condition("c1", "Stalled")).get("reason") == "TooDeep"

            await grandchild.until(refused)
            condition = await grandchild.condition("c1", "Stalled")
            assert "is 2 levels below team/c1, which allows 1" in condition["message"]
            assert len(root.world.machines) == 2
        finally:
            for level in (grandchild, child):
                await level.kill()
                await level.provider.close()


async def test_a_childs_credential_is_renewed_before_it_ends() -> None:
    async with running_levels(1) as [root]:
        await root.nest()
        cluster = await root.cluster()
        assert cluster is not None
        api = root.api_of(cluster["metadata"]["uid"])
        before = await api.get(SECRET, "capn-parent", "capn-system")
        assert before is not None
        aged = {"metadata": {"annotations": {"capn.dev/renew-after": "2020-01-01T00:00:00Z"}}}
        await api.as_manager("time").merge_patch(SECRET, "capn-parent", "capn-system", aged)
        await root.restart()
        await root.settle()
        after = await api.get(SECRET, "capn-parent", "capn-system")
        assert after is not None
        assert after["metadata"]["annotations"]["capn.dev/renew-after"] > "2026"
        # The pod starts anew with it.
        renewed = await api.get(DEPLOYMENT, "capn-controller", "capn-system")
        assert renewed is not None
        template = renewed["spec"]["template"]["metadata"]["annotations"]
        assert template["capn.dev/renew-after"] == after["metadata"]["annotations"]["capn.dev/renew-after"]


async def test_with_a_gate_at_the_root_every_level_is_reached_by_it() -> None:
    gate = GateSettings(host="198.18.0.1", port=8443)
    async with running_levels(3, gate=gate) as levels:
        await leaf_of(levels)
        root = levels[0].controllers
        assert root is not None
        for level in levels:
            cluster = await level.cluster()
            assert cluster is not None
            access = cluster["status"]["access"]
            assert (access["host"], access["port"]) == ("198.18.0.1", 8443)
            # The root knows the way: its own cluster, or the claim that it has of the cluster below.
            endpoint = cluster["status"]["endpoint"]
            assert find_target(root.clusters, access["serverName"]) == (endpoint["host"], endpoint["port"])
        assert find_target(root.clusters, "nobody.gate.capn.dev") is None

        # Who made the machines reaches the endpoint itself; whoever claims them has no way but the gate.
        servers = [await read_server(level) for level in levels]
        assert "tls-server-name" not in servers[0]
        for server, level in zip(servers[1:], levels[1:], strict=True):
            cluster = await level.cluster()
            assert cluster is not None
            assert server["server"] == "https://198.18.0.1:8443"
            assert server["tls-server-name"] == cluster["status"]["access"]["serverName"]

        # capn in a child tells its own children to come by the gate, too.
        installed = await levels[1].api.get(CONFIG_MAP, "capn-settings", names.SYSTEM_NAMESPACE)
        assert installed is not None
        nesting = yaml.safe_load(installed["data"]["settings.yaml"])["nesting"]
        top = await levels[0].cluster()
        assert top is not None
        assert nesting["server"] == "https://198.18.0.1:8443"
        assert nesting["server_name"] == top["status"]["access"]["serverName"]


async def nested(level: Scenario) -> dict[str, Any]:
    cluster = await level.cluster()
    assert cluster is not None
    found: dict[str, Any] = cluster["status"].get("nested") or {}
    return found


async def test_what_the_leaf_is_shows_at_every_level_above() -> None:
    async with running_levels(4) as levels:
        leaf = await leaf_of(levels, workers=ONE_WORKER)
        for below, level in zip((3, 2, 1), levels, strict=False):
            # Each nesting cluster has one machine, the leaf has two.
            whole = {"clusters": below, "readyClusters": below, "machines": below + 1, "readyMachines": below + 1}

            async def rolled_up(level: Scenario = level, whole: dict[str, int] = whole, depth: int = below) -> bool:
                return await nested(level) == {**whole, "depth": depth}

            await level.until(rolled_up)

        # A leaf that cannot get on is what the root's owner should look at, with the reason and without its secrets.
        tail = 'E0101 "command failed" err="unknown flag: --nonsense"'
        levels[0].world.failures = EveryGuest({"": ("kubeadm/wait-control-plane", tail)})
        await leaf.create("bad")

        async def seen() -> bool:
            worst = (await nested(levels[0])).get("worst") or {}
            return worst.get("reason") == "InvalidArgument"

        await levels[0].until(seen)
        worst = (await nested(levels[0]))["worst"]
        assert worst["path"].endswith(f"{NAMESPACE_NAME}/bad")
        assert worst["path"].count("/") == 2 * 4 - 1
        assert "--nonsense" in worst["message"]


async def test_a_report_costs_each_level_above_a_write_a_change_and_none_at_rest() -> None:
    async with running_levels(3) as levels:
        leaf = await leaf_of(levels)
        reports = []
        for level in levels[:2]:
            claim = await deepest_claim(level)
            reports.append(claim["metadata"]["annotations"][names.ANNOTATION_REPORTED])
        assert reports[0] == reports[1]
        for level in levels:
            await level.settle()
        before = [level.api.writes for level in levels]
        await leaf.restart()
        for level in levels:
            await level.settle()
        assert [level.api.writes for level in levels] == before


async def deepest_claim(level: Scenario) -> dict[str, Any]:
    """What this level has of the leaf."""
    claims = [item for item in (await level.api.list(NESTED_CLUSTER)).items if "claim" in item["spec"]]
    return max(claims, key=lambda item: str(item["spec"]["claim"]["path"]).count("/"))


async def test_pausing_a_leaf_pauses_its_claim_at_every_level() -> None:
    async with running_levels(3) as levels:
        root, _middle, leaf = levels
        await leaf_of(levels)
        claim = await deepest_claim(root)
        [vm] = root.world.machines_of(claim["metadata"]["uid"])

        for wanted in (True, False):
            await leaf.patch("c1", {"paused": wanted})
            for level in levels[:2]:

                async def passed_on(level: Scenario = level, wanted: bool = wanted) -> bool:  # noqa: FBT001
                    return bool((await deepest_claim(level))["spec"].get("paused", False)) is wanted

                await level.until(passed_on)
            if wanted:
                # Nobody brings back the machine of a paused cluster, however many levels above the hypervisor is.
                for level in levels:
                    await level.settle()
                root.provider.crash(vm.ref)
                for level in levels:
                    await level.settle()
                assert vm.state is not MachineState.RUNNING
        await root.until(lambda: vm.state is MachineState.RUNNING)


async def read_server(level: Scenario) -> dict[str, str]:
    """The server's entry of the kubeconfig of a level's cluster."""
    secret = await level.api.get(SECRET, "c1-kubeconfig", NAMESPACE_NAME)
    assert secret is not None
    config = yaml.safe_load(base64.b64decode(secret["data"]["value"]))
    entry: dict[str, str] = config["clusters"][0]["cluster"]
    return entry


async def test_an_upgrade_goes_through_every_level() -> None:
    async with running_levels(3) as levels:
        levels[0].world.virtual_endpoints = True  # else the first control plane could not go
        leaf = await leaf_of(levels, version="v1.36.3", workers=ONE_WORKER, infrastructure={"kind": "parent"})
        await leaf.patch("c1", {"version": "v1.37.2"})

        async def is_done() -> bool:
            return (await leaf.condition("c1", "Upgraded")).get("status") == "True"

        await leaf.until(is_done, limit_s=60.0)
        await leaf.ready()
        cluster = await leaf.cluster()
        assert cluster is not None
        assert cluster["status"]["version"] == "v1.37.2"
        versions = sorted(vm.request.version for vm in levels[0].world.machines.values())
        assert versions == ["v1.37.2"] * 4  # two hosts of clusters, and the leaf's two
        claims = [claim for level in levels[:-1] for claim in (await level.api.list(NESTED_CLUSTER)).items]
        told = [claim["spec"]["version"] for claim in claims if "claim" in claim["spec"]]
        assert told
        assert set(told) == {"v1.37.2"}


async def test_a_claimed_cluster_whose_endpoint_is_a_machines_own_says_that_it_cannot_be_upgraded() -> None:
    async with running_levels(2) as levels:
        leaf = await leaf_of(levels, version="v1.36.3", infrastructure={"kind": "parent"})
        await leaf.patch("c1", {"version": "v1.37.2"})

        async def is_said() -> bool:
            return (await leaf.condition("c1", "Stalled")).get("reason") == "EndpointFixed"

        await leaf.until(is_said)
        assert {vm.request.version for vm in levels[0].world.machines.values()} == {"v1.36.3", "v1.37.2"}


async def test_a_claimed_control_plane_that_has_the_endpoint_stays_as_it_is_and_the_others_change() -> None:
    async with running_levels(2) as levels:
        leaf = await leaf_of(levels, version="v1.37.2", controlPlane={"replicas": 3}, infrastructure={"kind": "parent"})
        await leaf.patch("c1", {"controlPlane": {"replicas": 3, "machine": {"memory": "4Gi"}}})

        async def is_done() -> bool:
            said = await leaf.condition("c1", "ControlPlaneReady")
            return (said["status"], said["reason"]) == ("True", "EndpointFixed") and await sizes() == [
                "2560Mi",
                "4Gi",
                "4Gi",
            ]

        async def sizes() -> list[str]:
            machines = (await leaf.api.list(NESTED_MACHINE)).items
            planes = [machine for machine in machines if machine["spec"]["role"] == names.ROLE_CONTROL_PLANE]
            return [machine["spec"]["machine"]["memory"] for machine in planes]

        await leaf.until(is_done, limit_s=60.0)
        await leaf.ready()
        assert "c1-cp-0 stays as it is" in (await leaf.condition("c1", "ControlPlaneReady"))["message"]
        await leaf.patch("c1", {"controlPlane": {"replicas": 1}})

        async def is_alone() -> bool:
            return await sizes() == ["2560Mi"]

        await leaf.until(is_alone, limit_s=60.0)
        await leaf.ready()
