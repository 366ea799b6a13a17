"""A node's own address where its network card has another: files that give it to the guest.

Behind KubeVirt's masquerade every guest sees itself at the same address. The provider then keeps an address for each
machine that leads to it from everywhere (docs/adr/0010), and the guest holds it on its loopback interface: kubelet,
etcd and the API server can use it as their own, and packets leave by the card's address as before.
Role: pure. Must not: change a machine whose provider keeps no address.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from capn.errors import InvalidSpecError

ADDRESS_UNIT_NAME = "capn-address.service"


def build_address_unit(address: str) -> str:
    """Build the systemd unit that sets the address at every boot. InvalidSpecError when that is no IPv4 address."""
    try:
        checked = IPv4Address(address)
    except AddressValueError as error:
        raise InvalidSpecError("status.addresses", f"must be an IPv4 address: {error}") from error
    return f"""\
[Unit]
Description=capn: hold the address by which the other nodes know this one
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target kubelet.service
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip address replace {checked}/32 dev lo

[Install]
WantedBy=multi-user.target
"""
