"""Phase InfrastructureReady: the cluster's network and endpoint exist at the provider."""

from __future__ import annotations

from typing import Protocol

from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.build.version_skew import find_skew
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
    """Say so, rather than do half, when the spec asks a running cluster for what this version cannot do."""
    spec = scope.cluster.spec
    control_planes = scope.control_planes()
    running = {machine.spec.version for machine in control_planes}
    if running and spec.version not in running:
        if (skew := find_skew(scope.workers(), spec.version)) is not None:
            raise InvalidSpecError("spec.version", skew, reason="VersionSkew")
        raise InvalidSpecError(
            "spec.version",
            f"upgrading a running cluster is not supported yet; set it back to {min(running)}",
            reason="UpgradeUnsupported",
        )
