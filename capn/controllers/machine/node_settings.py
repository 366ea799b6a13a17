"""Phase NodeConfigured: a worker's node has the labels and taints of its machine.

They change without a new VM. What somebody changed on the node by hand is put right; what others added stays. Runs for
a node that is not Ready too, and a child that refuses the change does not make the node unhealthy: this has a
condition of its own. Must not: touch the nodes of control planes, whose labels and taints are kubeadm's.
"""

from __future__ import annotations

from capn import names
from capn.api.resources import NODE
from capn.build.failure_domains import compute_node_labels
from capn.build.node_settings import compute_node_patch
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import TransientError


async def reconcile_node_settings(scope: MachineScope) -> Wait | None:
    """Patch the node if it is not as the machine says."""
    spec, child, node = scope.machine.spec, scope.child, scope.node
    if spec.role != names.ROLE_WORKER or child is None or node is None:
        return None
    labels = compute_node_labels(spec)
    patch = compute_node_patch(node, labels, spec.taints)
    if patch is None:
        return None
    guard = {"uid": node["metadata"]["uid"]}
    if "spec" in patch:
        # A list of taints is written whole: the revision keeps what the node controller adds meanwhile.
        live = await child.client.get(NODE, scope.name)
        if live is None or live["metadata"]["uid"] != guard["uid"]:
            raise TransientError(f"node {scope.name} has just gone")
        patch = compute_node_patch(live, labels, spec.taints) or {}
        guard["resourceVersion"] = live["metadata"]["resourceVersion"]
    if patch:
        metadata = patch.get("metadata", {}) | guard
        await child.client.merge_patch(NODE, scope.name, None, patch | {"metadata": metadata})
    return None
