"""Machines' addresses in their cluster's network.

Role: blocking calls on one `Session`; an address is a DHCP host entry of the machine's MAC address. Must not: touch the
endpoint's entry, which is the cluster's.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import libvirt

from capn import names
from capn.build.libvirt_xml import machine_addresses
from capn.errors import TerminalError, TransientError
from capn.providers.base import MachineRef
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.dhcp import add_host, remove_host, shared_addresses
from capn.providers.libvirt.networks import ClusterNetwork, find_handle, find_network
from capn.providers.libvirt.views import NetworkView, parse_network
from capn.settings import LibvirtEndpoint

_ATTEMPTS = 16


def ensure_address(
    session: Session, endpoint: LibvirtEndpoint, network: ClusterNetwork, *, ref: MachineRef, mac: str
) -> str:
    """The machine's address, reserved if it has none yet."""
    for _attempt in range(_ATTEMPTS):
        view = parse_network(network.handle.XMLDesc(0))
        host = view.find_host(mac)
        if host is not None:
            return host.address
        address = _choose_address(network, view, mac, within=endpoint.addresses)
        try:
            add_host(session, network.handle, mac=mac, address=address, name=None if network.shared else ref.name)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
            continue  # another machine took the address between our look and our write
        return address
    raise TransientError("other machines took every address that was tried; trying again")


def release_address(session: Session, endpoint: LibvirtEndpoint, ref: MachineRef) -> None:
    """Remove the machine's entry, in a network that is not started too. The endpoint's is the cluster's and stays."""
    handle = find_handle(session, endpoint, ref.cluster)
    if handle is not None:
        remove_host(session, handle, names.build_mac(ref.uid))


def restore_address(session: Session, endpoint: LibvirtEndpoint, ref: MachineRef, address: str) -> None:
    """Give a machine that exists its entry again, if its network was made anew and has lost it."""
    network = find_network(session, endpoint, ref.cluster)
    if network is None or address == network.endpoint or IPv4Address(address) not in network.subnet:
        return
    mac = names.build_mac(ref.uid)
    if network.view.find_host(mac) is None:
        add_host(session, network.handle, mac=mac, address=address, name=None if network.shared else ref.name)


def _choose_address(network: ClusterNetwork, view: NetworkView, mac: str, *, within: IPv4Network | None) -> str:
    leased = {lease["ipaddr"]: str(lease.get("mac", "")).lower() for lease in network.handle.DHCPLeases()}
    used = {host.address for host in view.hosts} | {at for at, owner in leased.items() if owner != mac}
    candidates = shared_addresses(view, within) if network.shared else machine_addresses(network.subnet)
    address = next((str(candidate) for candidate in candidates if str(candidate) not in used), None)
    if address is None:
        raise TerminalError(
            f"the network {network.subnet} has no free address: delete machines or use smaller pools",
            reason="AddressesExhausted",
        )
    return address
