"""Phase Restored, its end: the nodes in the child become those of today's machines, then the restore is over.

Role: carries out what `capn.build.restore_plan` says of nodes. What is to be made anew is first written into a
ConfigMap of the child, since it is deleted before it can be made: a controller that dies between finds it there. Must
not: run before the guest has said that it is done; kubeadm itself writes to the child until then.
"""

from __future__ import annotations

import json
from typing import Any

from capn.api.conditions import MachineCondition, is_true
from capn.api.machine import NestedMachine
from capn.api.resources import CONFIG_MAP, NODE
from capn.api.restore import RestorePhase
from capn.build.machines import compute_provider_id
from capn.build.restore_plan import compute_node_changes
from capn.controllers.cluster.restore import tell
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.controllers.timestamps import format_time
from capn.errors import ConflictError
from capn.kube.client import KubeClient

_NOTE, _NAMESPACE = "capn-restored-nodes", "kube-system"


async def reconcile_restored(scope: ClusterScope) -> Wait | None:
    """Put the nodes right, and say that the restore is over."""
    restore = scope.restoring
    if restore is None:
        return None
    child = scope.require_child()
    provider_ids = {machine.metadata.name: compute_provider_id(machine) for machine in scope.machines}
    joined = {machine.metadata.name for machine in scope.machines if _has_joined(machine)}
    await replace_nodes(child.client, provider_ids, joined)
    completed = {"phase": RestorePhase.COMPLETED, "completed_at": format_time(scope.deps.now())}
    scope.restore = restore.model_copy(update=completed)
    tell(scope, "RestoreCompleted", f"the cluster is as it was in {restore.snapshot}, taken {restore.taken}")
    return None


def _has_joined(machine: NestedMachine) -> bool:
    done = is_true(machine.status.conditions, MachineCondition.BOOTSTRAP_SUCCEEDED)
    return done and not machine.metadata.deleting


async def replace_nodes(client: KubeClient, provider_ids: dict[str, str], joined: set[str]) -> None:
    """Delete nodes of the past, make those of today; both may have been done in part before."""
    noted = await _read_note(client)
    changes = compute_node_changes((await client.list(NODE)).items, provider_ids, joined)
    # What an earlier attempt has noted comes first: it knows a node that is deleted by now.
    wanted = {node["metadata"]["name"]: node for node in changes.create} | {
        name: node for name, node in noted.items() if node["spec"].get("providerID") == provider_ids.get(name)
    }
    if wanted and wanted != noted:
        data = {name: json.dumps(node, sort_keys=True) for name, node in wanted.items()}
        await client.apply(CONFIG_MAP, {"metadata": {"name": _NOTE, "namespace": _NAMESPACE}, "data": data})
    for node in changes.delete:
        await client.delete(NODE, node["metadata"]["name"], uid=node["metadata"]["uid"])
    for name, node in wanted.items():
        await _create(client, name, node)
    if wanted or noted:
        await client.delete(CONFIG_MAP, _NOTE, _NAMESPACE)


async def _create(client: KubeClient, name: str, node: dict[str, Any]) -> None:
    try:
        await client.create(NODE, node)
    except ConflictError:
        found = await client.get(NODE, name)
        if found is None or (found.get("spec") or {}).get("providerID") != node["spec"]["providerID"]:
            raise  # a kubelet was quicker; it is looked at again


async def _read_note(client: KubeClient) -> dict[str, dict[str, Any]]:
    """What was noted before; the child's administrators could have written anything, so odd entries count for none."""
    note = await client.get(CONFIG_MAP, _NOTE, _NAMESPACE)
    nodes = {}
    for name, text in ((note or {}).get("data") or {}).items():
        try:
            node = json.loads(text)
            if node["metadata"]["name"] == name and isinstance(node["spec"], dict):
                nodes[name] = node
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return nodes
