"""Phase NestingReady: capn runs in the child, and may make claims in a namespace of this cluster that is the child's.

Role: the namespace with its account here; CRDs, rights, settings, kubeconfig and Deployment there, at this controller's
own version. Must not: give the child any other right here, or write what is there already.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from capn import names
from capn.api.cluster import Nesting
from capn.api.resources import BY_KIND, CONFIG_MAP, DEPLOYMENT, NAMESPACE, SECRET
from capn.build.kubeconfig import ServerAddress, build_token_kubeconfig
from capn.build.nested_controller import (
    KUBECONFIG_SECRET,
    NestedControllerInput,
    ParentAccess,
    build_access_secret,
    build_deployment,
    build_objects,
)
from capn.build.nesting import ClaimsInput, build_claims_namespace, build_claims_objects, compute_digest
from capn.build.stamps import Stamp, read_stamp
from capn.bundle import load_controller
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.deps import INDEX_NAMESPACE
from capn.controllers.phases import Wait
from capn.controllers.timestamps import format_time
from capn.errors import OwnershipError, TerminalError
from capn.kube.client import KubeClient
from capn.settings import NestingSettings

# While something is on its way that no watch tells of: the child's Deployment, the end of a namespace.
_POLL_S = 2.0
_ROOT_CA = "kube-root-ca.crt"


async def reconcile_nesting(scope: ClusterScope) -> Wait | None:
    """Install capn in the child if its spec wants clusters of its own."""
    if not scope.cluster.spec.nests:
        return None
    settings = scope.deps.nesting
    if settings is None:
        raise TerminalError(
            "this controller was not told how children reach its cluster: set `nesting.server` in its settings",
            reason="NestingNotConfigured",
        )
    child = scope.require_child()
    claims = build_claims_input(scope)
    await _ensure_namespace(scope.deps.client, claims)
    given = _build_input(scope, claims, settings)
    access = await _ensure_access(scope, claims, settings)
    if isinstance(access, Wait):
        return access
    return await _ensure_controller(child.client, given, renew_after=access)


def build_claims_input(scope: ClusterScope) -> ClaimsInput:
    """Whose claims, as the spec allows them."""
    spec, ref = scope.cluster.spec, scope.ref
    nesting = spec.nesting or Nesting()
    return ClaimsInput(
        stamp=Stamp(namespace=ref.namespace, cluster=ref.name, cluster_uid=ref.uid),
        path=scope.cluster.path,
        depth=nesting.max_depth,
        infrastructure=(spec.infrastructure.kind.value, spec.infrastructure.endpoint),
        clusters=nesting.budget.clusters,
        machines=nesting.budget.machines,
    )


async def find_namespace(client: KubeClient, claims: ClaimsInput) -> dict[str, Any] | None:
    """The namespace of the claims, or None. OwnershipError when it is somebody else's."""
    found = await client.get(NAMESPACE, claims.namespace)
    if found is None:
        return None
    stamp = read_stamp(found)
    if stamp is None or stamp.cluster_uid != claims.stamp.cluster_uid:
        raise OwnershipError(f"the namespace {claims.namespace} exists and is not this cluster's: remove it")
    return found


async def _ensure_namespace(client: KubeClient, claims: ClaimsInput) -> None:
    """The namespace, then what is in it, then the mark on the namespace that all of it is there."""
    objects = build_claims_objects(claims)
    digest = compute_digest([build_claims_namespace(claims), *objects])
    found = await find_namespace(client, claims)
    annotations = ((found or {}).get("metadata") or {}).get("annotations") or {}
    if annotations.get(names.ANNOTATION_APPLIED) == digest:
        return
    if found is None:
        await client.apply(NAMESPACE, build_claims_namespace(claims))
    for obj in objects:
        await client.apply(BY_KIND[obj["apiVersion"], obj["kind"]], obj)
    await client.apply(NAMESPACE, build_claims_namespace(claims, applied=digest))


def _build_input(scope: ClusterScope, claims: ClaimsInput, settings: NestingSettings) -> NestedControllerInput:
    endpoint, route = scope.require_infrastructure(), scope.route
    host, port = (endpoint.endpoint_host, endpoint.endpoint_port) if route is None else (route.host, route.port)
    return NestedControllerInput(
        image=settings.image,
        path=claims.path,
        claims_namespace=claims.namespace,
        infrastructure=claims.infrastructure,
        server=f"https://{host}:{port}",
        server_name=None if route is None else route.server_name,
    )


async def _ensure_access(scope: ClusterScope, claims: ClaimsInput, settings: NestingSettings) -> str | Wait:
    """The child's kubeconfig for this cluster; when it is to be renewed."""
    assert scope.child is not None  # noqa: S101 - looked at by the phase
    child, now = scope.child.client, scope.deps.now()
    secret = await child.get(SECRET, KUBECONFIG_SECRET, names.SYSTEM_NAMESPACE)
    renew_after = _read_time(secret)
    if renew_after is not None and now < renew_after:
        return format_time(renew_after)
    root_ca = await scope.deps.client.get(CONFIG_MAP, _ROOT_CA, claims.namespace)
    if root_ca is None:
        return Wait("WaitingForNamespace", f"the namespace {claims.namespace} has no {_ROOT_CA} yet", _POLL_S)
    lifetime = timedelta(hours=settings.token_hours)
    token = await scope.deps.client.request_token(
        names.CHILD_ACCOUNT, claims.namespace, lifetime_s=int(lifetime.total_seconds())
    )
    kubeconfig = build_token_kubeconfig(
        cluster="parent",
        server=ServerAddress(settings.server, settings.server_name),
        ca_pem=root_ca["data"]["ca.crt"],
        user=names.CHILD_ACCOUNT,
        token=token,
    )
    access = ParentAccess(kubeconfig, format_time(now + lifetime / 2))
    for obj in load_controller():
        if obj["kind"] == "Namespace":
            await child.apply(NAMESPACE, obj)
    await child.apply(SECRET, build_access_secret(access))
    return access.renew_after


async def _ensure_controller(client: KubeClient, given: NestedControllerInput, *, renew_after: str) -> Wait | None:
    """Everything else, the Deployment last: if that is there as it should be, all of it is."""
    manifests = load_controller()
    wanted = build_deployment(given, manifests, renew_after=renew_after)
    meta = wanted["metadata"]
    found = await client.get(DEPLOYMENT, meta["name"], meta["namespace"])
    annotations = ((found or {}).get("metadata") or {}).get("annotations") or {}
    if annotations.get(names.ANNOTATION_APPLIED) != meta["annotations"][names.ANNOTATION_APPLIED]:
        for obj in build_objects(given, manifests):
            await client.apply(BY_KIND[obj["apiVersion"], obj["kind"]], obj)
        found = await client.apply(DEPLOYMENT, wanted)
    if int(((found or {}).get("status") or {}).get("availableReplicas") or 0) > 0:
        return None
    return Wait(
        "WaitingForController", "capn is installed in the child and does not run there yet", _POLL_S, blocks=False
    )


def _read_time(secret: dict[str, Any] | None) -> datetime | None:
    annotations = ((secret or {}).get("metadata") or {}).get("annotations") or {}
    try:
        return datetime.fromisoformat(annotations[names.ANNOTATION_RENEW_AFTER])
    except (KeyError, ValueError, TypeError):
        return None


async def delete_claims(scope: ClusterScope) -> Wait | None:
    """Delete the child's namespace here and with it every claim; whether the child lives does not matter.

    The namespace takes nothing new from the moment on at which it is deleted, so a child that lives makes no more.
    """
    if scope.cluster.spec.nesting is None:
        return None
    client, claims = scope.deps.client, build_claims_input(scope)
    try:
        found = await find_namespace(client, claims)
    except OwnershipError:
        return None
    if found is None:
        return None
    meta = found["metadata"]
    if not meta.get("deletionTimestamp"):
        await client.delete(NAMESPACE, meta["name"], uid=meta["uid"])
    left = len(scope.deps.clusters.by_index(INDEX_NAMESPACE, claims.namespace))
    return Wait("DeletingClaims", f"waiting for {left} cluster(s) claimed by this one to be deleted", _POLL_S)
