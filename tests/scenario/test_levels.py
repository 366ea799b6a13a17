"""Clusters in clusters: machines claimed level by level, up to the one simulated hypervisor."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.resources import NODE
from capn.providers.base import MachineState
from tests.harness.levels import Level, running_levels
from tests.harness.scenario import Scenario

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
