"""What claims are called in the parent.

Role: pure; names fit the kinds' limits and are unique over all namespaces of the child. Must not: be parsed back
(stamps say whose a claim is).
"""

from __future__ import annotations

from capn import names
from capn.providers.base import ClusterRef, MachineRef

_CLUSTER_LIMIT, _MACHINE_LIMIT = 40, 52


def cluster_name(ref: ClusterRef) -> str:
    """Name of a claimed cluster."""
    return names.build_marked_name(ref.name, ref.uid, limit=_CLUSTER_LIMIT)


def machine_name(ref: MachineRef) -> str:
    """Name of a claimed machine; with `-data` it is its Secret's."""
    return names.build_marked_name(ref.name, ref.uid, limit=_MACHINE_LIMIT)


def data_name(ref: MachineRef) -> str:
    """Name of the Secret with a claimed machine's bootstrap data."""
    return f"{machine_name(ref)}-data"
