"""An uncached look at the cluster itself, before something is made for it."""

from __future__ import annotations

from capn.api.resources import NESTED_CLUSTER
from capn.controllers.cluster.scope import ClusterScope
from capn.errors import TransientError


async def refuse_if_deleting(scope: ClusterScope) -> None:
    """TransientError when the cluster is going away, or is another one of its name: it gets nothing new."""
    ref = scope.ref
    live = await scope.deps.client.get(NESTED_CLUSTER, ref.name, ref.namespace)
    if live is None or live["metadata"]["uid"] != ref.uid or live["metadata"].get("deletionTimestamp"):
        raise TransientError("the cluster is being deleted")
