"""What control planes join with: kubeadm's record in the child gets the arguments that the spec asks for.

Role: done right before a control plane is made and at no other time, so that the one that is marked with these
arguments is the one that gets them; and so with its version, which differs from the record's after an upgrade that was
taken back or overtaken by another. Must not: touch those that run; they are replaced.
"""

from __future__ import annotations

from capn.api.resources import CONFIG_MAP, NESTED_CLUSTER
from capn.build.kubeadm_components import ComponentsInput, build_components
from capn.build.kubeadm_record import NAME, NAMESPACE, build_joining_patch
from capn.build.owners import build_subject
from capn.controllers.cluster.scope import ClusterScope
from capn.errors import TransientError


async def record_components(scope: ClusterScope, version: str) -> None:
    """Write arguments, certificate names and the version of the next one to `kubeadm-config`, if others are there."""
    status = scope.cluster.status
    if scope.kubeadm_config is None or status.endpoint is None:
        raise TransientError("kubeadm's record was not read, or the endpoint is not in the status yet")
    components = build_components(
        ComponentsInput(
            endpoint_host=status.endpoint.host,
            arguments=scope.cluster.spec.control_plane.arguments,
            server_name=None if status.access is None else status.access.server_name,
            keeps_addresses=scope.provider.keeps_addresses,
        )
    )
    patch = build_joining_patch(scope.kubeadm_config, version, components)
    if patch is None:
        return
    client = scope.require_child().client
    scope.kubeadm_config = await client.merge_patch(CONFIG_MAP, NAME, NAMESPACE, patch)
    subject = build_subject(NESTED_CLUSTER, scope.cluster.metadata)
    message = (
        f"{NAME} in the child is as spec.controlPlane asks for now, in {version}: control planes that join have it"
    )
    scope.deps.recorder.event(subject, "Normal", "ArgumentsRecorded", message)
