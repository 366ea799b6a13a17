"""Makes an object that may be there already, since a call before a crash or a neighbour's has made it.

Role: how providers that talk to a Kubernetes API create. Must not: change what is there, or take over what is not ours.
"""

from __future__ import annotations

from typing import Any

from capn.api.resources import Resource
from capn.errors import ConflictError, TransientError
from capn.kube.client import KubeClient
from capn.providers.stamps import refuse_foreign


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
