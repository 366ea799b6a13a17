"""One sample of every kind of libvirt XML, with the kind of object that it defines."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Network

from capn.build.libvirt_xml import (
    DomainInput,
    OwnerStamp,
    build_dhcp_host_xml,
    build_domain_xml,
    build_network_xml,
    build_pool_xml,
    build_seed_device_xml,
    build_volume_xml,
)

OWNER = OwnerStamp(
    namespace="tenant",
    cluster="demo",
    cluster_uid="3b8f6a1e-0000-4000-8000-000000000001",
    name="demo-cp-0",
    uid="3b8f6a1e-0000-4000-8000-000000000002",
    address="10.89.4.10",
)
DOMAIN = DomainInput(
    name="capn-tenant-demo-cp-0-0a1b2c",
    uuid="0b7a2a52-6a5c-5a3e-8f6d-1f1f2f3f4f5f",
    owner=OWNER,
    cpus=2,
    memory_mib=2560,
    accel="emulate",
    pool="capn",
    disk_volume="capn-0b7a2a52.disk.qcow2",
    seed_volume="capn-0b7a2a52.seed.iso",
    kernel_path="/var/lib/libvirt/capn/capn-node-v1.37.2-0123456789ab.vmlinuz",
    initrd_path="/var/lib/libvirt/capn/capn-node-v1.37.2-0123456789ab.initrd",
    cmdline="root=/dev/vda rw console=ttyS0 net.ifnames=0",
    network="capn-tenant-demo-0a1b2c",
    mac="52:54:00:0a:0b:0c",
    unsafe_cache=True,
)
KVM = dataclasses.replace(DOMAIN, accel="kvm", seed_volume=None, unsafe_cache=False)

SAMPLES: dict[str, tuple[str | None, str]] = {
    "pool": ("pool", build_pool_xml("capn", "/var/lib/libvirt/capn")),
    "volume_overlay": (
        "volume",
        build_volume_xml(
            "capn-0b7a2a52.disk.qcow2",
            capacity_bytes=10 << 30,
            volume_format="qcow2",
            backing_path="/var/lib/libvirt/capn/capn-node-v1.37.2-0123456789ab.qcow2",
        ),
    ),
    "volume_seed": ("volume", build_volume_xml("capn-x.seed.iso", capacity_bytes=65536, volume_format="raw")),
    "network": (
        "network",
        build_network_xml(
            name="capn-tenant-demo-0a1b2c",
            uuid="1c7a2a52-6a5c-5a3e-8f6d-1f1f2f3f4f5f",
            bridge="capn0a1b2c3d4e",
            subnet=IPv4Network("10.89.4.0/24"),
            endpoint_mac="52:54:00:01:02:03",
            endpoint_name="demo-cp-0",
        ),
    ),
    "dhcp_host": (None, build_dhcp_host_xml(mac="52:54:00:0a:0b:0d", address="10.89.4.11", name="demo-pool-0")),
    "domain_emulate": ("domain", build_domain_xml(DOMAIN)),
    "domain_kvm": ("domain", build_domain_xml(KVM)),
    "seed_ejected": (None, build_seed_device_xml("capn", None)),
}
