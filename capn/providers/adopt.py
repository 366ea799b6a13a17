"""Makes an object that may be there already, and removes one that may be gone or another's.

Role: how providers that talk to a Kubernetes API create and delete. Must not: change what is there, or touch what is
not ours.
"""

from __future__ import annotations

from typing import Any

from capn.api.resources import Resource
from capn.errors import ConflictError, TransientError
from capn.kube.client import KubeClient
from capn.providers.stamps import is_owned, refuse_foreign


async def create_or_adopt(client: KubeClient, resource: Resource, obj: dict[str, Any], uid: str) -> dict[str, Any]:
    """Create, or adopt what a call before a crash has made. OwnershipError when it is another's."""
    try:
        return await client.create(resource, obj)
    except ConflictError:
        meta = obj["metadata"]
        found = await client.get(resource, meta["name"], meta["namespace"])
        if found is None:
            raise TransientError(f"{resource.kind} {meta['name']} came and went while it was being made") from None
        refuse_foreign(found, uid, kind=resource.kind)
        return found


async def delete_owned(client: KubeClient, resource: Resource, name: str, namespace: str, uid: str) -> bool:
    """Delete the object if it is ours; True when nothing of ours is there (any more)."""
    found = await client.get(resource, name, namespace)
    if found is None or not is_owned(found, uid):
        return True
    meta = found["metadata"]
    if meta.get("deletionTimestamp"):
        return False
    await client.delete(resource, name, namespace, uid=meta["uid"])
    return await client.get(resource, name, namespace) is None
