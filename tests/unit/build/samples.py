"""Inputs that the tests of capn.build share. The key material is fixed, so that golden files do not change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from capn.api.cluster import NestedCluster
from capn.api.kubeadm_arguments import ExtraArgsOnly, KubeadmArguments
from capn.api.machine import NestedMachine
from capn.api.machine_template import Taint
from capn.build.cloudinit import BootstrapMode, UserDataInput
from capn.build.flannel import FlannelInput
from capn.build.kubeadm import ClusterConfigInput, JoinInput, NodeInput, build_init_config, build_join_config
from capn.build.pki import ClusterPki, KeyPair

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TOKEN = "abcdef.0123456789abcdef"
CA_HASH = "sha256:" + "ab" * 32


def make_cluster(**spec: object) -> NestedCluster:
    metadata = {"name": "demo", "namespace": "team-a", "uid": "3b8f6a1e-0000-4000-8000-000000000001"}
    return NestedCluster.model_validate({"metadata": metadata, "spec": {"version": "v1.37.2", **spec}})


def make_machine(**spec: object) -> NestedMachine:
    metadata = {"name": "demo-cp-0", "namespace": "team-a", "uid": "3b8f6a1e-0000-4000-8000-000000000002"}
    fields: dict[str, Any] = {"clusterName": "demo", "role": "control-plane", "version": "v1.37.2", **spec}
    return NestedMachine.model_validate({"metadata": metadata, "spec": fields})


def make_fixed_pair(name: str) -> KeyPair:
    """Readable stand-ins: cloud-init only copies them."""
    return KeyPair(
        f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n".encode(),
        f"-----BEGIN EC PRIVATE KEY-----\n{name}\n-----END EC PRIVATE KEY-----\n".encode(),
    )


def make_fixed_pki() -> ClusterPki:
    return ClusterPki(*(make_fixed_pair(name) for name in ("ca", "etcd-ca", "front-proxy-ca", "sa")))


def make_node(name: str = "demo-cp-0", **fields: object) -> NodeInput:
    values: dict[str, Any] = {"name": name, "provider_id": f"capn-libvirt://team-a/demo/{name}/0000"}
    values.update(fields)
    return NodeInput(**values)


def make_arguments(sans: Sequence[str] = (), **components: dict[str, str]) -> KubeadmArguments:
    """Arguments by component (api_server, ...); also such as validation would refuse."""
    sections = {name: ExtraArgsOnly.model_construct(extra_args=found) for name, found in components.items()}
    return KubeadmArguments.model_construct(None, extra_sans=list(sans), **sections)


def make_init_input(**fields: object) -> ClusterConfigInput:
    defaults: dict[str, Any] = {
        "version": "v1.37.2",
        "cluster": "demo",
        "endpoint_host": "10.89.0.10",
        "endpoint_port": 6443,
        "pod_cidr": "10.244.0.0/16",
        "service_cidr": "10.96.0.0/16",
        "dns_domain": "cluster.local",
        "node": make_node(),
        "token": TOKEN,
    }
    defaults.update(fields)
    return ClusterConfigInput(**defaults)


def make_join_input(**fields: object) -> JoinInput:
    node = make_node(
        "demo-pool-0",
        labels={"tier": "web", "node-role.kubernetes.io/web": ""},
        taints=(Taint(key="dedicated", value="web", effect="NoSchedule"),),
    )
    defaults: dict[str, Any] = {
        "node": node,
        "endpoint_host": "10.89.0.10",
        "endpoint_port": 6443,
        "ca_cert_hash": CA_HASH,
        "token": TOKEN,
    }
    defaults.update(fields)
    return JoinInput(**defaults)


def make_user_data_input(mode: BootstrapMode, **fields: object) -> UserDataInput:
    worker = mode is BootstrapMode.JOIN_WORKER
    config = (
        build_init_config(make_init_input())
        if mode is BootstrapMode.INIT
        else build_join_config(make_join_input(control_plane=not worker))
    )
    defaults: dict[str, Any] = {
        "hostname": "demo-pool-0" if worker else "demo-cp-0",
        "mode": mode,
        "endpoint_host": "10.89.0.10",
        "endpoint_port": 6443,
        "service_cidr": "10.96.0.0/16",
        "kubeadm_config": config,
        "pki": None if worker else make_fixed_pki(),
    }
    defaults.update(fields)
    return UserDataInput(**defaults)


def make_flannel_input(**fields: Any) -> FlannelInput:
    return FlannelInput(**{"pod_cidr": "10.244.0.0/16", "api_host": "10.89.0.10", "api_port": 6443, **fields})
