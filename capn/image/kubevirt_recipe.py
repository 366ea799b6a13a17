"""What KubeVirt's images are made of: Debian packages, programs, files and links. Data only.

Role: the one place to add a package or a file. Must not: do anything; `kubevirt.py` acts on it.
Debian is trixie: bookworm's libvirt and QEMU are older than KubeVirt 1.7 expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capn.image.oci import LayerEntry

SUITE = "trixie"
REPOSITORY = "capn.dev/kubevirt"
QEMU_ID = 107  # KubeVirt runs every guest as this user and group
STATIC_USER = "1001"  # any but root: the pods ask for it without saying which

# Packages are unpacked, not configured, so what a shell script needs is named here too.
PACKAGES = (
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "findutils",
    "gawk",
    "grep",
    "iproute2",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-log",
    "mount",
    "nftables",
    "ovmf",
    "procps",
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "sed",
    "tar",
    "util-linux",
    "xorriso",
)
DROPPED = (
    "boot/",
    "dev/",
    "etc/apt",
    "etc/group",
    "etc/hostname",
    "etc/init.d",
    "etc/libvirt/hooks",
    "etc/libvirt/qemu.conf",
    "etc/nsswitch.conf",
    "etc/passwd",
    "etc/resolv.conf",
    "proc/",
    "sys/",
    "tmp/",
    "usr/bin/qemu-io",
    "usr/bin/qemu-nbd",
    "usr/bin/qemu-storage-daemon",
    "usr/bin/qemu-system-i386",  # libvirt would ask it for what it can do, at every start
    "usr/bin/qemu-system-x86_64-microvm",
    "usr/include",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/share/bash-completion",
    "usr/share/common-licenses",
    "usr/share/icons",
    "usr/share/perl",
    "usr/share/zoneinfo",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log",
    "var/run",
)

# The same user by KubeVirt's name and by Debian's: libvirtd does not start when its built-in default is unknown.
_PASSWD = "".join(
    f"{name}:x:{number}:{number}:{name}:{home}:/bin/bash\n"
    for name, number, home in (("root", 0, "/root"), ("qemu", QEMU_ID, "/home/qemu"), ("libvirt-qemu", QEMU_ID, "/"))
)
_GROUP = f"root:x:0:\nqemu:x:{QEMU_ID}:\nlibvirt-qemu:x:{QEMU_ID}:\nlibvirt:x:108:\n"
# Debian builds libvirt without its modular daemons, and libvirtd serves the same protocol under another socket's name.
# The link at the end lets the process be called virtqemud, which is how virt-handler finds it.
_VIRTQEMUD = """#!/bin/sh
mkdir -p /run/libvirt
ln -sfn libvirt-sock /run/libvirt/virtqemud-sock
exec /usr/libexec/capn/virtqemud "$@"
"""
# CAP_NET_BIND_SERVICE, permitted and effective, in the kernel's format (linux/capability.h, VFS_CAP_REVISION_2).
_NET_BIND_SERVICE = bytes.fromhex("0100000200040000000000000000000000000000")

_COMMON_FILES = (
    LayerEntry("etc/group", content=_GROUP, mode=0o644),
    LayerEntry("etc/passwd", content=_PASSWD, mode=0o644),
    LayerEntry("tmp", mode=0o1777),
    LayerEntry("var/log/libvirt/qemu"),
    # Relative on purpose: an absolute link leads out of the container when virt-handler looks from outside.
    LayerEntry("var/run", link="../run"),
)
_DAEMON_FILES = (
    LayerEntry("usr/libexec/capn/virtqemud", link="../../sbin/libvirtd"),
    LayerEntry("usr/sbin/virtqemud", content=_VIRTQEMUD),
)


@dataclass(frozen=True)
class Contents:
    """What an image holds: programs in usr/bin, files of KubeVirt's own module by path, other entries.

    `debian` says whether it stands on the Debian layer; an image without it runs as `STATIC_USER`.
    """

    programs: tuple[str, ...]
    debian: bool = False
    module_files: Mapping[str, tuple[str, int]] | None = None  # path in the image -> path in the module and mode
    entries: tuple[LayerEntry, ...] = ()


_NSSWITCH = {"etc/nsswitch.conf": ("cmd/virt-launcher/nsswitch.conf", 0o644)}
_LAUNCHER_FILES = {
    **_NSSWITCH,
    "etc/libvirt/hooks/qemu": ("cmd/virt-launcher/qemu", 0o755),
    "etc/libvirt/qemu.conf": ("cmd/virt-launcher/qemu.conf", 0o644),
    "etc/libvirt/virtqemud.conf": ("cmd/virt-launcher/virtqemud.conf", 0o644),
    "usr/bin/node-labeller.sh": ("cmd/virt-launcher/node-labeller/node-labeller.sh", 0o755),
}
_LAUNCHER_PROGRAMS = ("container-disk", "virt-freezer", "virt-launcher", "virt-launcher-monitor", "virt-probe")

CONTENTS: Mapping[str, Contents] = {
    "virt-operator": Contents(("virt-operator",)),
    "virt-api": Contents(("virt-api",)),
    "virt-controller": Contents(("virt-controller",)),
    "virt-handler": Contents(
        ("virt-chroot", "virt-handler"), debian=True, module_files=_NSSWITCH, entries=_COMMON_FILES
    ),
    "virt-launcher": Contents(
        (*_LAUNCHER_PROGRAMS, "virt-tail"),
        debian=True,
        module_files=_LAUNCHER_FILES,
        entries=(*_COMMON_FILES, *_DAEMON_FILES),
    ),
}
CAPABILITIES: Mapping[str, bytes] = {"virt-launcher-monitor": _NET_BIND_SERVICE}
