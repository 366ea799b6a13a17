"""Our finalizer: put on before the first side effect, taken off after the last.

Must not: touch the finalizers of others.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.meta import ObjectMeta
from capn.api.resources import Resource
from capn.kube.client import KubeClient


async def add_finalizer(client: KubeClient, resource: Resource, meta: ObjectMeta) -> dict[str, Any]:
    """Apply only our entry (the list is a set to the API server). Conflict when the object is another one by now."""
    return await client.apply(
        resource,
        {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
                "finalizers": [names.FINALIZER],
            },
        },
    )


async def remove_finalizer(client: KubeClient, resource: Resource, meta: ObjectMeta) -> None:
    """Take our entry off the live list, whoever put it there; gone or already off is fine."""
    live = await client.get(resource, meta.name, meta.namespace)
    if live is None or live["metadata"]["uid"] != meta.uid:
        return
    kept = [entry for entry in live["metadata"].get("finalizers", ()) if entry != names.FINALIZER]
    if len(kept) == len(live["metadata"].get("finalizers", ())):
        return
    patch = {"metadata": {"finalizers": kept, "resourceVersion": live["metadata"]["resourceVersion"]}}
    await client.merge_patch(resource, meta.name, meta.namespace, patch)
