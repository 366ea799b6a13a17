"""What a node image is made of: Debian packages, units, programs and where they go. Data only.

Role: the one place to add a package or a file. Files with fixed content are in `rootfs/`, laid out as in the node.
Must not: do anything; `rootfs.py` and its neighbours act on it.
"""

from __future__ import annotations

from pathlib import Path

SUITE = "bookworm"
KERNEL_ARCHITECTURES = ("amd64", "arm64")

NODE_PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "cloud-init",
    "conntrack",
    "dbus",
    "e2fsprogs",
    "ebtables",
    "ethtool",
    "iproute2",
    "iptables",
    "keepalived",
    "kmod",
    "mount",
    "nftables",
    "openssl",
    "procps",
    "socat",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "util-linux",
)
# The layer below kube-proxy's and flannel's programs, which call these tools.
NETWORK_PACKAGES = ("busybox-static", "conntrack", "iproute2", "iptables", "kmod", "nftables")

# Never useful in a node, wherever they come from.
EXCLUDED_PATHS = (
    "/usr/share/doc/*",
    "/usr/share/i18n/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)
# The network layer keeps only what its tools need at run time.
NETWORK_LAYER_DROPPED = (
    "boot/",
    "dev/",
    "etc/apt",
    "etc/hostname",
    "etc/init.d",
    "etc/resolv.conf",
    "proc/",
    "sys/",
    "usr/include",
    "usr/share",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log",
)

# Directories of the node by program; all others go to usr/bin.
PROGRAM_DIRECTORIES = {"runc": "usr/sbin"}
NODE_PROGRAMS = (
    "containerd",
    "containerd-shim-runc-v2",
    "crictl",
    "ctr",
    "etcdutl",  # makes etcd's data of a snapshot, before there is an etcd
    "kubeadm",
    "kubectl",
    "kubelet",
    "runc",
)
CNI_DIRECTORY = "opt/cni/bin"
CNI_PROGRAMS = ("bridge", "flannel", "host-local", "loopback", "portmap")
EMPTY_DIRECTORIES = ("etc/cni/net.d", "etc/kubernetes/manifests", "var/lib/kubelet")

ENABLED_UNITS = ("containerd.service", "kubelet.service", "systemd-networkd.service", "systemd-resolved.service")
# Units that a node does not need. The two of cloud-init: all its work is done by -local and -final (see cloud.cfg).
# The consoles: no login prompt between the bootstrap's reports, and nobody could log in anyway. Not systemd-logind: it
# is what hears the power button (spec.powerState).
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "cloud-config.service",
    "cloud-init-hotplugd.socket",
    "cloud-init.service",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-binfmt.service",
    "systemd-networkd-persistent-storage.service",
    "systemd-pstore.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)
REMOVED_PATHS = (
    "boot/System.map-*",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/ssh",
    "root/.ssh",
    # cloud-init checks user-data against its schema if it can import this: seconds of an emulated boot. Ours is checked
    # by a test instead.
    "usr/lib/python3/dist-packages/jsonschema",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/lib/dbus/machine-id",
    "var/log/*.log",
    "var/log/apt/*",
)

# tsc=reliable: an emulated processor promises no synchronous time stamp counters, so the kernel would read the HPET:
# measured 20 times slower for every clock read of every Go program. Under KVM its own clock is still preferred.
KERNEL_COMMAND_LINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 tsc=reliable quiet systemd.show_status=false"
# Room on the smallest disk for what a node writes before anything runs on it.
HEADROOM_BYTES = 1 << 30
SANDBOX_PLACEHOLDER = "@SANDBOX_IMAGE@"

ROOTFS_DIR = Path(__file__).parent / "rootfs"
INITRD_SCRIPT = Path(__file__).parent / "initrd" / "init"
