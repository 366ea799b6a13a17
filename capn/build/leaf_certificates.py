"""Files for a control plane's guest: what renews the certificates that kubeadm made there, and when.

Role: pure. The program is `guest/certificates.sh` (docs/adr/0023); it runs once a day, and before the kubelet at each
boot but the first, since a cluster may have been off for longer than its certificates live. Must not: name a machine.
"""

from __future__ import annotations

from collections.abc import Mapping

CERTIFICATES_PROGRAM = "certificates.sh"
CERTIFICATES_UNIT_NAMES = ("capn-certificates-boot.service", "capn-certificates.timer")
_RUN = "/bin/sh /usr/local/lib/capn/certificates.sh"
_ENVIRONMENT = "Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SERVICE = f"""\
[Unit]
Description=capn: renew the certificates of this control plane when they are due
After=kubelet.service

[Service]
Type=oneshot
Nice=10
{_ENVIRONMENT}
ExecStart={_RUN}
TimeoutStartSec=infinity
"""

# Each machine has its own delay, always the same, so that neither a cluster's control planes nor the guests of a host
# that was switched on do it at once.
_TIMER = """\
[Unit]
Description=capn: look at the certificates of this control plane once a day

[Timer]
OnBootSec=15min
OnUnitInactiveSec=1d
RandomizedDelaySec=2h
FixedRandomDelay=yes
AccuracySec=10min

[Install]
WantedBy=timers.target
"""

# Nothing is restarted here: what would read the files is started afterwards, by the kubelet. If this fails, it is tried
# all the same.
_BOOT = f"""\
[Unit]
Description=capn: certificates of this control plane that ended while it was off, or were being renewed then
ConditionPathExists=/var/lib/capn/done
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
{_ENVIRONMENT}
ExecStart={_RUN} boot
TimeoutStartSec=10min

[Install]
WantedBy=multi-user.target
"""

CERTIFICATES_UNITS: Mapping[str, str] = {
    "capn-certificates.service": _SERVICE,
    "capn-certificates.timer": _TIMER,
    "capn-certificates-boot.service": _BOOT,
}
