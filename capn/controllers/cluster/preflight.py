"""What the child has to say before its control planes change: their programs are ready, and etcd can bear it.

The machines' conditions tell none of that. Inputs: the scope with its open child; outputs: what is in the way, or None.
A child that does not answer is in the way too. Must not: change anything, or be asked while nothing is to be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capn.api.machine import NestedMachine
from capn.api.resources import POD
from capn.build.etcd_members import Member
from capn.build.etcd_rules import list_ill, why_alarmed, why_not_add
from capn.build.said import Said
from capn.build.static_pods import NAMESPACE, SELECTOR, find_unready
from capn.controllers.cluster.scope import ClusterScope
from capn.errors import CapnError
from capn.kube.etcd import EtcdClient

# No watch of ours tells, and each look at etcd runs etcdctl in every member's machine.
POLL_S = 15.0


@dataclass(frozen=True, slots=True)
class _Etcd:
    """The members, and by ID those that are well, and those that an alarm is of."""

    members: Sequence[Member]
    healthy: frozenset[int]
    alarmed: frozenset[int]


async def find_unready_components(scope: ClusterScope, machines: Sequence[NestedMachine]) -> Said | None:
    """Which programs of these control planes are not ready."""
    try:
        listed = await scope.require_child().client.list(POD, namespace=NAMESPACE, label_selector=SELECTOR)
    except CapnError as error:
        return Said(error.reason, str(error))
    unready = find_unready(listed.items, [machine.metadata.name for machine in machines])
    return Said("ComponentsNotReady", f"not ready yet: {', '.join(unready)}") if unready else None


async def find_obstacle_to_joining(scope: ClusterScope) -> Said | None:
    """Why etcd can take no further member now: a machine that tried would fail, and load etcd the more."""
    try:
        found = await _survey_etcd(scope)
    except CapnError as error:
        return Said(error.reason, str(error))
    why = why_alarmed(found.members, found.alarmed) or why_not_add(found.members, found.healthy)
    return None if why is None else Said("EtcdUnhealthy", why)


async def find_ill_members(scope: ClusterScope) -> Said | None:
    """Which members of etcd are missing or half made: a rolling change needs all of them to begin with."""
    try:
        found = await _survey_etcd(scope)
    except CapnError as error:
        return Said(error.reason, str(error))
    if ill := list_ill(found.members, found.healthy):
        return Said("EtcdUnhealthy", f"not all members of etcd are healthy voters: {', '.join(ill)}")
    why = why_alarmed(found.members, found.alarmed)  # of a member that is gone
    return None if why is None else Said("EtcdUnhealthy", why)


async def _survey_etcd(scope: ClusterScope) -> _Etcd:
    etcd = EtcdClient(scope.require_child().client)
    members = await etcd.members()
    health = await etcd.health(members)
    return _Etcd(
        members,
        healthy=frozenset(key for key, found in health.items() if found.is_healthy),
        alarmed=frozenset(member for found in health.values() for member in found.alarmed),
    )
