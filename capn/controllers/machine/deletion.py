"""Phase Deleting of a machine: its pods move on, then the VM goes with all of its volumes, its node, the finalizer.

Needs neither the cluster, its Secrets nor the child to be alive; only the hypervisor has to answer, and until it does
the condition says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from capn import names
from capn.api.cluster import DeletionPolicy, PowerState
from capn.api.conditions import ClusterCondition, find
from capn.api.resources import NESTED_MACHINE, NODE
from capn.controllers.finalizer import remove_finalizer
from capn.controllers.machine.drain import drain_node, outlived_by_child
from capn.controllers.machine.membership import leave_etcd
from capn.controllers.machine.node import connect
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import CapnError, InvalidSpecError

log = structlog.get_logger(__name__)

POLL_S = 5.0


async def reconcile_deletion(scope: MachineScope) -> Wait | None:
    """Everything that deletion does, again and again until nothing is left."""
    meta = scope.machine.metadata
    if names.FINALIZER not in meta.finalizers:
        return None
    if scope.cluster is not None and scope.cluster.spec.paused:
        return Wait("Paused", "the cluster's spec.paused is true; set it to false to let the deletion go on")
    scope.deps.consoles.forget(meta.uid)
    for step in STEPS:
        if (wait := await step(scope)) is not None:
            return wait
    await remove_finalizer(scope.deps.client, NESTED_MACHINE, meta)
    return None


async def _remove_vm(scope: MachineScope) -> Wait | None:
    if _orphaned(scope) or await _delete_vm(scope):
        return None
    return Wait("DeletingMachine", "waiting for the hypervisor to remove the VM", POLL_S)


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


async def wait_for_child(scope: MachineScope) -> Wait | None:
    """A child that is switched off is not dead: its node is taken out when it is back, or goes with the cluster."""
    cluster = scope.cluster
    if cluster is None or not outlived_by_child(scope):
        return None
    message = "the VM is gone; its node is taken out of the child when the cluster is switched on again"
    if cluster.spec.power_state is PowerState.OFF:
        return Wait("PoweredOff", message)
    starting = find(cluster.status.conditions, ClusterCondition.POWERED_OFF) is not None
    return Wait("PoweringOn", message, POLL_S) if starting else None


async def _remove_node(scope: MachineScope) -> Wait | None:
    """In a child that lives on, take the node out of it; one that stays silent is left with it."""
    if not outlived_by_child(scope):
        return None
    uid = scope.machine.metadata.uid
    try:
        await (await connect(scope)).client.delete(NODE, scope.name)
    except CapnError as error:
        if scope.deps.patience.lasts(uid, scope.deps.now()):
            return Wait("DeletingNode", f"the child does not let the node be removed: {error}", POLL_S)
        log.warning("the child stays silent; its node object is left", node=scope.name, error=str(error))
    return None


# In this order: each is done, or says what it waits for. All are looked at again each time, so that any may be cut off.
STEPS: tuple[Callable[[MachineScope], Awaitable[Wait | None]], ...] = (
    drain_node,
    leave_etcd,
    _remove_vm,
    wait_for_child,
    _remove_node,
)
