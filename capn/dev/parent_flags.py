"""Command lines of the embedded parent's four programs.

Role: pure. Inputs: binaries, files and ports. Outputs: argv lists. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Of the range set aside for benchmarks (RFC 2544): no child and no machine network will ever use it.
SERVICE_CIDR = "198.18.0.0/24"
ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
PROGRAMS = (ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER)


@dataclass(frozen=True, slots=True)
class ParentPorts:
    """Loopback ports of one parent; the API server's is on `address`, which pods of a node can reach as well."""

    etcd: int
    etcd_peer: int
    api_server: int
    controller_manager: int
    scheduler: int
    address: str = LOOPBACK
    services: str = SERVICE_CIDR

    @property
    def service_address(self) -> str:
        """Cluster IP of the API server."""
        return str(IPv4Network(self.services)[1])


@dataclass(frozen=True, slots=True)
class ParentLayout:
    """Where everything of one parent is."""

    directory: Path

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.directory / "pki"

    @property
    def run(self) -> Path:
        """Pid files and logs."""
        return self.directory / "run"

    @property
    def audit_log(self) -> Path:
        """One JSON line a request, if the audit log is on."""
        return self.directory / "audit.log"

    @property
    def audit_policy(self) -> Path:
        """What is audited."""
        return self.directory / "audit-policy.yaml"

    @property
    def etcd_data(self) -> Path:
        """Data directory of etcd."""
        return self.directory / "etcd"

    def certificate(self, name: str) -> Path:
        """The certificate of that name."""
        return self.pki / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Its private key."""
        return self.pki / f"{name}.key"

    def component_kubeconfig(self, name: str) -> Path:
        """The kubeconfig of a component."""
        return self.pki / f"{name}.kubeconfig"


def build_etcd(binaries: Mapping[str, Path], layout: ParentLayout, ports: ParentPorts) -> list[str]:
    """Build etcd with client certificates; fsync is off, since the data is thrown away with the directory."""
    client, peer = (f"https://{LOOPBACK}:{ports.etcd}", f"https://{LOOPBACK}:{ports.etcd_peer}")
    return [
        str(binaries[ETCD]),
        "--name=parent",
        f"--data-dir={layout.etcd_data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=parent={peer}",
        f"--cert-file={layout.certificate('etcd-server')}",
        f"--key-file={layout.key('etcd-server')}",
        "--client-cert-auth=true",
        f"--trusted-ca-file={layout.certificate('etcd-ca')}",
        f"--peer-cert-file={layout.certificate('etcd-server')}",
        f"--peer-key-file={layout.key('etcd-server')}",
        "--peer-client-cert-auth=true",
        f"--peer-trusted-ca-file={layout.certificate('etcd-ca')}",
        "--unsafe-no-fsync=true",
        "--log-level=warn",
    ]


def build_api_server(
    binaries: Mapping[str, Path], layout: ParentLayout, ports: ParentPorts, *, audit: bool
) -> list[str]:
    """The API server with RBAC, the aggregation layer's certificates and, if wanted, an audit log."""
    logged = [f"--audit-log-path={layout.audit_log}", f"--audit-policy-file={layout.audit_policy}"] if audit else []
    return [
        str(binaries[API_SERVER]),
        f"--bind-address={ports.address}",
        f"--advertise-address={ports.address}",
        f"--secure-port={ports.api_server}",
        *_kubelet_access(layout, ports),
        f"--etcd-servers=https://{LOOPBACK}:{ports.etcd}",
        f"--etcd-cafile={layout.certificate('etcd-ca')}",
        f"--etcd-certfile={layout.certificate('etcd-client')}",
        f"--etcd-keyfile={layout.key('etcd-client')}",
        f"--tls-cert-file={layout.certificate('apiserver')}",
        f"--tls-private-key-file={layout.key('apiserver')}",
        f"--client-ca-file={layout.certificate('ca')}",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={ports.services}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.certificate('sa')}",
        f"--service-account-signing-key-file={layout.key('sa')}",
        *_front_proxy(layout),
        # Stricter than the default: what capn writes must pass where administrators turn this on.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        "--allow-privileged=true",
        "--profiling=false",
        *logged,
    ]


def _kubelet_access(layout: ParentLayout, ports: ParentPorts) -> list[str]:
    """How pods reach the API server and how it reaches them: logs, exec, port-forward, webhooks, aggregated APIs."""
    if ports.address == LOOPBACK:
        # A loopback address is refused as an endpoint of the Service `kubernetes`, again every ten seconds.
        return ["--endpoint-reconciler-type=none"]
    return [
        "--enable-aggregator-routing=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={layout.certificate('ca')}",
        f"--kubelet-client-certificate={layout.certificate('kubelet-client')}",
        f"--kubelet-client-key={layout.key('kubelet-client')}",
    ]


def _front_proxy(layout: ParentLayout) -> list[str]:
    return [
        f"--requestheader-client-ca-file={layout.certificate('front-proxy-ca')}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={layout.certificate('front-proxy-client')}",
        f"--proxy-client-key-file={layout.key('front-proxy-client')}",
    ]


def build_controller_manager(binaries: Mapping[str, Path], layout: ParentLayout, ports: ParentPorts) -> list[str]:
    """Garbage collection, namespaces, service accounts and the rest of the stock controllers."""
    return [
        *_component(binaries, layout, CONTROLLER_MANAGER, ports.controller_manager),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={layout.key('sa')}",
        f"--root-ca-file={layout.certificate('ca')}",
        f"--cluster-signing-cert-file={layout.certificate('ca')}",
        f"--cluster-signing-key-file={layout.key('ca')}",
    ]


def build_scheduler(binaries: Mapping[str, Path], layout: ParentLayout, ports: ParentPorts) -> list[str]:
    """The scheduler; without a node it has nothing to do."""
    return _component(binaries, layout, SCHEDULER, ports.scheduler)


def _component(binaries: Mapping[str, Path], layout: ParentLayout, name: str, port: int) -> list[str]:
    kubeconfig = layout.component_kubeconfig(name)
    return [
        str(binaries[name]),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--profiling=false",
    ]
