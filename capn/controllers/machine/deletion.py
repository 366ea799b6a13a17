"""Phase Deleting of a machine: the VM and all of its volumes, then its node, then the finalizer.

Needs neither the cluster, its Secrets nor the child to be alive; only the hypervisor has to answer, and until it does
the condition says so.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from capn import names
from capn.api.cluster import DeletionPolicy, PowerState
from capn.api.conditions import ClusterCondition, find
from capn.api.resources import NESTED_MACHINE, NODE
from capn.controllers.finalizer import remove_finalizer
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import CapnError, InvalidSpecError

log = structlog.get_logger(__name__)

POLL_S = 5.0
# A child that stays silent so long is taken for dead; its node object is left to its administrator.
NODE_PATIENCE = timedelta(minutes=1)


async def reconcile_deletion(scope: MachineScope) -> Wait | None:
    """Everything that deletion does, again and again until nothing is left."""
    meta = scope.machine.metadata
    if names.FINALIZER not in meta.finalizers:
        return None
    if scope.cluster is not None and scope.cluster.spec.paused:
        return Wait("Paused", "the cluster's spec.paused is true; set it to false to let the deletion go on")
    scope.deps.consoles.forget(meta.uid)
    if not _orphaned(scope) and not await _delete_vm(scope):
        return Wait("DeletingMachine", "waiting for the hypervisor to remove the VM", POLL_S)
    if (wait := wait_for_child(scope)) is not None:
        return wait
    await _delete_node(scope)
    await remove_finalizer(scope.deps.client, NESTED_MACHINE, meta)
    return None


def _orphaned(scope: MachineScope) -> bool:
    cluster = scope.cluster
    return cluster is not None and cluster.metadata.deleting and cluster.spec.deletion_policy is DeletionPolicy.ORPHAN


async def _delete_vm(scope: MachineScope) -> bool:
    try:
        provider = scope.provider
    except InvalidSpecError as error:
        if scope.machine.status.provider_id is None:
            return True  # never resolved, so nothing was ever made there
        raise InvalidSpecError(
            error.field,
            f"{error}; define the endpoint again so that the VM can be deleted, or set the cluster's"
            " spec.deletionPolicy to Orphan to leave it",
            reason=error.reason,
        ) from error
    return await provider.delete_machine(scope.ref)


def wait_for_child(scope: MachineScope) -> Wait | None:
    """A child that is switched off is not dead: its node is taken out when it is back, or goes with the cluster."""
    cluster = scope.cluster
    if cluster is None or not _has_node_to_delete(scope):
        return None
    message = "the VM is gone; its node is taken out of the child when the cluster is switched on again"
    if cluster.spec.power_state is PowerState.OFF:
        return Wait("PoweredOff", message)
    starting = find(cluster.status.conditions, ClusterCondition.POWERED_OFF) is not None
    return Wait("PoweringOn", message, POLL_S) if starting else None


def _has_node_to_delete(scope: MachineScope) -> bool:
    """In a cluster that is going away there is no need; nor when the VM that was just removed was the child's API."""
    cluster = scope.cluster
    if cluster is None or cluster.metadata.deleting or scope.machine.status.node_ref is None:
        return False
    return not scope.initializes


async def _delete_node(scope: MachineScope) -> None:
    """In a cluster that lives on, take the node out of the child."""
    if not _has_node_to_delete(scope):
        return
    ref = scope.ref.cluster
    try:
        credentials = await scope.deps.credentials.load(ref.namespace, ref.name, ref.uid)
        if credentials.kubeconfig is None:
            return
        child = await scope.deps.children.open(scope.provider, ref, credentials.kubeconfig)
        await child.client.delete(NODE, scope.name)
    except CapnError as error:
        asked = scope.machine.metadata.deletion_timestamp
        if asked and scope.deps.now() - datetime.fromisoformat(asked) < NODE_PATIENCE:
            raise
        log.warning("the child stays silent; its node object is left", node=scope.name, error=str(error))
