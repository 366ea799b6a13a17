"""Our finalizer: put on before the first side effect, taken off after the last.

Must not: touch the finalizers of others.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.meta import ObjectMeta
from capn.api.resources import Resource
from capn.errors import ConflictError
from capn.kube.client import KubeClient


async def add_finalizer(client: KubeClient, resource: Resource, meta: ObjectMeta) -> dict[str, Any]:
    """Put our entry on the list as it was last seen. ConflictError when the object has changed or gone since.

    Not by server-side apply: an apply of the finalizer alone would take back every other field that capn applied.
    """
    patch = {"metadata": {"finalizers": [*meta.finalizers, names.FINALIZER], "resourceVersion": meta.resource_version}}
    written = await client.merge_patch(resource, meta.name, meta.namespace, patch)
    if written is None:
        raise ConflictError(f"{resource.kind} {meta.name} is gone")
    return written


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
