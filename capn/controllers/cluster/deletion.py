"""Phase Deleting: machines, then the network, then the finalizer.

Works at every stage and needs neither the child nor its Secrets (garbage collection takes those with the owner). What
it cannot do at once it says in the condition and tries again; the finalizer stays until the hypervisor confirms.
"""

from __future__ import annotations

from capn import names
from capn.api.cluster import DeletionPolicy
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.controllers.cluster.machines import delete_machines
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.finalizer import remove_finalizer
from capn.controllers.phases import Wait
from capn.errors import InvalidSpecError

POLL_S = 5.0


async def reconcile_deletion(scope: ClusterScope) -> Wait | None:
    """Everything that deletion does, again and again until nothing is left."""
    if names.FINALIZER not in scope.cluster.metadata.finalizers:
        return None
    await scope.deps.children.drop(scope.ref.uid)
    await delete_machines(scope, scope.machines)
    if (left := await _count_machines(scope)) > 0:
        return Wait("DeletingMachines", f"waiting for {left} machine(s) to be deleted", POLL_S)
    if not await _delete_infrastructure(scope):
        return Wait("DeletingInfrastructure", "waiting for the cluster's network to be deleted", POLL_S)
    scope.deps.credentials.forget(scope.ref.uid)
    await remove_finalizer(scope.deps.client, NESTED_CLUSTER, scope.cluster.metadata)
    return None


async def _count_machines(scope: ClusterScope) -> int:
    """Machines still there; when the cache says none, the API is asked, since the cache may be behind."""
    if scope.machines:
        return len(scope.machines)
    live = await scope.deps.client.list(
        NESTED_MACHINE, namespace=scope.ref.namespace, label_selector=f"{names.LABEL_CLUSTER}={scope.ref.name}"
    )
    mine = [obj for obj in live.items if _belongs(obj, scope.ref.uid)]
    for obj in mine:
        meta = obj["metadata"]
        if not meta.get("deletionTimestamp"):
            await scope.deps.client.delete(NESTED_MACHINE, meta["name"], meta["namespace"], uid=meta["uid"])
    return len(mine)


def _belongs(obj: dict[str, object], uid: str) -> bool:
    metadata = obj["metadata"]
    owners = metadata.get("ownerReferences", ()) if isinstance(metadata, dict) else ()
    return any(owner.get("uid") == uid for owner in owners)


async def _delete_infrastructure(scope: ClusterScope) -> bool:
    if scope.cluster.spec.deletion_policy is DeletionPolicy.ORPHAN:
        return True
    try:
        provider = scope.provider
    except InvalidSpecError as error:
        if scope.cluster.status.endpoint is None:
            return True  # never resolved, so nothing was ever made there
        raise InvalidSpecError(
            error.field,
            f"{error} ; define the endpoint again so that the machines can be deleted, or set spec.deletionPolicy to"
            " Orphan to leave them",
            reason=error.reason,
        ) from error
    return await provider.delete_cluster(scope.ref)
