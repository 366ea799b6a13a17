"""Phase InfrastructureReady: the cluster's network and endpoint exist at the provider."""

from __future__ import annotations

from typing import Protocol

from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.build.upgrade_rules import FIELD, find_upgrade_refusal
from capn.controllers.cluster.live import refuse_if_deleting
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.errors import InvalidSpecError
from capn.providers.base import ClusterRequest


async def reconcile_infrastructure(scope: ClusterScope) -> Wait | None:
    """Ensure the network; from then on the endpoint never changes, since certificates and kubeconfigs hold it."""
    spec = scope.cluster.spec
    if spec.claim is None:
        refuse_unsupported_changes(scope)
    known = scope.cluster.status.endpoint
    request = ClusterRequest(
        ref=scope.ref,
        path=scope.cluster.path,
        version=spec.version,
        pod_cidr=spec.network.pod_cidr,
        service_cidr=spec.network.service_cidr,
        endpoint_host=known.host if known is not None else None,
    )
    if await scope.provider.observe_cluster(scope.ref) is None:
        await refuse_if_deleting(scope)
    scope.infrastructure = await scope.provider.ensure_cluster(request)
    return None


class Changing(Protocol):
    """What a change of a cluster is judged by: a scope, or what is known of one that is only planned."""

    @property
    def cluster(self) -> NestedCluster:
        """The cluster as it is asked for."""
        ...

    def control_planes(self) -> list[NestedMachine]:
        """Control-plane machines that exist, by ordinal."""
        ...

    def workers(self) -> list[NestedMachine]:
        """Worker machines that exist."""
        ...


def refuse_unsupported_changes(scope: Changing) -> None:
    """Say so, rather than do half, when the spec asks a running cluster for what cannot be."""
    refusal = find_upgrade_refusal(scope.cluster, scope.control_planes(), scope.workers())
    if refusal is not None:
        raise InvalidSpecError(FIELD, refusal.message, reason=refusal.rule)
