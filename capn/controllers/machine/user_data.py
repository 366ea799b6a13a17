"""From the custom resources to a machine's user-data: which kubeadm config, which keys.

Role: pure; the same inputs give the same bytes. Must not: give keys to a worker.
"""

from __future__ import annotations

from capn import names
from capn.api.cluster import Endpoint, NestedCluster
from capn.api.machine import NestedMachine
from capn.api.machine_template import Taint
from capn.build.cloudinit import BootstrapMode, RestoreInput, UserDataInput, build_user_data
from capn.build.failure_domains import compute_node_labels
from capn.build.kubeadm import (
    ClusterConfigInput,
    JoinInput,
    NodeInput,
    build_init_config,
    build_join_config,
    find_advertised,
)
from capn.build.pki import ClusterPki, KeyPair, ca_cert_hash


def build_machine_user_data(  # noqa: PLR0913 - the parts come from five places
    *,
    cluster: NestedCluster,
    machine: NestedMachine,
    endpoint: Endpoint,
    pki: ClusterPki,
    provider_id: str,
    token: str,
    joins: bool,
    node_address: str | None = None,
    serving: KeyPair | None = None,
) -> bytes:
    """User-data of the machine, which initializes the cluster or `joins` it, with a `token` of its own.

    With `serving`, a certificate for the cluster's endpoint, it waits for a snapshot and begins with that.
    """
    virtual = endpoint.virtual is True
    mode = compute_mode(machine, joins=joins)
    node = NodeInput(
        name=machine.metadata.name,
        provider_id=provider_id,
        # By its version an upgrade knows which container images the node has.
        labels=compute_node_labels(machine.spec) | {names.LABEL_VERSION: machine.spec.version},
        taints=compute_taints(cluster, machine),
        node_ip=node_address,
    )
    if not joins:
        config = _build_init(cluster, machine, endpoint, node, token)
    else:
        config = build_join_config(
            JoinInput(
                node=node,
                endpoint_host=endpoint.host,
                endpoint_port=endpoint.port,
                ca_cert_hash=ca_cert_hash(pki.ca.cert_pem),
                token=token,
                control_plane=mode is BootstrapMode.JOIN_CONTROL_PLANE,
            )
        )
    return build_user_data(
        UserDataInput(
            hostname=machine.metadata.name,
            mode=mode,
            endpoint_host=endpoint.host,
            endpoint_port=endpoint.port,
            service_cidr=cluster.spec.network.service_cidr,
            kubeadm_config=config,
            pki=None if mode is BootstrapMode.JOIN_WORKER else pki,
            node_address=node_address,
            holds_endpoint=virtual and mode is not BootstrapMode.JOIN_WORKER,
            restore=None
            if serving is None
            else RestoreInput(serving, find_advertised(node_address, endpoint_host=endpoint.host, is_virtual=virtual)),
        )
    )


def compute_mode(machine: NestedMachine, *, joins: bool) -> BootstrapMode:
    """What kubeadm does on this machine."""
    if machine.spec.role == names.ROLE_WORKER:
        return BootstrapMode.JOIN_WORKER
    return BootstrapMode.JOIN_CONTROL_PLANE if joins else BootstrapMode.INIT


def compute_taints(cluster: NestedCluster, machine: NestedMachine) -> list[Taint] | None:
    """The node's taints; None leaves kubeadm's own, which keeps pods off control planes.

    A cluster without workers has its pods on the control plane: else the smallest manifest would run nothing.
    """
    if machine.spec.role == names.ROLE_WORKER:
        return machine.spec.taints
    return None if cluster.spec.workers else []


def _build_init(cluster: NestedCluster, machine: NestedMachine, endpoint: Endpoint, node: NodeInput, token: str) -> str:
    spec, access = cluster.spec, cluster.status.access
    return build_init_config(
        ClusterConfigInput(
            version=machine.spec.version,
            cluster=cluster.metadata.name,
            endpoint_host=endpoint.host,
            endpoint_port=endpoint.port,
            pod_cidr=spec.network.pod_cidr,
            service_cidr=spec.network.service_cidr,
            dns_domain=spec.network.dns_domain,
            node=node,
            token=token,
            endpoint_is_virtual=endpoint.virtual is True,
            server_name=None if access is None else access.server_name,
            # The cluster may have been given others since; then the machine is replaced.
            arguments=machine.spec.kubeadm or spec.control_plane.arguments,
        )
    )
