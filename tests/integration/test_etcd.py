"""`EtcdClient` with real etcd processes of the version that the child runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from capn.build.etcd_members import Member
from capn.build.etcd_rules import has_quorum, why_not_add, why_not_remove
from capn.build.snapshots import SnapshotDigest
from capn.errors import UnreachableError
from capn.kube.etcd import EtcdClient, MembershipRefusedError, NoQuorumError
from tests.harness.real_etcd import RealEtcd, RealMember, restore, running_etcd

pytestmark = pytest.mark.timeout(240)
NAMES = ("cp-0", "cp-1", "cp-2")


@pytest.fixture
async def etcd(binaries: Mapping[str, Path], tmp_path: Path) -> AsyncIterator[RealEtcd]:
    async with running_etcd(binaries, tmp_path, *NAMES) as running:
        yield running


async def healthy(client: EtcdClient, members: tuple[Member, ...]) -> set[int]:
    return {key for key, health in (await client.health(members)).items() if health.is_healthy}


async def test_members_leader_and_a_dead_one(etcd: RealEtcd) -> None:
    client = EtcdClient(etcd.api)
    members = await client.members()
    assert [member.name for member in members] == list(NAMES)
    assert all(member.id > 1 << 32 for member in members)
    health = await client.health(members)
    assert {found.leader for found in health.values()} == {next(iter(health.values())).leader}
    assert all(found.is_healthy and found.version.startswith("3.") and found.db_bytes for found in health.values())

    leader = next(member for member in members if member.id == health[member.id].leader)
    other = next(member for member in members if member is not leader)
    await client.move_leader(leader, other)
    await client.move_leader(leader, other)
    assert {found.leader for found in (await client.health(members)).values()} == {other.id}

    await etcd.kill("cp-0")  # whose pod comes first
    assert [member.name for member in await client.members()] == list(NAMES)
    alive = await healthy(client, members)
    assert alive == {member.id for member in members if member.name != "cp-0"}
    dead, keeps, _ = members
    assert why_not_remove(members, alive, dead.id) is None
    assert "no quorum" in (why_not_remove(members, alive, keeps.id) or "")
    await client.remove_member(dead.id)
    await client.remove_member(dead.id)
    assert [member.name for member in await client.members()] == ["cp-1", "cp-2"]


async def test_the_leader_hands_on_beside_a_dead_member(etcd: RealEtcd) -> None:
    client = EtcdClient(etcd.api)
    members = await client.members()
    dead, leader, heir = members
    led_by = await wait_for_leader(client, members)
    if led_by is not leader:
        await client.move_leader(led_by, leader)
    await etcd.kill(dead.name)  # the first by name: etcdctl would meet it before the leader
    await client.move_leader(leader, heir)
    await client.move_leader(leader, heir)
    await client.move_leader(leader, dead)  # it has nothing to give any more
    assert await wait_for_leader(client, members) is heir


async def test_an_alarm_is_told_by_all_and_is_of_one(etcd: RealEtcd) -> None:
    client = EtcdClient(etcd.api)
    members = await client.members()
    ill = members[1]
    alarm = {"action": "ACTIVATE", "memberID": str(ill.id), "alarm": "NOSPACE"}
    url = f"{etcd.members['cp-0'].client_url}/v3/maintenance/alarm"
    async with aiohttp.ClientSession() as session, session.post(url, json=alarm) as answer:
        assert answer.status == 200, await answer.text()
    async with asyncio.timeout(60):
        while {found.alarmed for found in (await client.health(members)).values()} != {(ill.id,)}:
            await asyncio.sleep(0.2)
    alive = await healthy(client, members)
    assert alive == {member.id for member in members if member is not ill}
    assert why_not_remove(members, alive, ill.id) is None
    async with asyncio.timeout(60):
        while len(await client.members()) == 3:
            with contextlib.suppress(MembershipRefusedError):  # until all were connected for 5 s
                await client.remove_member(ill.id)
    left = await client.members()
    assert {found.alarmed for found in (await client.health(left)).values()} == {(ill.id,)}
    assert await healthy(client, left) == {member.id for member in left}
    assert (await etcd.etcdctl("cp-0", "alarm", "disarm")).exit_code == 0
    assert {found.alarmed for found in (await client.health(left)).values()} == {()}


async def wait_for_leader(client: EtcdClient, members: tuple[Member, ...]) -> Member:
    """Who leads, as soon as all that answer agree on it."""
    async with asyncio.timeout(60):
        while True:
            said = {found.leader for found in (await client.health(members)).values()}
            found = [member for member in members if {member.id} == said]
            if found:
                return found[0]
            await asyncio.sleep(0.2)


async def test_without_quorum_it_says_so_and_still_gives_a_snapshot(etcd: RealEtcd) -> None:
    client = EtcdClient(etcd.api)
    members = await client.members()
    await etcd.kill("cp-1")
    await etcd.kill("cp-2")
    with pytest.raises(NoQuorumError, match="too few of its members live"):
        await client.members()
    with pytest.raises(NoQuorumError):
        await client.remove_member(members[1].id)
    async with asyncio.timeout(60):
        while (await client.health(members))[members[0].id].is_healthy:
            await asyncio.sleep(0.2)
    assert not has_quorum(members, await healthy(client, members))
    assert b"".join([piece async for piece in client.snapshot()])
    await etcd.kill("cp-0")
    with pytest.raises(UnreachableError, match="etcd in pod etcd-cp-0 does not answer"):
        await client.members()


async def test_nobody_is_added_beside_a_learner(etcd: RealEtcd) -> None:
    client = EtcdClient(etcd.api)
    joining = etcd.members["cp-3"] = RealMember("cp-3")
    add = ("member", "add", "cp-3", f"--peer-urls={joining.peer_url}", "--learner")
    async with asyncio.timeout(60):
        while (await etcd.etcdctl("cp-0", *add)).exit_code != 0:  # refused until all were connected for 5 s
            await asyncio.sleep(0.5)
    members = await client.members()
    learner = next(member for member in members if member.is_learner)
    assert (learner.name, learner.client_urls) == ("", ())
    alive = await healthy(client, members)
    assert learner.id not in alive
    assert "learner" in (why_not_add(members, alive) or "")
    await etcd.start("cp-3", state="existing")
    async with asyncio.timeout(60):
        while (await etcd.etcdctl("cp-0", "member", "promote", learner.hex_id)).exit_code != 0:  # until it caught up
            await asyncio.sleep(0.2)
    members = await client.members()
    assert [(member.name, member.is_learner) for member in members][-1] == ("cp-3", False)
    assert len(await healthy(client, members)) == 4


async def test_a_snapshot_is_whole_and_leaves_nothing(etcd: RealEtcd) -> None:
    await etcd.etcdctl("cp-0", "put", "key", "value" * 10_000)
    data = b"".join([piece async for piece in EtcdClient(etcd.api).snapshot()])
    digest = SnapshotDigest()
    digest.update(data)
    digest.require_whole()
    assert not list(etcd.directory.glob("*.snapshot*"))


async def test_a_restored_snapshot_is_a_cluster_of_one_with_the_data_of_then(
    etcd: RealEtcd, binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    """The whole way: out as a backup takes it, in as the guest makes etcd's data of it, and others can join."""
    await etcd.etcdctl("cp-0", "put", "/key", "of-then")
    snapshot = tmp_path / "snapshot.db"
    snapshot.write_bytes(b"".join([piece async for piece in EtcdClient(etcd.api).snapshot()]))
    await etcd.etcdctl("cp-0", "put", "/key", "of-later")
    before = json.loads((await etcd.etcdctl("cp-0", "get", "/key", "-w", "json")).stdout)["header"]
    for name in NAMES:
        await etcd.kill(name)
    again = RealEtcd(binaries, tmp_path / "again")
    again.directory.mkdir()
    again.members["c1-cp-0"] = RealMember("c1-cp-0")
    await restore(binaries, snapshot, again.members["c1-cp-0"], again.directory)
    try:
        await again.start("c1-cp-0")
        client = EtcdClient(again.api)
        async with asyncio.timeout(60):
            while not await has_started(again, "c1-cp-0"):
                await asyncio.sleep(0.2)
        assert (await again.etcdctl("c1-cp-0", "get", "/key", "--print-value-only")).stdout == b"of-then\n"
        members = await client.members()
        assert [(member.name, list(member.peer_urls)) for member in members] == [
            ("c1-cp-0", [again.members["c1-cp-0"].peer_url])
        ]
        after = json.loads((await again.etcdctl("c1-cp-0", "get", "/key", "-w", "json")).stdout)["header"]
        assert after["revision"] >= before["revision"] + 900_000_000
        assert after["cluster_id"] != before["cluster_id"]
        old = await again.etcdctl("c1-cp-0", "get", "/key", f"--rev={before['revision']}")
        assert b"has been compacted" in old.stderr
        joining = again.members["c1-cp-1"] = RealMember("c1-cp-1")
        await again.etcdctl("c1-cp-0", "member", "add", "c1-cp-1", f"--peer-urls={joining.peer_url}")
        await again.start("c1-cp-1", state="existing")
        async with asyncio.timeout(60):
            while len(await healthy(client, await client.members())) < 2:
                await asyncio.sleep(0.2)
    finally:
        for name in list(again.members):
            await again.kill(name)


async def has_started(etcd: RealEtcd, name: str) -> bool:
    return (await etcd.etcdctl(name, "endpoint", "health")).exit_code == 0


async def test_etcd_holds_back_a_change_while_members_are_not_connected(etcd: RealEtcd) -> None:
    """What etcd checks itself, as the rules do before."""
    client = EtcdClient(etcd.api)
    members = await client.members()
    await etcd.kill("cp-2")
    with pytest.raises(MembershipRefusedError):
        await client.remove_member(members[1].id)
