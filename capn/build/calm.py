"""What makes a control plane quiet at rest, as kubeadm patches and component arguments.

kubeadm's static pods are asked each second whether they are ready, over a new TLS connection, and a lease is renewed
every two seconds by each of two components. On a nested control plane, which shares its host with many others and may
run under software emulation, that alone keeps a CPU busy and then fails its own time limits. Asking every ten seconds,
and leases that last a minute (OpenShift's are longer still), cost a slower fail-over and nothing else. Role: pure.
Must not: override what the user's extraArgs say, or add a probe that kubeadm does not have (one without a handler makes
the kubelet refuse the pod).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

PATCHES_PATH = "/etc/capn/patches"
# The probes that kubeadm gives each component.
PROBES: Mapping[str, tuple[str, ...]] = {
    "etcd": ("livenessProbe", "readinessProbe"),
    "kube-apiserver": ("livenessProbe", "readinessProbe"),
    "kube-controller-manager": ("livenessProbe",),
    "kube-scheduler": ("livenessProbe", "readinessProbe"),
}
LEADER_ELECTION: Mapping[str, str] = {
    "leader-elect-lease-duration": "60s",
    "leader-elect-renew-deadline": "40s",
    "leader-elect-retry-period": "10s",
}
# The API server's liveness asks etcd, by default for two seconds; a slow etcd is no reason to kill the API server.
ETCD_PATIENCE: Mapping[str, str] = {"etcd-healthcheck-timeout": "20s", "etcd-readycheck-timeout": "20s"}
# A member that shares its host with the others is at times silent for a second; etcd's own 100 ms and 1 s would have it
# succeeded each time. (OpenShift's slower profile has 500 ms too.) A cluster of one elects itself at once all the same.
ETCD_PACE: Mapping[str, str] = {"heartbeat-interval": "500", "election-timeout": "5000"}
_PACE = {
    "livenessProbe": {"periodSeconds": 30, "timeoutSeconds": 30},
    "readinessProbe": {"periodSeconds": 10, "timeoutSeconds": 30},
}


def build_patches() -> dict[str, str]:
    """Content by file name below `PATCHES_PATH` (kubeadm's form: target, `+strategic`, `.json`)."""
    patches = {}
    for component, probes in PROBES.items():
        container = {"name": component, **{probe: _PACE[probe] for probe in probes}}
        patch = {"spec": {"containers": [container]}}
        patches[f"{component}+strategic.json"] = json.dumps(patch, separators=(",", ":"), sort_keys=True) + "\n"
    return patches
