"""Reads libvirt's XML into what the provider needs of it.

Role: pure parsing of definitions that libvirtd returns (trusted as much as the hypervisor is). Must not: do I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from xml.etree import ElementTree as ET

from capn.build.libvirt_xml import METADATA_NAMESPACE, SEED_TARGET, OwnerStamp


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """One address reservation."""

    mac: str
    address: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class DhcpRange:
    """Addresses given to anybody, first and last included."""

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class NetworkView:
    """What a network's definition says. `subnet` is None when libvirt does not manage its IPv4 addresses."""

    name: str
    subnet: IPv4Network | None
    hosts: tuple[DhcpHost, ...]
    ranges: tuple[DhcpRange, ...]
    has_dhcp: bool

    def find_host(self, mac: str) -> DhcpHost | None:
        """The reservation of this MAC address."""
        return next((host for host in self.hosts if host.mac == mac), None)


@dataclass(frozen=True, slots=True)
class DomainView:
    """What a domain's definition says; `owner` is None when it is not ours."""

    name: str
    owner: OwnerStamp | None
    seed_attached: bool


def parse_network(text: str) -> NetworkView:
    """Read a network definition."""
    root = ET.fromstring(text)  # noqa: S314 - from libvirtd
    ip = next((ip for ip in root.findall("ip") if ip.get("family", "ipv4") == "ipv4" and ip.get("address")), None)
    hosts: list[DhcpHost] = []
    ranges: list[DhcpRange] = []
    subnet, has_dhcp = None, False
    if ip is not None:
        mask = ip.get("netmask") or ip.get("prefix") or "24"
        subnet = IPv4Network(f"{ip.get('address')}/{mask}", strict=False)
        has_dhcp = ip.find("dhcp") is not None
        hosts = [
            DhcpHost(mac.lower(), address, host.get("name", ""))
            for host in ip.iterfind("dhcp/host")
            if (mac := host.get("mac")) and (address := host.get("ip"))
        ]
        ranges = [DhcpRange(span.get("start", ""), span.get("end", "")) for span in ip.iterfind("dhcp/range")]
    return NetworkView(root.findtext("name", ""), subnet, tuple(hosts), tuple(ranges), has_dhcp)


def parse_domain(text: str) -> DomainView:
    """Read a domain definition."""
    root = ET.fromstring(text)  # noqa: S314 - from libvirtd
    seed = next((disk for disk in root.iterfind("devices/disk") if _target(disk) == SEED_TARGET), None)
    return DomainView(
        name=root.findtext("name", ""),
        owner=_parse_owner(root.find(f"metadata/{{{METADATA_NAMESPACE}}}machine")),
        seed_attached=seed is not None and _has_medium(seed),
    )


def _has_medium(drive: ET.Element) -> bool:
    """Whether something is in the drive: an empty one of a running domain still has a source, with an index only."""
    source = drive.find("source")
    return source is not None and any(name != "index" for name in source.attrib)


def _target(disk: ET.Element) -> str | None:
    target = disk.find("target")
    return None if target is None else target.get("dev")


def _parse_owner(stamp: ET.Element | None) -> OwnerStamp | None:
    if stamp is None or not stamp.get("uid"):
        return None
    return OwnerStamp(
        namespace=stamp.get("namespace", ""),
        cluster=stamp.get("cluster", ""),
        cluster_uid=stamp.get("clusterUID", ""),
        name=stamp.get("name", ""),
        uid=stamp.get("uid", ""),
        address=stamp.get("address", ""),
    )
