"""DHCP host entries, by which a machine's address is fixed, and which addresses may be given.

Role: blocking calls on one `Session`. Must not: know whose an entry is; that is its MAC address.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import libvirt

from capn.build.libvirt_xml import build_dhcp_host_xml, endpoint_address, machine_addresses
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.views import NetworkView, parse_network

_CONFIG: int = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
_LIVE: int = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | _CONFIG


def add_host(session: Session, handle: libvirt.virNetwork, *, mac: str, address: str, name: str | None) -> None:
    """Add an entry; libvirt's error when the address has one already."""
    session.checkpoint()
    xml = build_dhcp_host_xml(mac=mac, address=address, name=name)
    section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    handle.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, section, -1, xml, _flags(handle))


def remove_host(session: Session, handle: libvirt.virNetwork, mac: str) -> None:
    """Remove the entry of this MAC address, if there is one."""
    host = parse_network(handle.XMLDesc(0)).find_host(mac)
    if host is None:
        return
    session.checkpoint()
    xml = build_dhcp_host_xml(mac=mac, address=host.address, name=None)
    section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    handle.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, section, -1, xml, _flags(handle))


def shared_addresses(view: NetworkView, within: IPv4Network | None) -> list[IPv4Address]:
    """Addresses outside the network's own DHCP ranges, or all of them when the ranges leave none.

    `within`: the part of the network that is this hypervisor's to give.
    """
    if view.subnet is None:
        return []
    every = [endpoint_address(view.subnet), *machine_addresses(view.subnet)]
    if within is not None:
        ends = (view.subnet.network_address, view.subnet.broadcast_address)
        every = [address for address in within if address in view.subnet and address not in ends]
    spans = [(IPv4Address(span.start), IPv4Address(span.end)) for span in view.ranges]
    outside = [address for address in every if not any(start <= address <= end for start, end in spans)]
    return outside or every


def _flags(handle: libvirt.virNetwork) -> int:
    return _LIVE if handle.isActive() else _CONFIG
