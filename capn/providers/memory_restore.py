"""A simulated guest that begins with a snapshot: it waits for one, makes etcd's data of it, and is its only member.

Role: what bootstrap.sh, receive.py and etcdutl do in a real guest, and what a kubelet does about its mirror pods when
its node is made anew. Must not: begin with anything else than what was uploaded to this very machine.
"""

from __future__ import annotations

import contextlib

from capn.api.resources import NODE, POD
from capn.errors import CapnError, ConflictError
from capn.kube.etcd import ETCD_NAMESPACE
from capn.providers.memory_etcd import read_snapshot
from capn.providers.memory_guest import GuestFailedError, GuestPlan, build_etcd_pod
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


async def keep_mirror_pod(cluster: SimulatedCluster, plan: GuestPlan) -> None:
    """Make etcd's mirror pod again whenever the node is there without it, as a kubelet does."""
    kubelet = cluster.api.as_manager("kubelet")
    while True:
        found = await kubelet.list(NODE)
        node = next((item for item in found.items if item["metadata"]["name"] == plan.node_name), None)
        if node is not None and await kubelet.get(POD, f"etcd-{plan.node_name}", ETCD_NAMESPACE) is None:
            with contextlib.suppress(ConflictError):
                await kubelet.create(POD, build_etcd_pod(plan.node_name, node["metadata"]["uid"]))
        with contextlib.suppress(CapnError):  # a broken or expired watch: look again
            async for event in kubelet.watch(NODE, resource_version=found.resource_version):
                if event.type != "BOOKMARK":
                    break
