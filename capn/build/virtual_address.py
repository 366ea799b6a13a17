"""A cluster's endpoint as an address that its control planes hold among themselves: files for the guest.

Where nothing in front of the machines leads to the API servers (libvirt), one control plane at a time holds the
endpoint's address beside its own: VRRP by keepalived (docs/adr/0020). A holder that dies is succeeded within seconds,
one whose API server does not answer for a while. Role: pure. Must not: name the other control planes (they
come and go), or depend on the API server that the address leads to.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from capn.errors import InvalidSpecError

KEEPALIVED_UNIT = "keepalived.service"
KEEPALIVED_DROP_IN_PATH = f"/etc/systemd/system/{KEEPALIVED_UNIT}.d/capn.conf"
KEEPALIVED_PATH = "/etc/keepalived/keepalived.conf"
CHECK_PATH = "/usr/local/lib/capn/endpoint-check.sh"
LEAVE_PATH = "/usr/local/lib/capn/leave.sh"
LEAVE_UNIT = "capn-leave.path"
# Made through etcd's pod, which has this directory of the machine: the only way in that a control plane has.
LEAVING_MARK = "/var/lib/etcd/capn-leaving"
LEFT_MARK = "/var/lib/etcd/capn-left"
# Three of them missing make a successor. A guest under emulation is at times silent for a second or two.
_ADVERTISE_S = 3
# A TLS handshake costs an emulated CPU half a second; an API server that dies alone is started again by the kubelet.
_CHECK_S = 20
# Alike on all: who has the address keeps it. One whose API server does not answer goes below the others.
# One that is to be removed goes below those too.
_PRIORITY, _PENALTY, _LEAVING = 100, -50, -60

# By openssl, since busybox's own TLS does not get on with Go's. With the certificate that the API server has for
# kubelets, so that it works where a user has switched anonymous requests off.
ENDPOINT_CHECK = """\
#!/bin/sh
# Whether the API server of this machine answers and is ready. Asked by keepalived; the variables are for tests.
own="${CAPN_PKI:-/etc/kubernetes/pki}/apiserver-kubelet-client"
port="${CAPN_API_PORT:-6443}"
printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' |
    timeout 10 openssl s_client -quiet -connect "127.0.0.1:$port" -cert "$own.crt" -key "$own.key" 2>/dev/null |
    grep -q '^HTTP/1.0 200 '
"""

LEAVE_UNITS = {
    f"/etc/systemd/system/{LEAVE_UNIT}": f"""\
[Unit]
Description=capn: notice that this control plane is to be removed

[Path]
PathExists={LEAVING_MARK}

[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/capn-leave.service": f"""\
[Unit]
Description=capn: hand the endpoint over and stop the API server
ConditionPathExists=!{LEFT_MARK}

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/capn/bootstrap.env
ExecStart=/bin/sh {LEAVE_PATH}
TimeoutStartSec=infinity
""",
}

# Debian's unit lets keepalived stay dead; nothing else on the machine would take the address again.
KEEPALIVED_DROP_IN = """\
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=always
RestartSec=2
"""


def build_keepalived(address: str) -> str:
    """Build the configuration of keepalived for a control plane. InvalidSpecError when that is no IPv4 address.

    Format: keepalived.conf(5). The router id tells clusters of one network apart, as the address does. After a reboot
    keepalived is there before the network card, which without `dynamic_interfaces` ends it for good.
    """
    try:
        checked = IPv4Address(address)
    except AddressValueError as error:
        raise InvalidSpecError("status.endpoint.host", f"must be an IPv4 address: {error}") from error
    router = max(checked.packed[-1], 1)
    return f"""\
global_defs {{
    script_user root
    enable_script_security
    vrrp_version 3
    dynamic_interfaces
    vrrp_garp_master_refresh 30
}}
vrrp_script api_server {{
    script {CHECK_PATH}
    interval {_CHECK_S}
    timeout {_CHECK_S}
    fall 2
    rise 2
    weight {_PENALTY}
    init_fail
}}
vrrp_script stays {{
    script "/usr/bin/test ! -e {LEAVING_MARK}"
    interval 5
    weight {_LEAVING}
}}
vrrp_instance endpoint {{
    state BACKUP
    interface eth0
    virtual_router_id {router}
    priority {_PRIORITY}
    advert_int {_ADVERTISE_S}
    virtual_ipaddress {{
        {checked}/32
    }}
    track_script {{
        api_server
        stays
    }}
}}
"""
