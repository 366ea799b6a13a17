"""Networks and addresses.

Role: blocking calls on one `Session`. A cluster has a NAT network of its own, whose UUID is derived from the
cluster's UID (that is the proof of ownership), or shares a network that the administrator names. Addresses are DHCP
host entries. The first control plane's MAC address belongs to the cluster, so the child's address outlives that
machine. Must not: change any other network, or any other entry of a shared one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import libvirt

from capn import names
from capn.build.libvirt_xml import (
    build_dhcp_host_xml,
    build_network_xml,
    endpoint_address,
    machine_addresses,
)
from capn.errors import OwnershipError, TerminalError, TransientError
from capn.providers.base import ClusterRef, ClusterRequest, MachineRef
from capn.providers.checks import check_cidrs
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.errors import is_missing
from capn.providers.libvirt.views import NetworkView, parse_network
from capn.settings import LibvirtEndpoint

_CLUSTER_PREFIX = 24
_SHORT = 6
# Name of an endpoint's entry that belongs to no machine (docs/adr/0020); machines' names end with a number.
_ENDPOINT_SUFFIX = "-endpoint"
_CONFIG: int = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
_LIVE: int = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | _CONFIG
# libvirt's words when the host already has an interface or a route in that subnet (network/bridge_driver).
_COLLISION = "already in use by interface"
_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class ClusterNetwork:
    """The network of a cluster: libvirt's handle, its definition, and the cluster's endpoint in it."""

    handle: libvirt.virNetwork
    view: NetworkView
    endpoint: str
    shared: bool
    virtual: bool

    @property
    def subnet(self) -> IPv4Network:
        """Its addresses."""
        if self.view.subnet is None:
            raise TerminalError(f"the network {self.view.name} has lost its IPv4 addresses", reason="NetworkUnusable")
        return self.view.subnet


def endpoint_mac(cluster: ClusterRef) -> str:
    """MAC address of the entry that keeps the endpoint's address.

    In clusters made before control planes held it among themselves it is the first control plane's own.
    """
    return names.build_mac(f"endpoint/{cluster.uid}")


def _endpoint_name(endpoint: LibvirtEndpoint, cluster: ClusterRef) -> str | None:
    """Name of the endpoint's entry; clusters of one name may share a network."""
    shared = endpoint.network is not None
    if not endpoint.virtual_endpoint:
        return None if shared else names.control_plane_machine(cluster.name, 0)
    mark = f"capn-{names.build_short_id(cluster.uid)}" if shared else cluster.name
    return f"{mark}{_ENDPOINT_SUFFIX}"


def network_name(cluster: ClusterRef) -> str:
    """Name of a cluster's own network."""
    return f"capn-{cluster.namespace}-{cluster.name}-{names.build_short_id(cluster.uid)[:_SHORT]}"


def check_request(endpoint: LibvirtEndpoint, request: ClusterRequest) -> None:
    """InvalidSpecError (CIDRCollision) when the child's addresses overlap what must be reached from inside it."""
    used = [("a network that the administrator reserved", net) for net in endpoint.reserved_cidrs]
    if endpoint.network is None:
        used.append(("the endpoint's machine networks", endpoint.network_pool))
    check_cidrs(request, used)


def find_network(session: Session, endpoint: LibvirtEndpoint, cluster: ClusterRef) -> ClusterNetwork | None:
    """The cluster's network if it is there, active, and has the cluster's endpoint."""
    handle = _lookup(session, endpoint, cluster)
    if handle is None or not handle.isActive():
        return None
    view = parse_network(handle.XMLDesc(0))
    host = view.find_host(endpoint_mac(cluster))
    if host is None or view.subnet is None:
        return None
    virtual = host.name.endswith(_ENDPOINT_SUFFIX)
    return ClusterNetwork(handle, view, host.address, shared=endpoint.network is not None, virtual=virtual)


def ensure_network(session: Session, endpoint: LibvirtEndpoint, request: ClusterRequest) -> ClusterNetwork:
    """The cluster's network, made, started or completed if need be."""
    found = find_network(session, endpoint, request.ref)
    if found is None:
        if endpoint.network is None:
            _make_network(session, endpoint, request)
        _reserve_endpoint(session, endpoint, request)
        found = find_network(session, endpoint, request.ref)
    if found is None:
        raise TransientError("the cluster's network was changed while it was made; trying again")
    return found


def delete_network(session: Session, endpoint: LibvirtEndpoint, cluster: ClusterRef) -> None:
    """Remove the cluster's own network, or its entry in a shared one."""
    handle = _lookup(session, endpoint, cluster)
    if handle is None:
        return
    if endpoint.network is not None:
        remove_host(session, handle, endpoint_mac(cluster))
        return
    session.checkpoint()
    with contextlib.suppress(libvirt.libvirtError):
        handle.destroy()  # fails when it is not active
    try:
        handle.undefine()
    except libvirt.libvirtError as error:
        if not is_missing(error):
            raise


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
            _add_host(session, network.handle, mac=mac, address=address, name=None if network.shared else ref.name)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
            continue  # another machine took the address between our look and our write
        return address
    raise TransientError("other machines took every address that was tried; trying again")


def _choose_address(network: ClusterNetwork, view: NetworkView, mac: str, *, within: IPv4Network | None) -> str:
    leased = {lease["ipaddr"]: str(lease.get("mac", "")).lower() for lease in network.handle.DHCPLeases()}
    used = {host.address for host in view.hosts} | {at for at, owner in leased.items() if owner != mac}
    candidates = _shared_addresses(view, within) if network.shared else machine_addresses(network.subnet)
    address = next((str(candidate) for candidate in candidates if str(candidate) not in used), None)
    if address is None:
        raise TerminalError(
            f"the network {network.subnet} has no free address: delete machines or use smaller pools",
            reason="AddressesExhausted",
        )
    return address


def remove_host(session: Session, handle: libvirt.virNetwork, mac: str) -> None:
    """Remove the entry of this MAC address, if there is one."""
    host = parse_network(handle.XMLDesc(0)).find_host(mac)
    if host is None:
        return
    session.checkpoint()
    xml = build_dhcp_host_xml(mac=mac, address=host.address, name=None)
    section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    handle.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, section, -1, xml, _flags(handle))


def _lookup(session: Session, endpoint: LibvirtEndpoint, cluster: ClusterRef) -> libvirt.virNetwork | None:
    try:
        if endpoint.network is not None:
            return session.conn.networkLookupByName(endpoint.network)
        return session.conn.networkLookupByUUIDString(names.build_network_uuid(cluster.uid))
    except libvirt.libvirtError as error:
        if is_missing(error):
            return None
        raise


def _make_network(session: Session, endpoint: LibvirtEndpoint, request: ClusterRequest) -> None:
    """Define and start the network on the first free subnet, going on to the next when the host refuses one."""
    existing = _lookup(session, endpoint, request.ref)
    if existing is not None and existing.isActive():
        return
    if existing is None:
        _refuse_foreign_name(session, request.ref)
    refused: set[IPv4Network] = set()
    for _attempt in range(_ATTEMPTS):
        if existing is None:
            subnet = _choose_subnet(session, endpoint, request, refused)
            session.checkpoint()
            existing = session.conn.networkDefineXMLFlags(
                _network_xml(endpoint, request.ref, subnet), libvirt.VIR_NETWORK_DEFINE_VALIDATE
            )
        try:
            session.checkpoint()
            existing.create()
        except libvirt.libvirtError as error:
            if _COLLISION not in (error.get_error_message() or ""):
                if existing.isActive():
                    return  # somebody else started it
                raise
            if (view := parse_network(existing.XMLDesc(0))).subnet is not None:
                refused.add(view.subnet)
            existing.undefine()
            existing = None
        else:
            existing.setAutostart(1)
            return
    raise TransientError("the hypervisor refused every network tried: its addresses are used otherwise")


def _network_xml(endpoint: LibvirtEndpoint, cluster: ClusterRef, subnet: IPv4Network) -> str:
    return build_network_xml(
        name=network_name(cluster),
        uuid=names.build_network_uuid(cluster.uid),
        bridge=f"capn{names.build_short_id(cluster.uid)}",
        subnet=subnet,
        endpoint_mac=endpoint_mac(cluster),
        endpoint_name=_endpoint_name(endpoint, cluster) or names.control_plane_machine(cluster.name, 0),
    )


def _choose_subnet(
    session: Session, endpoint: LibvirtEndpoint, request: ClusterRequest, refused: set[IPv4Network]
) -> IPv4Network:
    """The first free subnet, counted from one that the cluster's UID picks, so that two that choose at once differ."""
    pool = endpoint.network_pool
    candidates = list(pool.subnets(new_prefix=max(_CLUSTER_PREFIX, pool.prefixlen)))
    start = int(names.build_short_id(request.ref.uid), 16) % len(candidates)
    taken = [parse_network(network.XMLDesc(0)).subnet for network in session.conn.listAllNetworks(0)]
    avoid = [net for net in taken if net is not None] + list(endpoint.reserved_cidrs) + list(refused)
    for candidate in candidates[start:] + candidates[:start]:
        if not any(candidate.overlaps(net) for net in avoid):
            return candidate
    raise TerminalError(
        f"no free network is left in the endpoint's {pool}: delete clusters or set a larger network_pool",
        reason="NetworksExhausted",
    )


def _refuse_foreign_name(session: Session, cluster: ClusterRef) -> None:
    name = network_name(cluster)
    try:
        session.conn.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if is_missing(error):
            return
        raise
    raise OwnershipError(
        f"the hypervisor has a network {name} that does not carry this cluster's UID: rename or remove it there"
    )


def _reserve_endpoint(session: Session, endpoint: LibvirtEndpoint, request: ClusterRequest) -> None:
    """Give the cluster's endpoint its entry, unless it has one: in a shared network the address of before if it can be.

    Another hypervisor of the network has chosen it, or this one before the entry was lost.
    """
    cluster = request.ref
    handle = _lookup(session, endpoint, cluster)
    if handle is None or not handle.isActive():
        raise TerminalError(
            f"the network {endpoint.network or network_name(cluster)} is not started on the hypervisor: start it",
            reason="NetworkUnusable",
        )
    view = parse_network(handle.XMLDesc(0))
    if view.subnet is None or not view.has_dhcp:
        raise TerminalError(
            f"the network {view.name} has no DHCP of libvirt's, which fixes machines' addresses: choose one that has,"
            " or give it a <dhcp> with a range or one <host> entry",
            reason="NetworkUnusable",
        )
    if view.find_host(endpoint_mac(cluster)) is not None:
        return
    if endpoint.network is None:
        address, name = str(endpoint_address(view.subnet)), _endpoint_name(endpoint, cluster)
        _add_host(session, handle, mac=endpoint_mac(cluster), address=address, name=name)
        return
    used = {host.address for host in view.hosts} | {lease["ipaddr"] for lease in handle.DHCPLeases()}
    candidates = map(str, _shared_addresses(view, endpoint.addresses))
    free = request.endpoint_host or next((address for address in candidates if address not in used), None)
    if free is None:
        raise TerminalError(f"the shared network {view.name} has no free address", reason="AddressesExhausted")
    name = _endpoint_name(endpoint, cluster)
    _add_host(session, handle, mac=endpoint_mac(cluster), address=free, name=name)


def _shared_addresses(view: NetworkView, within: IPv4Network | None) -> list[IPv4Address]:
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


def _add_host(session: Session, handle: libvirt.virNetwork, *, mac: str, address: str, name: str | None) -> None:
    session.checkpoint()
    xml = build_dhcp_host_xml(mac=mac, address=address, name=name)
    section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    handle.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, section, -1, xml, _flags(handle))


def _flags(handle: libvirt.virNetwork) -> int:
    return _LIVE if handle.isActive() else _CONFIG
