"""Address blocks of environments whose parent has a node: one /20 each, of a range that nobody else uses.

Role: pure; which block is free, and how a block is divided. Inputs: what is in use, as networks. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from capn.errors import TerminalError

# Set aside for benchmarks (RFC 2544): no site, no child and no machine network uses it.
RANGE = IPv4Network("198.18.0.0/15")
BLOCK_PREFIX = 20
_PODS_PREFIX = 21
_SERVICES_PREFIX = 22
_BALANCERS_PREFIX = 23
_LINK_PREFIX = 30
_DNS_NUMBER = 10


@dataclass(frozen=True, slots=True)
class AddressBlock:
    """One /20: pods in its first half, then Services, then load balancers; the link to the host is its very end."""

    network: IPv4Network

    @property
    def pods(self) -> IPv4Network:
        """Addresses of pods; the first is the node's bridge."""
        return IPv4Network((self.network.network_address, _PODS_PREFIX))

    @property
    def services(self) -> IPv4Network:
        """Cluster IPs."""
        return IPv4Network((self.pods.broadcast_address + 1, _SERVICES_PREFIX))

    @property
    def balancers(self) -> IPv4Network:
        """Left for load balancers: routed to the node, given to nothing yet."""
        return IPv4Network((self.services.broadcast_address + 1, _BALANCERS_PREFIX))

    @property
    def link(self) -> IPv4Network:
        """The veth pair between host and node."""
        return IPv4Network((self.network.broadcast_address - 3, _LINK_PREFIX))

    @property
    def host(self) -> IPv4Address:
        """The host's end of the link: where the API server listens."""
        return self.link.network_address + 1

    @property
    def node(self) -> IPv4Address:
        """The node's end of the link: its InternalIP."""
        return self.link.network_address + 2

    @property
    def dns(self) -> IPv4Address:
        """Cluster IP of the cluster's DNS."""
        return self.services.network_address + _DNS_NUMBER


def choose_block(used: Iterable[IPv4Network], *, start: int = 0) -> AddressBlock:
    """The first block, counted from number `start` on, that overlaps with nothing in `used`. TerminalError if none is.

    Environments that start at different numbers seldom want the same block, even when one does not see the other. The
    very first block is never given: parents without a node have their Services' (unrouted) addresses there.
    """
    taken = [network for network in used if network.overlaps(RANGE)]
    blocks = list(RANGE.subnets(new_prefix=BLOCK_PREFIX))[1:]
    start %= len(blocks)
    for network in [*blocks[start:], *blocks[:start]]:
        if not any(network.overlaps(other) for other in taken):
            return AddressBlock(network)
    names = ", ".join(sorted({str(network) for network in taken}))
    raise TerminalError(f"no free /{BLOCK_PREFIX} in {RANGE}: in use are {names}", reason="NoAddresses")
