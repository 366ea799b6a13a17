"""The third-party programs that capn runs or puts into node images: what each is and how it is built.

Role: data only. Outputs: frozen `Part` and `KubernetesRelease` values. Must not: touch the disk or the network.
The versions here and in the `go.mod` of the named module below `hack/` belong together; a unit test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capn.errors import InvalidSpecError


@dataclass(frozen=True)
class Part:
    """One program. `module` is a directory below `hack/` with a pinned Go module; `package` the Go package to build.

    `published` says that the Kubernetes project publishes the bare binary under `release/<version>/bin/linux/<arch>/`.
    """

    name: str
    version: str
    module: str
    package: str
    ldflags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    cgo: bool = False
    published: bool = False


@dataclass(frozen=True)
class CPart(Part):
    """A program of one C file: `package` is the Go module that carries it, `source` the file's path in there."""

    source: str = ""


@dataclass(frozen=True)
class KubernetesRelease:
    """A Kubernetes version that can be built, the companions that its kubeadm names, and the modules that pin them.

    The companions' versions are those of kubeadm's constants (DefaultEtcdVersion, CoreDNSVersion).
    """

    version: str
    module: str
    etcd: str
    coredns: str
    etcd_module: str
    coredns_module: str


# The first is the default. The others are there for upgrades: each is built when it is asked for by its version.
RELEASES: tuple[KubernetesRelease, ...] = (
    KubernetesRelease(
        version="v1.37.2",
        module="parts/kubernetes",
        etcd="v3.7.0",
        coredns="v1.14.6",
        etcd_module="parts/etcd",
        coredns_module="parts/coredns",
    ),
    KubernetesRelease(
        version="v1.36.3",
        module="parts/kubernetes-1.36",
        etcd="v3.6.8",
        coredns="v1.14.2",
        etcd_module="parts/etcd-3.6",
        coredns_module="parts/coredns-1.14.2",
    ),
)
DEFAULT_VERSION = RELEASES[0].version

CONTAINERD_VERSION = "v2.4.2"
RUNC_VERSION = "v1.5.2"
CNI_VERSION = "v1.9.1"
FLANNEL_CNI_VERSION = "v0.9.1"
FLANNEL_VERSION = "v0.28.10"
CRICTL_VERSION = "v1.36.0"
PAUSE_VERSION = "v1.0.0"
KUBEVIRT_VERSION = "v1.7.0"
KUBEVIRT_MODULE = "kubevirt.io/kubevirt"

KUBERNETES_NAMES = (
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kubeadm",
    "kubelet",
    "kube-proxy",
)
CONTROL_PLANE_NAMES = ("kube-apiserver", "etcd", "kubectl", "kube-controller-manager", "kube-scheduler")
KUBEVIRT_STATIC_NAMES = (
    "virt-operator",
    "virt-api",
    "virt-controller",
    "virtctl",
    "virt-launcher-monitor",
    "virt-chroot",
    "virt-tail",
    "virt-probe",
    "virt-freezer",
)
KUBEVIRT_CGO_NAMES = ("virt-handler", "virt-launcher")  # these two call libvirt's library
CNI_NAMES = ("bridge", "loopback", "host-local", "portmap")

_STRIP = ("-s", "-w")
_STATIC = (*_STRIP, "-extldflags=-static")
_KUBEVIRT_FLAGS = tuple(
    f"kubevirt.io/client-go/version.{key}={value}"
    for key, value in (("gitVersion", KUBEVIRT_VERSION), ("gitCommit", "unknown"), ("gitTreeState", "archive"))
)


def find_release(version: str) -> KubernetesRelease:
    """The release with exactly this version, such as `v1.37.2`. Raises InvalidSpecError naming those that exist."""
    for release in RELEASES:
        if release.version == version:
            return release
    known = ", ".join(release.version for release in RELEASES)
    raise InvalidSpecError("version", f"no pinned modules for Kubernetes {version}; use one of: {known}")


def list_parts(version: str = DEFAULT_VERSION) -> tuple[Part, ...]:
    """Every part that belongs to this Kubernetes version, those that others wait for first."""
    release = find_release(version)
    parts = {part.name: part for part in (*_kubernetes_parts(release), *_etcd_parts(release), *_node_parts(release))}
    first = [parts[name] for name in CONTROL_PLANE_NAMES]
    return (*first, *(part for name, part in parts.items() if name not in CONTROL_PLANE_NAMES))


def list_kubevirt_parts() -> tuple[Part, ...]:
    """Every part of KubeVirt: a group of its own (minutes to build), which nothing but `--kubevirt` needs."""
    ldflags = (*_STRIP, *(f"-X={flag}" for flag in _KUBEVIRT_FLAGS))
    command = f"{KUBEVIRT_MODULE}/cmd"
    static = [_kubevirt_part(name, f"{command}/{name}", ldflags) for name in KUBEVIRT_STATIC_NAMES]
    linked = [_kubevirt_part(name, f"{command}/{name}", ldflags, cgo=True) for name in KUBEVIRT_CGO_NAMES]
    generator = _kubevirt_part("kubevirt-resource-generator", f"{KUBEVIRT_MODULE}/tools/resource-generator", _STRIP)
    container_disk = CPart(
        "container-disk",
        KUBEVIRT_VERSION,
        "parts/kubevirt",
        KUBEVIRT_MODULE,
        source="cmd/container-disk-v2alpha/main.c",
    )
    return (*static, generator, *linked, container_disk)


def select_parts(names: Sequence[str], version: str = DEFAULT_VERSION) -> tuple[Part, ...]:
    """The parts with these names, in the order asked for; none given means all but KubeVirt's.

    Raises InvalidSpecError.
    """
    ordinary = list_parts(version)
    parts = {part.name: part for part in (*ordinary, *list_kubevirt_parts())}
    unknown = [name for name in names if name not in parts]
    if unknown:
        raise InvalidSpecError("parts", f"unknown: {', '.join(unknown)}; use some of: {', '.join(parts)}")
    return tuple(parts[name] for name in names) if names else ordinary


def _kubevirt_part(name: str, package: str, ldflags: tuple[str, ...], *, cgo: bool = False) -> Part:
    return Part(name, KUBEVIRT_VERSION, "parts/kubevirt", package, ldflags, cgo=cgo)


def _kubernetes_parts(release: KubernetesRelease) -> list[Part]:
    ldflags = (*_STRIP, *_version_ldflags(release.version))
    return [
        Part(name, release.version, release.module, f"k8s.io/kubernetes/cmd/{name}", ldflags, published=True)
        for name in KUBERNETES_NAMES
    ]


def _version_ldflags(version: str) -> tuple[str, ...]:
    """What `kubeadm version` and user agents report; without these they say v0.0.0 and refuse to work together."""
    major, minor, _ = version.removeprefix("v").split(".")
    values = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "archive",
        "gitCommit": "unknown",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"-X={package}.{key}={value}" for package in packages for key, value in values.items())


def _etcd_parts(release: KubernetesRelease) -> list[Part]:
    return [
        Part("etcd", release.etcd, release.etcd_module, "go.etcd.io/etcd/server/v3", _STRIP),
        Part("etcdctl", release.etcd, release.etcd_module, "go.etcd.io/etcd/etcdctl/v3", _STRIP),
        Part("etcdutl", release.etcd, release.etcd_module, "go.etcd.io/etcd/etcdutl/v3", _STRIP),
    ]


def _node_parts(release: KubernetesRelease) -> list[Part]:
    return [
        *_containerd_parts(),
        Part(
            "runc",
            RUNC_VERSION,
            "parts/runc",
            "github.com/opencontainers/runc",
            (*_STATIC, f"-X=main.version={RUNC_VERSION.removeprefix('v')}"),
            tags=("seccomp", "osusergo", "netgo"),
            cgo=True,
        ),
        *_cni_parts(),
        Part(
            "coredns",
            release.coredns,
            release.coredns_module,
            "github.com/coredns/coredns",
            (*_STRIP, "-X=github.com/coredns/coredns/coremain.GitCommit=unknown"),
        ),
        Part(
            "flanneld",
            FLANNEL_VERSION,
            "parts/flannel",
            "github.com/flannel-io/flannel",
            (*_STATIC, f"-X=github.com/flannel-io/flannel/pkg/version.Version={FLANNEL_VERSION}"),
            tags=("osusergo", "netgo"),
            cgo=True,  # its UDP back end is C
        ),
        Part(
            "crictl",
            CRICTL_VERSION,
            "parts/crictl",
            "sigs.k8s.io/cri-tools/cmd/crictl",
            (*_STRIP, f"-X=sigs.k8s.io/cri-tools/pkg/version.Version={CRICTL_VERSION}"),
        ),
        Part("pause", PAUSE_VERSION, "pause", "capn.dev/hack/pause", _STRIP),
    ]


def _containerd_parts() -> list[Part]:
    base = "github.com/containerd/containerd/v2"
    ldflags = (*_STRIP, f"-X={base}/version.Version={CONTAINERD_VERSION}")
    return [
        Part(name, CONTAINERD_VERSION, "parts/containerd", f"{base}/cmd/{name}", ldflags, tags=("no_btrfs",))
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ]


def _cni_parts() -> list[Part]:
    base = "github.com/containernetworking/plugins/plugins"
    kinds = {"bridge": "main", "loopback": "main", "host-local": "ipam", "portmap": "meta"}
    own = [Part(name, CNI_VERSION, "parts/cni", f"{base}/{kinds[name]}/{name}", _STRIP) for name in CNI_NAMES]
    flannel = Part("flannel", FLANNEL_CNI_VERSION, "parts/cni-flannel", f"{base}/meta/flannel", _STRIP)
    return [*own, flannel]
