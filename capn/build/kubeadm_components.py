"""The part of kubeadm's ClusterConfiguration that says how a control plane's components are run.

Role: pure; what capn tells every control plane and what the user adds to it or overrides, once for `kubeadm init` and
once for kubeadm's record, which later control planes join by. Inputs: plain values; outputs: JSON-shaped sections.
Must not: hold what a single machine is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capn.api.kubeadm_arguments import KubeadmArguments
from capn.build.calm import ETCD_PACE, ETCD_PATIENCE, LEADER_ELECTION

# etcd binds to the advertised address by default, which a machine behind address translation gets no packets for.
_ETCD_EVERYWHERE = {"listen-client-urls": "https://0.0.0.0:2379", "listen-peer-urls": "https://0.0.0.0:2380"}


@dataclass(frozen=True, slots=True)
class ComponentsInput:
    """What decides how the components run.

    `server_name`: one more name of the API server, by which those reach it that have no route to the endpoint.
    `keeps_addresses`: machines have an address that their network card has not (see `capn.build.node_address`).
    """

    endpoint_host: str
    arguments: KubeadmArguments = field(default_factory=KubeadmArguments)
    server_name: str | None = None
    keeps_addresses: bool = False


def build_components(wanted: ComponentsInput) -> dict[str, dict[str, Any]]:
    """Sections `apiServer`, `controllerManager`, `scheduler` and `etcd` (v1beta4)."""
    asked = wanted.arguments
    named = [wanted.server_name] if wanted.server_name is not None else []
    sans = list(dict.fromkeys([wanted.endpoint_host, "127.0.0.1", "localhost", *asked.extra_sans, *named]))
    etcd = {**ETCD_PACE, **(_ETCD_EVERYWHERE if wanted.keeps_addresses else {})}
    return {
        "apiServer": {"certSANs": sans} | _build_args(ETCD_PATIENCE, asked.api_server.extra_args),
        "controllerManager": _build_args(LEADER_ELECTION, asked.controller_manager.extra_args),
        "scheduler": _build_args(LEADER_ELECTION, asked.scheduler.extra_args),
        "etcd": {"local": {"dataDir": "/var/lib/etcd"} | _build_args(etcd, asked.etcd.extra_args)},
    }


def _build_args(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, Any]:
    arguments = {**ours, **theirs}
    return {"extraArgs": [{"name": name, "value": arguments[name]} for name in sorted(arguments)]}
