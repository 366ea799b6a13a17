"""Phase NodeHealthy: the machine's node is in the child, is this machine's, and is Ready.

Once the node is there, what the bootstrap needed is taken away: token, seed, console reader.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.conditions import find_condition
from capn.controllers.child_pool import Child
from capn.controllers.machine.bootstrap_data import revoke_token
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import TerminalError, TransientError, UnreachableError

POLL_S = 15.0


async def reconcile_node(scope: MachineScope) -> Wait | None:
    """Find the node by the watch, check that it is ours, release the bootstrap, then report its health."""
    if scope.restoring:
        # An error, so that the condition becomes Unknown: nobody knows how the node is, so it is not replaced.
        raise UnreachableError("the child is being restored from a snapshot of its etcd", reason="Restoring")
    if not scope.cluster_initialized:
        return Wait("WaitingForControlPlane", "the child's API is not initialized yet", POLL_S)
    scope.child = child = await open_child(scope)
    scope.node = node = child.node(scope.name)
    if node is None:
        return Wait("WaitingForNode", f"node {scope.name} has not registered in the child yet", POLL_S)
    found = (node.get("spec") or {}).get("providerID")
    if found != scope.provider_id:
        raise TerminalError(
            f"node {scope.name} has provider ID {found or '(none)'}, which is another machine's: delete that node in"
            " the child, or delete this NestedMachine to have it replaced",
            reason="ProviderIDMismatch",
        )
    await _release_bootstrap(scope, child)
    return compute_health(node)


async def open_child(scope: MachineScope) -> Child:
    """The child with its nodes watched and listed once."""
    child = await connect(scope)
    await scope.deps.children.sync_nodes(scope.ref.cluster)
    return child


async def connect(scope: MachineScope) -> Child:
    """The child's API, whether it answers or not."""
    ref = scope.ref.cluster
    credentials = await scope.deps.credentials.load(ref.namespace, ref.name, ref.uid)
    if credentials.kubeconfig is None:
        raise TransientError(f"Secret {names.secret_kubeconfig(ref.name)} is not there")
    return await scope.deps.children.open(scope.provider, ref, credentials.kubeconfig)


async def _release_bootstrap(scope: MachineScope, child: Child) -> None:
    attached = scope.observed is not None and scope.observed.seed_attached
    if scope.bootstrapped and not attached:
        return
    ref = scope.ref
    credentials = await scope.deps.credentials.load(ref.cluster.namespace, ref.cluster.name, ref.cluster.uid)
    if credentials.pki is not None:
        await revoke_token(child.client, credentials.pki, ref.uid)
    await scope.provider.release_bootstrap_data(ref)
    scope.deps.consoles.forget(ref.uid)


def compute_health(node: dict[str, Any]) -> Wait | None:
    """None when the node is Ready, else what its kubelet says (untrusted; the API server has capped it)."""
    ready = find_condition(node, "Ready")
    if ready is None:
        return Wait("NodeNotReady", "the node has not reported its state yet", blocks=False)
    if ready.get("status") == "True":
        return None
    message = str(ready.get("message", ""))[:512]
    return Wait("NodeNotReady", f"{ready.get('reason', 'NotReady')}: {message}", blocks=False)
