"""kubeadm configuration (kubeadm.k8s.io/v1beta4) for `kubeadm init` and `kubeadm join`.

Role: pure. Inputs: plain values; outputs: YAML. InvalidSpecError names the field of the user's object that cannot be
put into a configuration. Must not: hold a bootstrap token in an init configuration (a token belongs to one machine).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from capn.api.kubeadm_arguments import KubeadmArguments
from capn.api.machine_template import Taint
from capn.build.calm import PATCHES_PATH
from capn.build.kubeadm_components import ComponentsInput, build_components
from capn.build.tokens import TOKEN_VALID
from capn.build.yaml_text import build_yaml, build_yaml_documents, refuse_control_characters
from capn.errors import InvalidSpecError

API_VERSION = "kubeadm.k8s.io/v1beta4"
CRI_SOCKET = "unix:///run/containerd/containerd.sock"
# A guest under software emulation, beside others on two cores, needs minutes where hardware needs seconds.
_PATIENCE = "15m0s"
_TIMEOUTS = {
    "controlPlaneComponentHealthCheck": _PATIENCE,
    "kubeletHealthCheck": _PATIENCE,
    "kubernetesAPICall": _PATIENCE,
    "etcdAPICall": _PATIENCE,
    "tlsBootstrap": _PATIENCE,
    "discovery": _PATIENCE,
}
# Where every API server listens on its machine, whatever port leads to it from outside.
API_PORT = 6443
_TOKEN_TTL = f"{TOKEN_VALID.seconds // 60}m0s"
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
# What the NodeRestriction admission plugin lets a kubelet say of itself inside the reserved domains.
_SELF_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
_SELF_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_RESERVED = ("kubernetes.io", "k8s.io")


@dataclass(frozen=True, slots=True)
class NodeInput:
    """How a node registers. `name` is the machine's name and hostname.

    `node_ip` is set where the machine must not take the address of its network card (see `capn.build.node_address`).
    """

    name: str
    provider_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Taint] | None = None  # None: kubeadm's own, which keeps pods off control planes
    node_ip: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterConfigInput:
    """What `kubeadm init` is told."""

    version: str
    cluster: str
    endpoint_host: str
    endpoint_port: int
    pod_cidr: str
    service_cidr: str
    dns_domain: str
    node: NodeInput
    token: str = field(repr=False)
    endpoint_is_virtual: bool = False  # no network card has it: the API server advertises the machine's own address
    server_name: str | None = None
    arguments: KubeadmArguments = field(default_factory=KubeadmArguments)


@dataclass(frozen=True, slots=True)
class JoinInput:
    """What `kubeadm join` is told."""

    node: NodeInput
    endpoint_host: str
    endpoint_port: int
    ca_cert_hash: str
    token: str = field(repr=False)
    control_plane: bool = False


def build_init_config(config: ClusterConfigInput) -> str:
    """InitConfiguration, ClusterConfiguration, KubeletConfiguration and KubeProxyConfiguration, in one text."""
    documents = [
        _build_init(config),
        _build_cluster(config),
        _build_kubelet(),
        {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables"},
    ]
    for document in documents:
        refuse_control_characters(document, multiline=False)
    return build_yaml_documents(documents)


def build_join_config(join: JoinInput) -> str:
    """JoinConfiguration: token discovery with the CA pinned; for a control plane with its own local API endpoint."""
    document: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "apiServerEndpoint": join_host_port(join.endpoint_host, join.endpoint_port),
                "token": join.token,
                "caCertHashes": [join.ca_cert_hash],
            },
        },
        "nodeRegistration": _build_registration(join.node, control_plane=join.control_plane),
        "timeouts": dict(_TIMEOUTS),
    }
    if join.control_plane:
        own = {"advertiseAddress": join.node.node_ip} if join.node.node_ip else {}
        document["controlPlane"] = {"localAPIEndpoint": {**own, "bindPort": API_PORT}}
        document["patches"] = {"directory": PATCHES_PATH}
    refuse_control_characters(document, multiline=False)
    return build_yaml(document)


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def find_advertised(node_ip: str | None, *, endpoint_host: str, is_virtual: bool) -> str | None:
    """The address that kubeadm is told to advertise; None: it takes that of the interface with the default route."""
    if node_ip:
        return node_ip
    return endpoint_host if _is_address(endpoint_host) and not is_virtual else None


def kubelet_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that a kubelet may give itself; the controller sets the others once the node exists."""
    return {name: value for name, value in labels.items() if _may_label_itself(name)}


def _build_init(config: ClusterConfigInput) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"bindPort": API_PORT}
    advertised = find_advertised(
        config.node.node_ip, endpoint_host=config.endpoint_host, is_virtual=config.endpoint_is_virtual
    )
    if advertised:
        endpoint = {"advertiseAddress": advertised, **endpoint}
    return {
        "apiVersion": API_VERSION,
        "kind": "InitConfiguration",
        # With none given, or an empty list, kubeadm makes a token of its own that lives for a day.
        "bootstrapTokens": [{"token": config.token, "ttl": _TOKEN_TTL, "description": "capn: initializes"}],
        "localAPIEndpoint": endpoint,
        "nodeRegistration": _build_registration(config.node, control_plane=True),
        "patches": {"directory": PATCHES_PATH},
        "timeouts": dict(_TIMEOUTS),
    }


def _build_cluster(config: ClusterConfigInput) -> dict[str, Any]:
    components = ComponentsInput(
        endpoint_host=config.endpoint_host,
        arguments=config.arguments,
        server_name=config.server_name,
        keeps_addresses=config.node.node_ip is not None,
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterConfiguration",
        "clusterName": config.cluster,
        "kubernetesVersion": config.version,
        "controlPlaneEndpoint": join_host_port(config.endpoint_host, config.endpoint_port),
        "encryptionAlgorithm": "ECDSA-P256",
        "networking": {
            "podSubnet": config.pod_cidr,
            "serviceSubnet": config.service_cidr,
            "dnsDomain": config.dns_domain,
        },
        **build_components(components),
    }


def _build_kubelet() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "failSwapOn": True,
        "rotateCertificates": True,
        "serverTLSBootstrap": False,
    }


def _build_registration(node: NodeInput, *, control_plane: bool) -> dict[str, Any]:
    arguments = {"provider-id": node.provider_id}
    if node.node_ip:
        arguments["node-ip"] = node.node_ip
    for name, value in node.labels.items():
        _check_label(name, value)
    if labels := kubelet_labels(node.labels):
        arguments["node-labels"] = ",".join(f"{name}={labels[name]}" for name in sorted(labels))
    registration: dict[str, Any] = {
        "name": node.name,
        "criSocket": CRI_SOCKET,
        "imagePullPolicy": "IfNotPresent",
        "kubeletExtraArgs": [{"name": name, "value": value} for name, value in arguments.items()],
    }
    # Left out, kubeadm taints a control plane as usual; an empty list means 'no taint'.
    if node.taints is not None or not control_plane:
        registration["taints"] = [taint.to_json() for taint in node.taints or ()]
    return registration


def _check_label(name: str, value: str) -> None:
    prefix, _, short = name.rpartition("/")
    if not _LABEL_NAME.fullmatch(short) or ("/" in name and not _LABEL_PREFIX.fullmatch(prefix)):
        raise InvalidSpecError("spec.workers[].labels", "a label's name is [prefix/]name, as Kubernetes defines it")
    if not _LABEL_VALUE.fullmatch(value):
        raise InvalidSpecError(
            f"spec.workers[].labels[{name}]", "a label's value has at most 63 letters, digits, '-', '_' and '.'"
        )


def _may_label_itself(name: str) -> bool:
    prefix = name.rpartition("/")[0]
    reserved = any(prefix == domain or prefix.endswith(f".{domain}") for domain in _RESERVED)
    own = any(prefix == domain or prefix.endswith(f".{domain}") for domain in _SELF_PREFIXES)
    return not reserved or own or name in _SELF_LABELS


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
