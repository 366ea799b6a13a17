"""Reads what a plan needs of the parent: what is there, and what an apply would make of it.

Role: I/O only, and nothing but reads and dry runs. Inputs: a client, manifests; outputs: `PlanRequest`s. What the user
may not list is left out. Must not: write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, SERVICE_CIDR, Resource
from capn.errors import ApiStatusError, ConflictError, NotFoundError
from capn.kube.client import KubeClient
from capn.plan.apply import choose_manager, compute_applied, read_last_applied
from capn.plan.cluster import PlanRequest
from capn.plan.surroundings import Surroundings

Manifest = Mapping[str, Any]
ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_requests(client: KubeClient, manifests: Sequence[Manifest]) -> list[PlanRequest]:
    """One request a manifest, all of one look. NotFoundError when the CRDs are not installed."""
    namespaces = sorted({str(manifest["metadata"]["namespace"]) for manifest in manifests})
    clusters = await _list(client, NESTED_CLUSTER, namespaces)
    around = Surroundings(
        clusters=_parse(NestedCluster, clusters),
        machines=_parse(NestedMachine, await _list(client, NESTED_MACHINE, namespaces)),
        service_cidrs=await _read_service_cidrs(client),
    )
    live = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in clusters}
    found = []
    for manifest in manifests:
        meta = manifest["metadata"]
        found.append(await _ask(client, manifest, live.get((meta["namespace"], meta["name"])), around))
    return found


async def _ask(client: KubeClient, manifest: Manifest, live: Manifest | None, around: Surroundings) -> PlanRequest:
    """The object as it would be, and the API server's verdict on it."""
    last = None if live is None else read_last_applied(live)
    wanted = manifest if live is None or last is None else compute_applied(live, manifest, last)
    manager = names.FIELD_MANAGER + "-plan" if last is not None else choose_manager(live)
    try:
        made = await client.dry_run(NESTED_CLUSTER, _strip(wanted), manager=manager)
    except (ApiStatusError, ConflictError, NotFoundError) as error:
        return PlanRequest(wanted=wanted, around=around, answer=error)
    # A list's items that a client-side apply takes away stay in a server-side one by another manager.
    return PlanRequest(wanted=wanted if last is not None else made, around=around)


def _strip(obj: Manifest) -> dict[str, Any]:
    """What a manifest may say: the server keeps the rest itself."""
    meta = obj["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels", "annotations") if key in meta}
    return {
        "apiVersion": names.API_VERSION,
        "kind": NESTED_CLUSTER.kind,
        "metadata": kept,
        "spec": obj.get("spec") or {},
    }


async def _list(client: KubeClient, resource: Resource, namespaces: Sequence[str]) -> list[dict[str, Any]]:
    """Of all namespaces, or of those in question where the user may not see all."""
    try:
        return (await client.list(resource)).items
    except ApiStatusError as error:
        if error.code != HTTPStatus.FORBIDDEN:
            raise
    return [item for namespace in namespaces for item in (await client.list(resource, namespace=namespace)).items]


async def _read_service_cidrs(client: KubeClient) -> tuple[str, ...]:
    try:
        listed = await client.list(SERVICE_CIDR)
    except (ApiStatusError, NotFoundError):
        return ()  # an older API server, or a user who may not look
    return tuple(cidr for item in listed.items for cidr in item["spec"].get("cidrs") or () if ":" not in cidr)


def _parse(model: type[ModelT], items: Sequence[Manifest]) -> list[ModelT]:
    """Those that can be read; a broken one is explained by its own reconciler."""
    found = []
    for item in items:
        try:
            found.append(model.model_validate(item))
        except ValidationError:
            continue
    return found
