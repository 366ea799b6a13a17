"""Firewall rules that keep packets for the child's Services inside the node until kube-proxy serves them.

Nothing serves a Service's address on a new node before kube-proxy does, and a packet to it leaves by the default route:
to whatever has that address there, which in a cluster within a cluster may well be the PARENT's API server. kube-proxy
(like any replacement of it) rewrites the address before the filter hooks, so these rules meet only what nobody serves.
Role: pure. Must not: touch another table.
"""

from __future__ import annotations

import ipaddress

from capn.errors import InvalidSpecError

GUARD_PATH = "/etc/capn/services.nft"
GUARD_UNIT = f"""\
[Unit]
Description=capn: refuse packets to Services that nothing on this node serves yet
DefaultDependencies=no
After=local-fs.target systemd-modules-load.service
Before=network-pre.target kubelet.service
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {GUARD_PATH}

[Install]
WantedBy=multi-user.target
"""


def build_service_guard(service_cidr: str) -> str:
    """Build nftables rules, which may be loaded any number of times. InvalidSpecError when that is no CIDR."""
    try:
        network = ipaddress.ip_network(service_cidr)
    except ValueError as error:
        raise InvalidSpecError("spec.network.serviceCIDR", f"must be a CIDR such as 10.96.0.0/16: {error}") from error
    family = "ip6" if network.version == 6 else "ip"  # noqa: PLR2004 - the protocol's own number
    # Refused at once, so that a client tries again soon; dropped, it would wait for its time limit.
    rules = f"""\
        {family} daddr {network} meta l4proto tcp reject with tcp reset
        {family} daddr {network} reject
"""
    return f"""\
table inet capn_services
delete table inet capn_services
table inet capn_services {{
    chain output {{
        type filter hook output priority filter; policy accept;
{rules}    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
{rules}    }}
}}
"""
