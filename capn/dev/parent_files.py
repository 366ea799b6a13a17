"""What the embedded parent's programs read: certificates, kubeconfigs, the audit policy, free ports.

Role: writes those files once for a directory; what is there already is kept, so that a stopped parent comes back with
the same identity. Inputs: a layout and the time. Must not: start anything.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.pki import ClusterPki, KeyPair, generate_pki, issue_client, issue_server
from capn.dev.files import write_private
from capn.dev.parent_flags import (
    CONTROLLER_MANAGER,
    LOOPBACK,
    SCHEDULER,
    SERVICE_CIDR,
    ParentLayout,
    ParentPorts,
)

VALID = timedelta(days=365)
_API_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
_API_SERVER_PORT = 6443
_COMPLETE = "complete"
# Secrets' contents are left out: only who did what to which object.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def choose_ports(*, address: str = LOOPBACK, services: str = SERVICE_CIDR) -> ParentPorts:
    """Five ports that are free on loopback now; all are held open while choosing, so that they differ.

    An API server on an address of its own has the usual port: endpoints of the Service `kubernetes` never change it.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        free = ParentPorts(*(one.getsockname()[1] for one in sockets))
    where = replace(free, address=address, services=services)
    return where if address == LOOPBACK else replace(where, api_server=_API_SERVER_PORT)


def write_files(layout: ParentLayout, ports: ParentPorts, *, now: datetime) -> None:
    """Everything that the four programs read. Keys are 0600. Kubeconfigs follow the ports, certificates stay."""
    layout.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (layout.pki / _COMPLETE).exists():
        _write_pki(layout, generate_pki(now=now, cluster="parent"), now)
        write_private(layout.pki / _COMPLETE, b"")
    _write_reachable(layout, ports, now)
    layout.audit_policy.write_text(json.dumps(_AUDIT_POLICY))
    for name, path in (
        ("admin", layout.kubeconfig),
        (CONTROLLER_MANAGER, layout.component_kubeconfig(CONTROLLER_MANAGER)),
        (SCHEDULER, layout.component_kubeconfig(SCHEDULER)),
    ):
        _write_kubeconfig(layout, ports, client=name, path=path)


def _write_pki(layout: ParentLayout, pki: ClusterPki, now: datetime) -> None:
    for name, pair in (("ca", pki.ca), ("etcd-ca", pki.etcd_ca), ("front-proxy-ca", pki.proxy_ca), ("sa", pki.sa)):
        _write_pair(layout, name, pair)
    etcd_names = (LOOPBACK, "localhost")
    etcd = issue_server(pki.etcd_ca, common_name="etcd-server", sans=etcd_names, now=now, valid=VALID)
    _write_pair(layout, "etcd-server", etcd)
    clients: tuple[tuple[str, KeyPair, str, tuple[str, ...]], ...] = (
        ("etcd-client", pki.etcd_ca, "kube-apiserver", ()),
        ("front-proxy-client", pki.proxy_ca, "front-proxy-client", ()),
        ("admin", pki.ca, "capn-admin", ("system:masters",)),
        (CONTROLLER_MANAGER, pki.ca, f"system:{CONTROLLER_MANAGER}", ()),
        (SCHEDULER, pki.ca, f"system:{SCHEDULER}", ()),
    )
    for name, authority, user, groups in clients:
        pair = issue_client(authority, common_name=user, organizations=groups, now=now, valid=VALID)
        _write_pair(layout, name, pair)


def _write_reachable(layout: ParentLayout, ports: ParentPorts, now: datetime) -> None:
    """Certificates that depend on where the API server is: its own, and the one that kubelets know it by."""
    authority = KeyPair(layout.certificate("ca").read_bytes(), layout.key("ca").read_bytes())
    sans = list(dict.fromkeys([LOOPBACK, ports.address, ports.service_address, *_API_SERVER_NAMES]))
    serving = issue_server(authority, common_name="apiserver", sans=sans, now=now, valid=VALID)
    _write_pair(layout, "apiserver", serving)
    client = issue_client(
        authority, common_name="kube-apiserver-kubelet", organizations=("system:masters",), now=now, valid=VALID
    )
    _write_pair(layout, "kubelet-client", client)


def _write_pair(layout: ParentLayout, name: str, pair: KeyPair) -> None:
    layout.certificate(name).write_bytes(pair.cert_pem)
    write_private(layout.key(name), pair.key_pem)


def _write_kubeconfig(layout: ParentLayout, ports: ParentPorts, *, client: str, path: Path) -> None:
    pair = KeyPair(cert_pem=layout.certificate(client).read_bytes(), key_pem=layout.key(client).read_bytes())
    text = build_kubeconfig(
        cluster="parent",
        server=ServerAddress(f"https://{ports.address}:{ports.api_server}"),
        ca_pem=layout.certificate("ca").read_bytes(),
        client=pair,
    )
    write_private(path, text.encode())
