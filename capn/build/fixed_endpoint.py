"""Clusters whose endpoint is the address of a machine's network card, and the machine that therefore has to stay.

Role: pure. Certificates and kubeconfigs hold an endpoint for ever, so its machine is neither replaced nor taken away.
Inputs: what the provider said of the endpoint; outputs: yes or no, and the words for people. Must not: do I/O.
"""

from __future__ import annotations

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.api.machine_template import InfrastructureKind

REASON = "EndpointFixed"
# Of others the provider keeps the endpoint apart from every machine.
_KINDS = frozenset({InfrastructureKind.LIBVIRT, InfrastructureKind.PARENT})


def is_fixed(kind: InfrastructureKind, *, virtual: bool) -> bool:
    """Whether a cluster of this kind has its endpoint on the first control plane's card."""
    return kind in _KINDS and not virtual


def is_known_fixed(cluster: NestedCluster) -> bool:
    """As `is_fixed`, of what the cluster's status says; False while it says nothing."""
    endpoint = cluster.status.endpoint
    return endpoint is not None and is_fixed(cluster.spec.infrastructure.kind, virtual=endpoint.virtual is True)


def has_to_stay(machine: NestedMachine, *, fixed: bool) -> bool:
    """Whether the endpoint's address is this machine's: it is the first control plane's."""
    return fixed and machine.spec.role == names.ROLE_CONTROL_PLANE and machine.spec.ordinal == 0


def describe_staying(name: str) -> str:
    """Why a change passes the machine by, and what can be done."""
    return (
        f"{name} stays as it is: its network card has the endpoint's address, so no other machine can take its place;"
        " only a new cluster has it as the spec asks for"
    )
