"""The container images inside a node image: which ones, and which programs each holds.

Role: from the names that `kubeadm config images list` prints, and our own two, to layers. Inputs: paths of the programs
and of the network layer. Output: `OciImage` values whose layers are written below `work`. Must not: run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capn.build.flannel import FLANNEL_IMAGE
from capn.errors import NotFoundError
from capn.image.oci import Layer, LayerEntry, OciImage, write_layer

TOOLBOX_IMAGE = "capn.dev/toolbox:1"
# What a test or a demo needs in a pod: a shell, look-ups, a web client and server, and the usual small tools.
TOOLBOX_APPLETS = (
    *(
        "ash",
        "cat",
        "cp",
        "date",
        "df",
        "dd",
        "echo",
        "env",
        "false",
        "free",
        "grep",
        "head",
        "hostname",
        "httpd",
        "id",
    ),
    *("ifconfig", "ip", "kill", "ls", "md5sum", "mkdir", "mount", "mv", "nc", "netstat", "nslookup", "ping", "printf"),
    *(
        "ps",
        "pwd",
        "rm",
        "route",
        "sed",
        "seq",
        "sh",
        "sha256sum",
        "sleep",
        "sort",
        "stat",
        "tail",
        "tar",
        "tee",
        "test",
    ),
    *("top", "touch", "traceroute", "true", "uname", "uptime", "vi", "wc", "wget", "which", "yes"),
)
_SHELL_APPLETS = ("cat", "cp", "ls", "mkdir", "rm", "sh")
# Debian's maintainer scripts would make these links; the layer is unpacked without running any.
_IPTABLES_LINKS = (
    *("iptables", "iptables-save", "iptables-restore"),
    *("ip6tables", "ip6tables-save", "ip6tables-restore"),
)
_BIN = "usr/local/bin"


@dataclass(frozen=True)
class Contents:
    """What an image holds: programs by path, whether they stand on the network layer, and the entry point."""

    programs: Mapping[str, str]  # path in the image -> name of the part
    network: bool = False
    entrypoint: tuple[str, ...] = ()


def find_sandbox(names: Sequence[str]) -> str:
    """The name of the pause image among those that kubeadm lists. Raises NotFoundError."""
    for name in names:
        if _base_name(name) == "pause":
            return name
    raise NotFoundError(f"kubeadm lists no pause image: {', '.join(names)}")


def build_contents(name: str) -> Contents:
    """What the image that kubeadm calls `name` must hold. Raises NotFoundError if this release needs an unknown one."""
    base = _base_name(name)
    if base in {"kube-apiserver", "kube-controller-manager", "kube-scheduler"}:
        return Contents({f"{_BIN}/{base}": base})
    known = {
        "kube-proxy": Contents({f"{_BIN}/kube-proxy": "kube-proxy"}, network=True),
        "etcd": Contents({f"{_BIN}/etcd": "etcd", f"{_BIN}/etcdctl": "etcdctl"}),
        "coredns": Contents({"coredns": "coredns"}, entrypoint=("/coredns",)),
        "pause": Contents({"pause": "pause"}, entrypoint=("/pause",)),
    }
    if base not in known:
        raise NotFoundError(f"kubeadm wants the image {name}, but the recipe does not know what is in it")
    return known[base]


FLANNEL_CONTENTS = Contents(
    {"opt/bin/flanneld": "flanneld", "opt/cni/bin/flannel": "flannel"}, network=True, entrypoint=("/opt/bin/flanneld",)
)


def build_images(
    names: Sequence[str], *, parts: Mapping[str, Path], network: Layer, busybox: Path, work: Path
) -> list[OciImage]:
    """Write the layers of every image to `work`: those that kubeadm names, flannel's and the toolbox."""
    links = _network_links(work / "network-links.tar")
    images = []
    for number, (name, contents) in enumerate(
        [*((n, build_contents(n)) for n in names), (FLANNEL_IMAGE, FLANNEL_CONTENTS)]
    ):
        entries = [LayerEntry(path, source=parts[part]) for path, part in contents.programs.items()]
        if _base_name(name) == "etcd":
            entries += _build_file_tools(busybox)
        if name == FLANNEL_IMAGE:
            entries += [LayerEntry(path, link="/opt/cni/bin/flannel") for path in ("flannel", "opt/bin/flannel")]
        own = write_layer(entries, work / f"layer-{number}.tar")
        layers = (network, links, own) if contents.network else (own,)
        images.append(OciImage(name, layers, entrypoint=contents.entrypoint))
    return [*images, build_toolbox(busybox, work / "toolbox.tar")]


def _build_file_tools(busybox: Path) -> list[LayerEntry]:
    """What is done in etcd's container: a snapshot gets out of it, and the machine is told to leave. No shell."""
    links = [LayerEntry(f"bin/{name}", link="busybox") for name in ("cat", "rm", "test", "touch")]
    return [LayerEntry("bin/busybox", source=busybox), *links]


def _network_links(target: Path) -> Layer:
    tools = [LayerEntry(f"usr/sbin/{name}", link="xtables-nft-multi") for name in _IPTABLES_LINKS]
    shell = [LayerEntry(f"usr/bin/{name}", link="busybox") for name in _SHELL_APPLETS]
    return write_layer([*tools, *shell, LayerEntry("run"), LayerEntry("tmp", mode=0o1777)], target)


def build_toolbox(busybox: Path, target: Path) -> OciImage:
    """Write the layer of the toolbox, a shell and small tools for people and tests, to `target`."""
    applets = [LayerEntry(f"bin/{name}", link="busybox") for name in TOOLBOX_APPLETS]
    entries = [LayerEntry("bin/busybox", source=busybox), *applets, LayerEntry("tmp", mode=0o1777), LayerEntry("www")]
    return OciImage(TOOLBOX_IMAGE, (write_layer(entries, target),), command=("sleep", "2147483647"))


def _base_name(image: str) -> str:
    """`pause` of `<registry>/pause:3.10`."""
    return image.rpartition("/")[2].partition(":")[0]
