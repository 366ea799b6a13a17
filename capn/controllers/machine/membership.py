"""A step of a control plane's deletion: its etcd member hands on what it leads, and is removed before the machine is.

A machine that is taken away first leaves a dead voter behind, and the next one that fails takes the quorum with it.
Must not: run when the whole cluster goes, or when no other control plane is left to be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capn.api.cluster import PowerState
from capn.build.etcd_members import Member, MemberHealth
from capn.build.etcd_rules import why_not_remove
from capn.controllers.machine.leaving import leave_endpoint
from capn.controllers.machine.node import open_child
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.kube.etcd import EtcdClient

POLL_S = 10.0


async def leave_etcd(scope: MachineScope) -> Wait | None:
    """Remove the machine's etcd member, if that leaves a quorum; say why it does not, and wait."""
    if not _has_member(scope):
        return None
    if scope.cluster is not None and scope.cluster.spec.power_state is PowerState.OFF:
        return Wait("PoweredOff", "etcd takes no change while the cluster is off; the machine goes when it is on again")
    etcd = EtcdClient((await open_child(scope)).client)
    members = await etcd.members()
    own = find_own(members, name=scope.name, addresses=scope.internal_addresses)
    if own is None:
        return None
    health = await etcd.health(members)
    healthy = {key for key, found in health.items() if found.is_healthy}
    if (why := why_not_remove(members, healthy, own.id)) is not None:
        return Wait("EtcdMemberNeeded", why, POLL_S)
    if own.id in healthy and (wait := await leave_endpoint(scope)) is not None:
        return wait
    if (heir := find_heir(members, health, own)) is not None:
        await etcd.move_leader(own, heir)
    await etcd.remove_member(own.id)
    return None


def _has_member(scope: MachineScope) -> bool:
    """Whether there may be a member, in a cluster that lives on without this machine."""
    cluster = scope.cluster
    lives_on = cluster is not None and not cluster.metadata.deleting and scope.cluster_initialized
    return scope.is_control_plane and lives_on and not scope.claimed and not scope.stands_alone


def find_own(members: Sequence[Member], *, name: str, addresses: Sequence[str]) -> Member | None:
    """The machine's member: by its node's name, or, if it never started and so has none, by its peer URL."""
    named = next((member for member in members if member.name == name), None)
    if named is not None:
        return named
    urls = {f"https://{address}:2380" for address in addresses}
    return next((member for member in members if not member.name and urls & set(member.peer_urls)), None)


def find_heir(members: Sequence[Member], health: Mapping[int, MemberHealth], own: Member) -> Member | None:
    """Who shall lead instead of `own`: the most up to date of the other voters. None when `own` does not lead."""
    mine = health.get(own.id)
    if mine is None or mine.leader != own.id:
        return None
    able = [
        member
        for member in members
        if member.id != own.id and not member.is_learner and member.id in health and health[member.id].is_healthy
    ]
    return max(able, key=lambda member: health[member.id].raft_applied, default=None)
