"""What the child has to say before its control planes change: their programs are ready, and etcd can bear it.

The machines' conditions tell none of that. Inputs: the scope with its open child; outputs: what is in the way, or None.
A child that does not answer is in the way too. Must not: change anything, or be asked while nothing is to be done.
"""

from __future__ import annotations

from collections.abc import Sequence

from capn.api.machine import NestedMachine
from capn.api.resources import POD
from capn.build.etcd_members import Member
from capn.build.etcd_rules import list_ill, why_not_add
from capn.build.said import Said
from capn.build.static_pods import NAMESPACE, SELECTOR, find_unready
from capn.controllers.cluster.scope import ClusterScope
from capn.errors import CapnError
from capn.kube.etcd import EtcdClient

# No watch of ours tells, and each look at etcd runs etcdctl in every member's machine.
POLL_S = 15.0


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
        members, healthy = await _survey_etcd(scope)
    except CapnError as error:
        return Said(error.reason, str(error))
    why = why_not_add(members, healthy)
    return None if why is None else Said("EtcdUnhealthy", why)


async def find_ill_members(scope: ClusterScope) -> Said | None:
    """Which members of etcd are missing or half made: a rolling change needs all of them to begin with."""
    try:
        ill = list_ill(*await _survey_etcd(scope))
    except CapnError as error:
        return Said(error.reason, str(error))
    return Said("EtcdUnhealthy", f"not all members of etcd are healthy voters: {', '.join(ill)}") if ill else None


async def _survey_etcd(scope: ClusterScope) -> tuple[Sequence[Member], set[int]]:
    """The members, and the IDs of those that are well."""
    etcd = EtcdClient(scope.require_child().client)
    members = await etcd.members()
    health = await etcd.health(members)
    return members, {key for key, found in health.items() if found.is_healthy}
