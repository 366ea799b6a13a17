"""libvirt XML of everything that capn makes: pool, volumes, network, DHCP entries, domain.

Role: pure builders, by a serialiser only. Formats: libvirt.org/formatdomain, formatnetwork, formatstorage. Must not:
hold a secret (bootstrap data is in the seed volume alone), read a host, or take text from users other than checked
names.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Literal
from xml.etree import ElementTree as ET

from capn.errors import InvalidSpecError

METADATA_NAMESPACE = "https://capn.dev/libvirt/v1"
_DISK_TARGET = "vda"
SEED_TARGET = "sda"
# QEMU's translation cache under emulation. When it is full all of it is thrown away: with 512 MiB the API server of a
# control plane took 114 s to its first answer, with QEMU's own limit of 1 GiB 50 s. Memory is taken as it fills.
_TRANSLATION_CACHE_MIB = 1536
# Room for the child's API server, which no worker gets: see `endpoint_address`.
_ENDPOINT_OFFSET = 10

ET.register_namespace("capn", METADATA_NAMESPACE)


@dataclass(frozen=True, slots=True)
class OwnerStamp:
    """Whose domain it is. Ownership is decided by `uid`; the names are for people and for events."""

    namespace: str
    cluster: str
    cluster_uid: str
    name: str
    uid: str
    address: str


@dataclass(frozen=True, slots=True)
class DomainInput:
    """Everything that goes into a domain. Volumes are named by pool and name: their paths are the hypervisor's own."""

    name: str
    uuid: str
    owner: OwnerStamp
    cpus: int
    memory_mib: int
    accel: Literal["kvm", "emulate"]
    pool: str
    disk_volume: str
    seed_volume: str | None
    kernel_path: str
    initrd_path: str
    cmdline: str
    network: str
    mac: str
    unsafe_cache: bool = False


def build_pool_xml(name: str, path: str) -> str:
    """Directory pool, closed to everybody but root and QEMU."""
    pool = ET.Element("pool", type="dir")
    _text(pool, "name", name)
    target = ET.SubElement(pool, "target")
    _text(target, "path", path)
    _permissions(target, "0711")
    return _serialize(pool)


def build_volume_xml(
    name: str,
    *,
    capacity_bytes: int,
    volume_format: Literal["raw", "qcow2"],
    mode: str = "0600",
    backing_path: str | None = None,
) -> str:
    """Volume; with `backing_path` a qcow2 overlay on that qcow2 base."""
    volume = ET.Element("volume")
    _text(volume, "name", name)
    _text(volume, "capacity", str(capacity_bytes), unit="bytes")
    # Nothing is written ahead: a file of zeros would be touched before the upload replaces it.
    _text(volume, "allocation", "0", unit="bytes")
    target = ET.SubElement(volume, "target")
    ET.SubElement(target, "format", type=volume_format)
    _permissions(target, mode)
    if backing_path is not None:
        backing = ET.SubElement(volume, "backingStore")
        _text(backing, "path", backing_path)
        ET.SubElement(backing, "format", type="qcow2")
    return _serialize(volume)


def build_network_xml(  # noqa: PLR0913 - six plain values, by keyword
    *, name: str, uuid: str, bridge: str, subnet: IPv4Network, endpoint_mac: str, endpoint_name: str
) -> str:
    """NAT network in which every address is given out by a DHCP host entry; the endpoint's is there from the start."""
    network = ET.Element("network")
    _text(network, "name", name)
    _text(network, "uuid", uuid)
    ET.SubElement(network, "forward", mode="nat")
    ET.SubElement(network, "bridge", name=bridge, stp="off", delay="0")
    ip = ET.SubElement(network, "ip", address=str(subnet[1]), netmask=str(subnet.netmask))
    # No range: a stranger on the bridge gets no address, and none is used up.
    dhcp = ET.SubElement(ip, "dhcp")
    ET.SubElement(dhcp, "host", mac=endpoint_mac, name=endpoint_name, ip=str(endpoint_address(subnet)))
    return _serialize(network)


def endpoint_address(subnet: IPv4Network) -> IPv4Address:
    """Where the first control plane, and so the child's API, is: the tenth address of the cluster's network."""
    return subnet[_ENDPOINT_OFFSET]


def machine_addresses(subnet: IPv4Network) -> list[IPv4Address]:
    """Addresses for all other machines, lowest first."""
    return [subnet[offset] for offset in range(_ENDPOINT_OFFSET + 1, subnet.num_addresses - 1)]


def build_dhcp_host_xml(*, mac: str, address: str, name: str | None) -> str:
    """One DHCP host entry, for a network update."""
    attributes = {"mac": mac} | ({"name": name} if name else {}) | {"ip": address}
    return _serialize(ET.Element("host", attributes))


def build_domain_xml(domain: DomainInput) -> str:
    """Build the virtual machine: direct kernel boot, virtio, serial console, no graphics."""
    root = ET.Element("domain", type="kvm" if domain.accel == "kvm" else "qemu")
    _text(root, "name", domain.name)
    _text(root, "uuid", domain.uuid)
    _text(root, "title", f"{domain.owner.namespace}/{domain.owner.name}")
    ET.SubElement(ET.SubElement(root, "metadata"), f"{{{METADATA_NAMESPACE}}}machine", _stamp(domain.owner))
    _text(root, "memory", str(domain.memory_mib), unit="MiB")
    _text(root, "vcpu", str(domain.cpus))
    _add_boot(root, domain)
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if domain.accel == "kvm":
        ET.SubElement(root, "cpu", mode="host-passthrough")
    else:
        tcg = ET.SubElement(features, "tcg")
        _text(tcg, "tb-cache", str(_TRANSLATION_CACHE_MIB), unit="MiB")
        cpu = ET.SubElement(root, "cpu", mode="maximum")
        # A fifth level of page tables is one more step in every walk that the emulator does in software.
        ET.SubElement(cpu, "feature", policy="disable", name="la57")
    ET.SubElement(root, "clock", offset="utc")
    # A crashed or powered-off guest stays defined and off: the controller sees it and starts it again.
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(root, event, action)
    _add_devices(ET.SubElement(root, "devices"), domain)
    return _serialize(root)


def build_seed_device_xml(pool: str, volume: str | None) -> str:
    """Build the drive that holds the seed; with None an empty drive, which is how a seed is ejected."""
    disk = ET.Element("disk", type="volume" if volume else "file", device="cdrom")
    ET.SubElement(disk, "driver", name="qemu", type="raw")
    if volume:
        ET.SubElement(disk, "source", pool=pool, volume=volume)
    ET.SubElement(disk, "target", dev=SEED_TARGET, bus="scsi")
    ET.SubElement(disk, "readonly")
    return _serialize(disk)


def _stamp(owner: OwnerStamp) -> dict[str, str]:
    return {
        "namespace": owner.namespace,
        "cluster": owner.cluster,
        "clusterUID": owner.cluster_uid,
        "name": owner.name,
        "uid": owner.uid,
        "address": owner.address,
    }


def _add_boot(root: ET.Element, domain: DomainInput) -> None:
    system = ET.SubElement(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    _text(system, "kernel", domain.kernel_path)
    _text(system, "initrd", domain.initrd_path)
    _text(system, "cmdline", domain.cmdline)


def _add_devices(devices: ET.Element, domain: DomainInput) -> None:
    disk = ET.SubElement(devices, "disk", type="volume", device="disk")
    cache = "unsafe" if domain.unsafe_cache else "none"
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", cache=cache, discard="unmap")
    ET.SubElement(disk, "source", pool=domain.pool, volume=domain.disk_volume)
    ET.SubElement(disk, "target", dev=_DISK_TARGET, bus="virtio")
    # virtio-scsi rather than SATA or IDE: Debian's cloud kernel has no AHCI driver.
    ET.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    devices.append(ET.fromstring(build_seed_device_xml(domain.pool, domain.seed_volume)))  # noqa: S314 - our own
    ET.SubElement(devices, "controller", type="usb", model="none")
    interface = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(interface, "mac", address=domain.mac)
    ET.SubElement(interface, "source", network=domain.network)
    ET.SubElement(interface, "model", type="virtio")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "target", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", model="none")


def _permissions(target: ET.Element, mode: str) -> None:
    permissions = ET.SubElement(target, "permissions")
    _text(permissions, "mode", mode)


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _serialize(root: ET.Element) -> str:
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    # The serializer escapes markup but would pass on characters that XML cannot hold at all.
    if any(ord(character) < ord(" ") and character not in "\n\t" for character in text):
        raise InvalidSpecError(root.tag, "control characters cannot go into a machine's definition: remove them")
    return text + "\n"
