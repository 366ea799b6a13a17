"""A simulated guest that begins with a snapshot: it waits for one, makes etcd's data of it, and is its only member.

Role: what bootstrap.sh, receive.py and etcdutl do in a real guest, and what a kubelet does about its mirror pods when
its node is made anew. Must not: begin with anything else than what was uploaded to this very machine.
"""

from __future__ import annotations

import contextlib
from typing import Any

from capn import names
from capn.api.conditions import find_condition
from capn.api.resources import CONFIG_MAP, NODE
from capn.build import kubeadm_record
from capn.errors import CapnError
from capn.kube.client import KubeClient
from capn.providers.base import MachineState
from capn.providers.memory_etcd import read_snapshot
from capn.providers.memory_guest import GuestFailedError, build_node_status, read_record
from capn.providers.memory_static_pods import show_static_pods
from capn.providers.memory_world import MemoryWorld, SimulatedCluster, SimulatedMachine

# As the guest's etcdutl: so far above what anybody has seen that no watch can go on.
_BUMP = 1_000_000_000


async def restore_etcd(world: MemoryWorld, cluster: SimulatedCluster, machine: SimulatedMachine) -> None:
    """Wait for the snapshot and put its state in the place of all that the child's API had."""
    if machine.restored:
        return
    machine.say("restore/waiting")
    machine.receives = True
    try:
        while machine.snapshot is None:
            await machine.changed.wait()
    finally:
        machine.receives = False
    machine.say("restore/etcd")
    try:
        state = world.states[read_snapshot(machine.snapshot)]
    except (ValueError, KeyError) as error:
        raise GuestFailedError("restore/etcd", f"Error: {error}") from None
    cluster.api.store.replace_state(state, bump=_BUMP)
    cluster.etcd.start_new(machine, machine.ref.name)
    machine.restored = True


async def act_as_kubelets(world: MemoryWorld, cluster: SimulatedCluster) -> None:
    """Do what kubelets do whose node was made anew: say how it is, and show its static pods again."""
    kubelet = cluster.api.as_manager("kubelet")
    while True:
        found = await kubelet.list(NODE)
        by_name = {machine.ref.name: machine for machine in world.machines_of(cluster.ref.uid)}
        for node in found.items:
            machine = by_name.get(node["metadata"]["name"])
            if machine is not None and machine.state is MachineState.RUNNING:
                await _report(kubelet, machine, node)
        with contextlib.suppress(CapnError):  # a broken or expired watch: look again
            async for event in kubelet.watch(NODE, resource_version=found.resource_version):
                if event.type != "BOOKMARK":
                    break


async def _report(kubelet: KubeClient, machine: SimulatedMachine, node: dict[str, Any]) -> None:
    name = node["metadata"]["name"]
    with contextlib.suppress(CapnError):  # the node may have gone meanwhile
        if find_condition(node, "Ready") is None:
            status = build_node_status(machine.address, machine.request.version)
            await kubelet.apply(NODE, {"metadata": {"name": name}, "status": status}, subresource="status")
        if machine.request.role == names.ROLE_CONTROL_PLANE:
            await show_static_pods(
                kubelet, node, read_record(await kubelet.get(CONFIG_MAP, kubeadm_record.NAME, kubeadm_record.NAMESPACE))
            )
