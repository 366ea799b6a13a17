"""What a node's programs read: certificates, kubeconfigs, and the settings of containerd, CNI, kubelet and kube-proxy.

Role: builds those (pure) and writes them into the node's directory. Inputs: the parent's files, the address block.
Paths inside the texts are those that `node_init` makes in the node's own mount namespace. Must not: start anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.pki import KeyPair, issue_client, issue_server
from capn.dev.addresses import AddressBlock
from capn.dev.files import write_private
from capn.dev.parent_files import VALID
from capn.dev.parent_flags import ParentLayout

PROGRAMS = ("containerd", "kubelet", "kube-proxy")
PLUGINS = ("bridge", "host-local", "loopback", "portmap")
# Those found by name in the node, beside PROGRAMS; `ctr` and the plugins serve people and other helpers as well.
TOOLS = ("containerd-shim-runc-v2", "runc", "ctr", "crictl")
NODE_PARTS = (*PROGRAMS, *TOOLS, *PLUGINS, "pause", "coredns")
PAUSE_IMAGE = "capn.dev/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CLUSTER_DOMAIN = "cluster.local"
_BRIDGE = "cni0"
_CONFIG = "/run/capn/state/config"
_BIN = "/run/capn/bin"
_SEARCH = f"svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}"
# Pulling again is not possible for what was imported, and a developer's full disk is no reason to evict.
_EVICTION = {
    "memory.available": "100Mi",
    "nodefs.available": "1%",
    "imagefs.available": "1%",
    "nodefs.inodesFree": "1%",
}


@dataclass(frozen=True, slots=True)
class NodePlan:
    """All that the files depend on. `server` is the API server's URL, `programs` maps parts to their paths."""

    name: str
    block: AddressBlock
    server: str
    cgroup: str
    peer: str
    programs: Mapping[str, Path]
    restrict_oom: bool


def may_lower_oom_score() -> bool:
    """Whether this host lets us; without CAP_SYS_RESOURCE runc would fail at every pod."""
    file = Path("/proc/self/oom_score_adj")
    before = file.read_text()
    with suppress(OSError):
        file.write_text(str(max(-1000, int(before) - 1)))
        file.write_text(before)
        return True
    return False


def write_node_files(directory: Path, plan: NodePlan, layout: ParentLayout, *, now: datetime) -> None:
    """Everything that the first process and the node's programs read; keys are 0600 and new each time."""
    config = directory / "config"
    for place in (config / "cni", *(directory / name for name in ("run", "lib", "log", "tmp"))):
        place.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    (directory / "tmp").chmod(0o1777)
    _write_credentials(config, plan, layout, now)
    for name, document in (
        ("kubelet.json", build_kubelet(plan)),
        ("kube-proxy.json", build_kube_proxy(plan)),
        ("cni/10-capn.conflist", build_cni(plan.block)),
    ):
        (config / name).write_text(json.dumps(document, indent=1))
    (config / "containerd.toml").write_text(build_containerd(restrict_oom=plan.restrict_oom))
    (directory / "init.json").write_text(json.dumps(build_init(plan), indent=1))


def _write_credentials(config: Path, plan: NodePlan, layout: ParentLayout, now: datetime) -> None:
    authority = KeyPair(layout.certificate("ca").read_bytes(), layout.key("ca").read_bytes())
    (config / "ca.crt").write_bytes(authority.cert_pem)
    sans = (str(plan.block.node), plan.name)
    serving = issue_server(authority, common_name=f"system:node:{plan.name}", sans=sans, now=now, valid=VALID)
    write_private(config / "kubelet.crt", serving.cert_pem)
    write_private(config / "kubelet.key", serving.key_pem)
    for program, user, groups in (
        ("kubelet", f"system:node:{plan.name}", ("system:nodes",)),
        ("kube-proxy", "system:kube-proxy", ()),
    ):
        client = issue_client(authority, common_name=user, organizations=groups, now=now, valid=VALID)
        text = build_kubeconfig(
            cluster="parent", server=ServerAddress(plan.server), ca_pem=authority.cert_pem, client=client
        )
        write_private(config / f"{program}.kubeconfig", text.encode())


def build_init(plan: NodePlan) -> dict[str, Any]:
    """What the node's first process sets up and runs."""
    block, dns = plan.block, plan.block.dns
    hosts = f"127.0.0.1 localhost\n{block.node} {plan.name}\n"
    kubelet = [
        f"{_BIN}/kubelet",
        f"--config={_CONFIG}/kubelet.json",
        f"--kubeconfig={_CONFIG}/kubelet.kubeconfig",
        f"--hostname-override={plan.name}",
        f"--node-ip={block.node}",
        "--root-dir=/var/lib/kubelet",
        "--cert-dir=/var/lib/kubelet/pki",
    ]
    return {
        "name": plan.name,
        "cgroup": plan.cgroup,
        "peer": plan.peer,
        "address": f"{block.node}/{block.link.prefixlen}",
        "gateway": str(block.host),
        "bridge": _BRIDGE,
        "programs": {name: str(plan.programs[name]) for name in (*PROGRAMS, *TOOLS, *PLUGINS)},
        "etc": {
            "hostname": f"{plan.name}\n",
            "hosts": hosts,
            "resolv.conf": f"search {_SEARCH}\nnameserver {dns}\n",
            "crictl.yaml": f"runtime-endpoint: unix://{CONTAINERD_SOCKET}\n",
        },
        "run": {
            "containerd": [f"{_BIN}/containerd", f"--config={_CONFIG}/containerd.toml"],
            "kubelet": kubelet,
            "kube-proxy": [f"{_BIN}/kube-proxy", f"--config={_CONFIG}/kube-proxy.json"],
        },
    }


def build_containerd(*, restrict_oom: bool) -> str:
    """Settings of containerd (TOML, version 3)."""
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = {str(restrict_oom).lower()}
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{_BIN}", "/opt/cni/bin"]
conf_dir = "{_CONFIG}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{_BIN}/runc"
SystemdCgroup = false
"""


def build_cni(block: AddressBlock) -> dict[str, Any]:
    """A bridge whose ports are isolated from each other: pods reach each other through the node's routing."""
    pods = str(block.pods)
    bridge = {
        "type": "bridge",
        "bridge": _BRIDGE,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "portIsolation": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": pods}]], "dataDir": "/run/cni/addresses"},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True, "backend": "nftables"}
    return {"cniVersion": "1.0.0", "name": "capn", "plugins": [bridge, portmap]}


def build_kubelet(plan: NodePlan) -> dict[str, Any]:
    """The kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_CONFIG}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{_CONFIG}/kubelet.crt",
        "tlsPrivateKeyFile": f"{_CONFIG}/kubelet.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{plan.cgroup}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": True,
        "clusterDNS": [str(plan.block.dns)],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "/etc/resolv.conf",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "evictionHard": _EVICTION,
        "imageGCHighThresholdPercent": 100,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "maxPods": 250,
        "shutdownGracePeriod": "0s",
    }


def build_kube_proxy(plan: NodePlan) -> dict[str, Any]:
    """kube-proxy's configuration: nftables, and no kernel value that belongs to the whole machine."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{_CONFIG}/kube-proxy.kubeconfig"},
        "hostnameOverride": plan.name,
        "clusterCIDR": str(plan.block.pods),
        "detectLocalMode": "ClusterCIDR",
        "oomScoreAdj": 0,
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }
