"""Phase Deleting: what its children claim here, machines, then the network, then the finalizer.

Works at every stage and needs neither the child nor its Secrets (garbage collection takes those with the owner). What
it cannot do at once it says in the condition and tries again; the finalizer stays until the hypervisor confirms.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.cluster import DeletionPolicy
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, SECRET
from capn.controllers.cluster.machines import delete_machines
from capn.controllers.cluster.nesting import delete_claims
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.credentials import find_controller, pki_secret_names
from capn.controllers.finalizer import remove_finalizer
from capn.controllers.phases import Wait
from capn.errors import InvalidSpecError

POLL_S = 5.0


async def reconcile_deletion(scope: ClusterScope) -> Wait | None:
    """Everything that deletion does, again and again until nothing is left."""
    if names.FINALIZER not in scope.cluster.metadata.finalizers:
        return None
    if scope.cluster.spec.paused:
        return Wait("Paused", "spec.paused is true; set it to false to let the deletion go on")
    await scope.deps.children.drop(scope.ref.uid)
    if (wait := await delete_claims(scope)) is not None:
        return wait
    await delete_machines(scope, scope.machines)
    if (left := await _count_machines(scope)) > 0:
        return Wait("DeletingMachines", f"waiting for {left} machine(s) to be deleted", POLL_S)
    if scope.cluster.spec.deletion_policy is DeletionPolicy.ORPHAN:
        await _release_secrets(scope)
    elif not await _delete_infrastructure(scope):
        return Wait("DeletingInfrastructure", "waiting for the cluster's network to be deleted", POLL_S)
    scope.deps.credentials.forget(scope.ref.uid)
    await remove_finalizer(scope.deps.client, NESTED_CLUSTER, scope.cluster.metadata)
    return None


async def _count_machines(scope: ClusterScope) -> int:
    """Machines still there; when the cache says none, the API is asked, since the cache may be behind."""
    if scope.machines:
        return len(scope.machines)
    live = await scope.deps.client.list(NESTED_MACHINE, namespace=scope.ref.namespace)
    mine = [obj for obj in live.items if _belongs(obj, scope)]
    for obj in mine:
        meta = obj["metadata"]
        if not meta.get("deletionTimestamp"):
            await scope.deps.client.delete(NESTED_MACHINE, meta["name"], meta["namespace"], uid=meta["uid"])
    return len(mine)


def _belongs(machine: dict[str, Any], scope: ClusterScope) -> bool:
    """By its spec, which cannot be changed, and not another's by its owner."""
    named = (machine.get("spec") or {}).get("clusterName") == scope.ref.name
    return named and find_controller(machine) in {None, scope.ref.uid}


async def _delete_infrastructure(scope: ClusterScope) -> bool:
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


async def _release_secrets(scope: ClusterScope) -> None:
    """The machines are left running: leave their keys and the kubeconfig too, by taking our ownership off."""
    client, ref = scope.deps.client, scope.ref
    for name in (*pki_secret_names(ref.name), names.secret_kubeconfig(ref.name)):
        secret = await client.get(SECRET, name, ref.namespace)
        if secret is not None and find_controller(secret) == ref.uid:
            version = secret["metadata"]["resourceVersion"]
            patch = {"metadata": {"ownerReferences": None, "resourceVersion": version}}
            await client.merge_patch(SECRET, name, ref.namespace, patch)
