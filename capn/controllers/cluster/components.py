"""What control planes join with: kubeadm's record in the child gets their version, and the arguments of the spec.

Role: done right before a control plane is made, when no other one joins, so that the one that is marked with these
arguments is the one that gets them. Must not: touch those that run; they are replaced.
"""

from __future__ import annotations

from capn.api.resources import CONFIG_MAP, NESTED_CLUSTER
from capn.build.kubeadm_components import ComponentsInput, build_components
from capn.build.kubeadm_record import NAME, NAMESPACE, build_components_patch, build_version_patch, read_version
from capn.build.owners import build_subject
from capn.controllers.cluster.scope import ClusterScope
from capn.errors import TransientError


async def record_version(scope: ClusterScope, version: str) -> None:
    """Write to `kubeadm-config` the version whose images the next control plane has, if another is there."""
    if scope.kubeadm_config is None:
        raise TransientError("kubeadm's record was not read")
    if read_version(scope.kubeadm_config) == version:
        return
    patch = build_version_patch(scope.kubeadm_config, version)
    scope.kubeadm_config = await scope.require_child().client.merge_patch(CONFIG_MAP, NAME, NAMESPACE, patch)


async def record_components(scope: ClusterScope, version: str) -> None:
    """Write version, arguments and certificate names to `kubeadm-config`, if others are there.

    An upgrade that was taken back or changed may have left a version there that no control plane has.
    """
    status = scope.cluster.status
    if scope.kubeadm_config is None or status.endpoint is None:
        raise TransientError("kubeadm's record was not read, or the endpoint is not in the status yet")
    await record_version(scope, version)
    components = build_components(
        ComponentsInput(
            endpoint_host=status.endpoint.host,
            arguments=scope.cluster.spec.control_plane.arguments,
            server_name=None if status.access is None else status.access.server_name,
            keeps_addresses=scope.provider.keeps_addresses,
        )
    )
    patch = build_components_patch(scope.kubeadm_config, components)
    if patch is None:
        return
    client = scope.require_child().client
    scope.kubeadm_config = await client.merge_patch(CONFIG_MAP, NAME, NAMESPACE, patch)
    subject = build_subject(NESTED_CLUSTER, scope.cluster.metadata)
    message = f"{NAME} in the child is as spec.controlPlane asks for now: control planes that join have it"
    scope.deps.recorder.event(subject, "Normal", "ArgumentsRecorded", message)
