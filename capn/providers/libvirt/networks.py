"""Clusters' networks.

Role: blocking calls on one `Session`. A cluster has a NAT network of its own, whose UUID is derived from the
cluster's UID (that is the proof of ownership), or shares a network that the administrator names; it keeps the one that
it was made with. The endpoint's MAC address belongs to the cluster, so the child's address outlives every machine.
Must not: change any other network, any other entry of a shared one, or the address of an endpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import libvirt

from capn import names
from capn.build.libvirt_xml import (
    build_network_xml,
    endpoint_address,
)
from capn.errors import OwnershipError, TerminalError, TransientError
from capn.providers.base import ClusterRef, ClusterRequest
from capn.providers.checks import check_cidrs
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.dhcp import add_host, remove_host, shared_addresses
from capn.providers.libvirt.errors import is_missing
from capn.providers.libvirt.views import NetworkView, parse_network
from capn.settings import LibvirtEndpoint

_CLUSTER_PREFIX = 24
_SHORT = 6
# Name of an endpoint's entry that belongs to no machine (docs/adr/0020); machines' names end with a number.
_ENDPOINT_SUFFIX = "-endpoint"
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


def _endpoint_name(endpoint: LibvirtEndpoint, cluster: ClusterRef, *, shared: bool) -> str | None:
    """Name of the endpoint's entry; clusters of one name may share a network."""
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
    handle = find_handle(session, endpoint, cluster)
    if handle is None or not handle.isActive():
        return None
    view = parse_network(handle.XMLDesc(0))
    host = view.find_host(endpoint_mac(cluster))
    if host is None or view.subnet is None:
        return None
    virtual = host.name.endswith(_ENDPOINT_SUFFIX)
    return ClusterNetwork(handle, view, host.address, shared=not _is_own(handle, cluster), virtual=virtual)


def ensure_network(session: Session, endpoint: LibvirtEndpoint, request: ClusterRequest) -> ClusterNetwork:
    """The cluster's network, made, started or completed if need be."""
    found = find_network(session, endpoint, request.ref)
    if found is None:
        handle = find_handle(session, endpoint, request.ref)
        if endpoint.network is None or (handle is not None and _is_own(handle, request.ref)):
            _make_network(session, endpoint, request)
        _reserve_endpoint(session, endpoint, request)
        found = find_network(session, endpoint, request.ref)
    if found is None:
        raise TransientError("the cluster's network was changed while it was made; trying again")
    return found


def delete_network(session: Session, endpoint: LibvirtEndpoint, cluster: ClusterRef) -> None:
    """Remove the cluster's own network, or its entry in a shared one."""
    handle = find_handle(session, endpoint, cluster)
    if handle is None:
        return
    if not _is_own(handle, cluster):
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


def find_handle(session: Session, endpoint: LibvirtEndpoint, cluster: ClusterRef) -> libvirt.virNetwork | None:
    """The cluster's own network, whatever the endpoint is set to since; else the one that its clusters share."""
    conn = session.conn
    own = _find(conn.networkLookupByUUIDString, names.build_network_uuid(cluster.uid))
    return own if own is not None or endpoint.network is None else _find(conn.networkLookupByName, endpoint.network)


def _find(look_up: Callable[[str], libvirt.virNetwork], key: str) -> libvirt.virNetwork | None:
    try:
        return look_up(key)
    except libvirt.libvirtError as error:
        if is_missing(error):
            return None
        raise


def _is_own(handle: libvirt.virNetwork, cluster: ClusterRef) -> bool:
    return str(handle.UUIDString()) == names.build_network_uuid(cluster.uid)


def _make_network(session: Session, endpoint: LibvirtEndpoint, request: ClusterRequest) -> None:
    """Define and start the network on the first free subnet, going on to the next when the host refuses one.

    A cluster that has its endpoint has one subnet only: its certificates and machines have those addresses.
    """
    existing = find_handle(session, endpoint, request.ref)
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
            refused |= _give_up(existing, request)
            existing = None
        else:
            existing.setAutostart(1)
            return
    raise TransientError("the hypervisor refused every network tried: its addresses are used otherwise")


def _give_up(network: libvirt.virNetwork, request: ClusterRequest) -> set[IPv4Network]:
    """Undefine a network whose addresses the host refuses, unless a cluster lives there already; those addresses."""
    subnet = parse_network(network.XMLDesc(0)).subnet
    if request.endpoint_host is not None:
        raise _build_taken(subnet)
    network.undefine()
    return set() if subnet is None else {subnet}


def _build_taken(subnet: IPv4Network | None) -> TransientError:
    return TransientError(
        f"something else on the hypervisor has addresses of the cluster's network {subnet}: take it away there (another"
        " network, an interface or a route); the cluster comes back by itself",
        reason="NetworkUnusable",
    )


def _network_xml(endpoint: LibvirtEndpoint, cluster: ClusterRef, subnet: IPv4Network) -> str:
    return build_network_xml(
        name=network_name(cluster),
        uuid=names.build_network_uuid(cluster.uid),
        bridge=f"capn{names.build_short_id(cluster.uid)}",
        subnet=subnet,
        endpoint_mac=endpoint_mac(cluster),
        endpoint_name=_endpoint_name(endpoint, cluster, shared=False) or names.control_plane_machine(cluster.name, 0),
    )


def _choose_subnet(
    session: Session, endpoint: LibvirtEndpoint, request: ClusterRequest, refused: set[IPv4Network]
) -> IPv4Network:
    """The first free subnet, counted from one that the cluster's UID picks, so that two that choose at once differ.

    Of a cluster that has its endpoint it is the one with that, which has been lost.
    """
    pool = endpoint.network_pool
    candidates = list(pool.subnets(new_prefix=max(_CLUSTER_PREFIX, pool.prefixlen)))
    start = int(names.build_short_id(request.ref.uid), 16) % len(candidates)
    taken = [parse_network(network.XMLDesc(0)).subnet for network in session.conn.listAllNetworks(0)]
    used = [net for net in taken if net is not None]
    if request.endpoint_host is not None:
        return _find_former_subnet(candidates, used, IPv4Address(request.endpoint_host), pool)
    avoid = used + list(endpoint.reserved_cidrs) + list(refused)
    for candidate in candidates[start:] + candidates[:start]:
        if not any(candidate.overlaps(net) for net in avoid):
            return candidate
    raise TerminalError(
        f"no free network is left in the endpoint's {pool}: delete clusters or set a larger network_pool",
        reason="NetworksExhausted",
    )


def _find_former_subnet(
    candidates: Sequence[IPv4Network], used: Sequence[IPv4Network], host: IPv4Address, pool: IPv4Network
) -> IPv4Network:
    former = next((candidate for candidate in candidates if host == endpoint_address(candidate)), None)
    if former is None:
        raise TerminalError(
            f"the cluster's endpoint {host} is in no network of the endpoint's {pool}, and the network that it was made"
            " with is not on the hypervisor: give the endpoint its former network or network_pool again",
            reason="NetworkUnusable",
        )
    if any(former.overlaps(net) for net in used):
        raise _build_taken(former)
    return former


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
    handle = find_handle(session, endpoint, cluster)
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
    shared = not _is_own(handle, cluster)
    name = _endpoint_name(endpoint, cluster, shared=shared)
    if not shared:
        address = str(endpoint_address(view.subnet))
        add_host(session, handle, mac=endpoint_mac(cluster), address=address, name=name)
        return
    if request.endpoint_host is not None and IPv4Address(request.endpoint_host) not in view.subnet:
        raise TerminalError(
            f"the cluster's endpoint {request.endpoint_host} is not in the network {view.name} ({view.subnet}): give"
            " the endpoint the network again that the cluster was made with",
            reason="NetworkUnusable",
        )
    used = {host.address for host in view.hosts} | {lease["ipaddr"] for lease in handle.DHCPLeases()}
    candidates = map(str, shared_addresses(view, endpoint.addresses))
    free = request.endpoint_host or next((address for address in candidates if address not in used), None)
    if free is None:
        raise TerminalError(f"the shared network {view.name} has no free address", reason="AddressesExhausted")
    add_host(session, handle, mac=endpoint_mac(cluster), address=free, name=name)
