"""The simulated etcd: the same client and rules drive it as a real one, and it fails where a real one would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256

import pytest

from capn import names
from capn.api.resources import NODE, POD, SECRET
from capn.build.report import ReportState
from capn.errors import UnreachableError
from capn.kube.client import KubeClient
from capn.kube.errors import CommandFailedError
from capn.kube.etcd import EtcdClient, MembershipRefusedError
from capn.providers.base import MachineRef, MachineRequest
from capn.providers.memory import MemoryProvider
from capn.providers.memory_etcd import SimulatedEtcd
from capn.settings import MemoryEndpoint
from tests.contract.provider_rigs import cluster_ref, cluster_request, control_plane
from tests.unit.providers.test_memory import Clock, joining, kubeconfig, last_word, token_secret


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[MemoryProvider]:
    provider = MemoryProvider(MemoryEndpoint(boot_s=30), now=clock, sleep=clock.sleep)
    await provider.ensure_cluster(cluster_request(cluster_ref()))
    yield provider
    await provider.close()


def build_request(ordinal: int) -> MachineRequest:
    """A control plane: the first initializes, the others join."""
    if ordinal == 0:
        return control_plane(cluster_ref())
    return replace(joining(ordinal), role=names.ROLE_CONTROL_PLANE)


async def boot(provider: MemoryProvider, clock: Clock, count: int = 3) -> tuple[KubeClient, list[MachineRef]]:
    refs = []
    for ordinal in range(count):
        request = build_request(ordinal)
        await provider.ensure_machine(request)
        assert (await last_word(provider, request.ref)).state is ReportState.SUCCEEDED
        refs.append(request.ref)
        if ordinal == 0:
            child = await provider.open_child(cluster_ref(), kubeconfig())
            await child.create(SECRET, token_secret(clock, 1000))
    return child, refs


def etcd_of(provider: MemoryProvider) -> SimulatedEtcd:
    return provider.world.clusters[cluster_ref().uid].etcd


async def healthy(client: EtcdClient) -> set[str]:
    members = await client.members()
    health = await client.health(members)
    return {member.name for member in members if member.id in health and health[member.id].is_healthy}


async def test_members_come_with_machines_and_stay_without_them(provider: MemoryProvider, clock: Clock) -> None:
    child, refs = await boot(provider, clock)
    client = EtcdClient(child)
    assert await healthy(client) == {ref.name for ref in refs}
    provider.remove(refs[0])
    members = await client.members()
    assert len(members) == 3
    assert await healthy(client) == {refs[1].name, refs[2].name}
    gone = next(member for member in members if member.name == refs[0].name)
    await client.remove_member(gone.id)
    await client.remove_member(gone.id)
    assert await healthy(client) == {member.name for member in await client.members()} == {r.name for r in refs[1:]}


async def test_the_child_is_silent_without_a_quorum_and_comes_back_with_it(
    provider: MemoryProvider, clock: Clock
) -> None:
    child, refs = await boot(provider, clock)
    provider.crash(refs[0])
    assert await child.get(NODE, refs[1].name) is not None
    provider.crash(refs[1])
    with pytest.raises(UnreachableError):
        await EtcdClient(child).members()
    await provider.ensure_machine(build_request(1))
    assert await healthy(EtcdClient(child)) == {refs[1].name, refs[2].name}


async def test_a_machine_made_anew_under_its_old_uid_is_not_the_old_member(
    provider: MemoryProvider, clock: Clock
) -> None:
    child, refs = await boot(provider, clock)
    provider.remove(refs[2])
    await provider.ensure_machine(build_request(2))
    assert await healthy(EtcdClient(child)) == {refs[0].name, refs[1].name}


async def test_a_removal_that_costs_the_quorum_is_refused(provider: MemoryProvider, clock: Clock) -> None:
    child, refs = await boot(provider, clock)
    client = EtcdClient(child)
    provider.crash(refs[0])
    members = await client.members()
    with pytest.raises(MembershipRefusedError):
        await client.remove_member(next(member.id for member in members if member.name == refs[1].name))


async def test_leadership_moves(provider: MemoryProvider, clock: Clock) -> None:
    child, refs = await boot(provider, clock)
    client = EtcdClient(child)
    members = await client.members()
    first = etcd_of(provider).leader
    assert first is not None
    leader = next(member for member in members if member.name == first.name)
    await client.move_leader(leader, members[2])
    await client.move_leader(leader, members[1])  # it leads no more: harmless
    assert {found.leader for found in (await client.health(members)).values()} == {members[2].id}
    provider.crash(refs[2])
    assert members[2].id not in {found.leader for found in (await client.health(members)).values()}
    with pytest.raises(CommandFailedError, match="bad leader transferee"):
        await client.move_leader(leader, replace(members[2], id=1))


async def test_leadership_moves_beside_a_dead_member(provider: MemoryProvider, clock: Clock) -> None:
    child, refs = await boot(provider, clock)
    provider.crash(refs[0])  # the first by name; etcdctl gives up at a dead endpoint before the leader's
    client = EtcdClient(child)
    members = {member.name: member for member in await client.members()}
    leader, heir = members[refs[1].name], members[refs[2].name]
    assert {found.leader for found in (await client.health(list(members.values()))).values()} == {leader.id}
    await client.move_leader(leader, heir)
    assert {found.leader for found in (await client.health(list(members.values()))).values()} == {heir.id}


async def test_a_learner_whose_machine_dies_stays_behind(provider: MemoryProvider, clock: Clock) -> None:
    child, refs = await boot(provider, clock, 1)
    etcd_of(provider).holds_learners = True
    request = build_request(1)
    await provider.ensure_machine(request)
    client = EtcdClient(child)
    async with asyncio.timeout(5):
        while len(await client.members()) < 2:
            await asyncio.sleep(0)
    learner = next(member for member in await client.members() if member.is_learner)
    provider.remove(request.ref)
    etcd_of(provider).holds_learners = False
    assert [member.is_learner for member in await client.members()] == [False, True]
    assert await child.get(NODE, refs[0].name) is not None  # a learner has no vote
    await client.remove_member(learner.id)
    assert [member.name for member in await client.members()] == [refs[0].name]


async def test_a_learner_that_is_held_for_too_long_fails_its_machine(provider: MemoryProvider, clock: Clock) -> None:
    await boot(provider, clock, 1)
    etcd_of(provider).holds_learners = True
    request = build_request(1)
    await provider.ensure_machine(request)
    report = await last_word(provider, request.ref)
    assert (report.state, report.stage) == (ReportState.FAILED, "kubeadm/etcd")


async def test_an_alarm_is_told_by_all_and_is_of_one(provider: MemoryProvider, clock: Clock) -> None:
    child, refs = await boot(provider, clock)
    etcd_of(provider).raise_alarm(refs[1].name)
    client = EtcdClient(child)
    ill = next(member for member in await client.members() if member.name == refs[1].name)
    assert await healthy(client) == {refs[0].name, refs[2].name}
    await client.remove_member(ill.id)
    assert await healthy(client) == {refs[0].name, refs[2].name}
    assert {found.alarmed for found in (await client.health(await client.members())).values()} == {(ill.id,)}


async def test_the_pod_goes_with_its_node(provider: MemoryProvider, clock: Clock) -> None:
    child, refs = await boot(provider, clock)
    assert len((await child.list(POD, namespace="kube-system", label_selector="component=etcd")).items) == 3
    await child.delete(NODE, refs[2].name)
    assert await child.get(POD, f"etcd-{refs[2].name}", "kube-system") is None


async def test_a_snapshot_has_its_checksum(provider: MemoryProvider, clock: Clock) -> None:
    child, _ = await boot(provider, clock, 1)
    data = b"".join([piece async for piece in EtcdClient(child).snapshot()])
    assert sha256(data[:-32]).digest() == data[-32:]
    assert etcd_of(provider).snapshots == {}
