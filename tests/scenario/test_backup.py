"""Backups: on a schedule, on demand, verified, limited in number; every failure is said and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from capn.api.resources import NESTED_CLUSTER
from capn.backup.directory import DirectoryStore as Directory
from capn.controllers.cluster.reconciler import CHILD_CHECK_S, ClusterReconciler
from capn.errors import ApiStatusError, TransientError
from capn.kube.client import ExecResult
from capn.kube.exec import ExecCall
from capn.providers.memory_etcd import SimulatedEtcd
from capn.runtime.clock import utc_now
from capn.runtime.controller import Key
from capn.settings import DirectoryStore
from tests.harness.scenario import NAMESPACE_NAME, Scenario

DAILY = "0 3 * * *"


@dataclass
class Clock:
    """The controllers' wall clock."""

    shift: timedelta = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.shift


@dataclass
class Case:
    """A started scenario, its clock and its store."""

    scenario: Scenario
    clock: Clock
    root: Path

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    async def ask(self, token: str) -> None:
        patch = {"metadata": {"annotations": {"capn.dev/backup-now": token}}}
        await self.scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, patch)

    async def status(self) -> dict[str, Any]:
        cluster = await self.scenario.cluster()
        assert cluster is not None
        found: dict[str, Any] = cluster["status"].get("backup", {})
        return found

    async def served(self, token: str) -> dict[str, Any]:
        async def is_served() -> bool:
            return (await self.status()).get("lastRequest") == token

        await self.scenario.until(is_served)
        await self.scenario.settle()
        return await self.status()

    async def until_reason(self, reason: str) -> dict[str, Any]:
        async def is_so() -> bool:
            return (await self.scenario.condition("c1", "BackupReady")).get("reason") == reason

        await self.scenario.until(is_so)
        await self.scenario.settle()
        return await self.scenario.condition("c1", "BackupReady")

    async def etcd(self) -> SimulatedEtcd:
        cluster = await self.scenario.cluster()
        assert cluster is not None
        return self.scenario.world.clusters[cluster["metadata"]["uid"]].etcd

    async def handle_exec(self, handle: Any) -> None:
        """Answer commands in the child's pods by `handle(call, what etcd would say)`."""
        etcd = await self.etcd()
        cluster = await self.scenario.cluster()
        assert cluster is not None

        async def answer(call: ExecCall) -> ExecResult:
            result: ExecResult = await handle(call, etcd.exec)
            return result

        # Clients copied the handler when they were opened: they are opened anew.
        self.scenario.world.clusters[cluster["metadata"]["uid"]].api.exec_handler = answer
        await self.scenario.restart()
        await self.scenario.settle()


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    root, clock = tmp_path / "store", Clock()
    root.mkdir()
    scenario = Scenario(backup_stores={"disk": DirectoryStore(path=root)}, now=clock)
    await scenario.start()
    try:
        yield Case(scenario, clock, root)
        assert await scenario.leaks() == []
    finally:
        await scenario.kill()
        await scenario.provider.close()


async def ready(case: Case, **backup: Any) -> None:
    await case.scenario.create(backup={"store": "disk", **backup})
    await case.scenario.ready()


async def test_on_demand_it_is_written_whole_and_said(case: Case) -> None:
    await ready(case)
    condition = await case.until_reason("WaitingForBackup")
    assert condition["status"] == "False"
    assert case.files() == []
    await case.ask("one")
    status = await case.served("one")
    record = status["lastSuccess"]
    assert case.files() == [f"{record['name']}.db", f"{record['name']}.json"]
    assert record["name"].startswith("team/c1/20")
    data = (case.root / f"{record['name']}.db").read_bytes()
    assert (len(data), sha256(data).hexdigest()) == (record["size"], record["sha256"])
    said = json.loads((case.root / f"{record['name']}.json").read_text())
    assert said["cluster"]["name"] == "c1"
    assert said["snapshot"] == {
        "file": f"{record['name'].rpartition('/')[2]}.db",
        "size": record["size"],
        "sha256": record["sha256"],
    }
    assert said["kubernetesVersion"] == "v1.37.2"
    assert said["etcd"]["revision"] > 0
    condition = await case.scenario.condition("c1", "BackupReady")
    assert (condition["status"], condition["reason"]) == ("True", "BackedUp")
    assert "BackedUp" in case.scenario.events.reasons("c1")
    assert (await case.etcd()).snapshots == {}


async def test_a_settled_one_writes_nothing_not_even_after_a_restart(case: Case) -> None:
    await ready(case, schedule="0 0 1 1 *")
    await case.ask("one")
    await case.served("one")
    writes, files = case.scenario.api.writes, case.files()
    case.clock.shift = timedelta(minutes=1)  # another name, were one taken
    await case.scenario.restart()
    await case.scenario.settle()
    assert (case.scenario.api.writes, case.files()) == (writes, files)


async def test_a_time_that_was_missed_is_made_up_for_once(case: Case) -> None:
    await ready(case, schedule=DAILY)
    await case.until_reason("WaitingForBackup")
    await case.scenario.kill()
    case.clock.shift = timedelta(days=3)
    await case.scenario.start()
    await case.until_reason("BackedUp")
    assert len(case.files()) == 2
    await case.scenario.restart()
    await case.scenario.settle()
    assert len(case.files()) == 2


async def test_it_looks_again_at_the_next_time_without_polling(case: Case) -> None:
    await ready(case, schedule="* * * * *")
    await case.ask("one")
    await case.served("one")
    assert case.scenario.controllers is not None
    reconciler, key = ClusterReconciler(case.scenario.controllers.deps), Key(NAMESPACE_NAME, "c1")
    result = await reconciler.reconcile(key)
    assert result.requeue_after_s is not None
    assert 0 < result.requeue_after_s <= 60
    await case.scenario.patch("c1", {"backup": {"schedule": "0 0 1 1 *"}})
    await case.scenario.settle()
    assert (await reconciler.reconcile(key)).requeue_after_s == CHILD_CHECK_S


async def test_only_so_many_are_kept_and_others_are_left_alone(case: Case) -> None:
    await ready(case, keep=2)
    theirs = case.root / "team" / "c1" / "20200101T000000Z-00000000.db"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"of an earlier cluster of this name")
    names = []
    for number in range(4):
        case.clock.shift += timedelta(minutes=1)
        await case.ask(f"token-{number}")
        names.append((await case.served(f"token-{number}"))["lastSuccess"]["name"])
    expected = [f"{name}.{ending}" for name in names[2:] for ending in ("db", "json")]
    assert case.files() == sorted([*expected, str(theirs.relative_to(case.root))])


async def test_an_unknown_store_is_said_and_does_not_make_the_cluster_less_ready(case: Case) -> None:
    await case.scenario.create(backup={"store": "tape"})
    await case.scenario.ready()
    await case.ask("one")
    condition = await case.until_reason("BackupStoreNotFound")
    assert "known: disk" in condition["message"]
    assert (await case.scenario.condition("c1", "Ready"))["status"] == "True"
    assert (await case.status())["failureReason"] == "BackupStoreNotFound"
    await case.scenario.patch("c1", {"backup": {"store": "disk"}})
    assert (await case.served("one")).keys() == {"lastSuccess", "lastRequest"}


async def test_a_day_that_never_comes_is_said(case: Case) -> None:
    await ready(case, schedule="0 0 30 2 *")
    assert "'0 0 30 2 *' names no day" in (await case.until_reason("BackupNeverDue"))["message"]


async def test_a_store_that_is_away_is_tried_again_after_a_pause(case: Case) -> None:
    await ready(case)
    case.root.rename(case.root.with_name("away"))
    await case.ask("one")
    await case.until_reason("BackupStoreUnavailable")
    assert "BackupStoreUnavailable" in case.scenario.events.reasons("c1")
    case.root.with_name("away").rename(case.root)
    assert case.scenario.controllers is not None
    reconciler, key = ClusterReconciler(case.scenario.controllers.deps), Key(NAMESPACE_NAME, "c1")
    writes = case.scenario.api.writes
    result = await reconciler.reconcile(key)
    assert result.requeue_after_s is not None
    assert case.files() == []
    assert case.scenario.api.writes == writes
    case.clock.shift += timedelta(minutes=11)
    await reconciler.reconcile(key)
    assert len(case.files()) == 2


async def test_a_snapshot_that_did_not_come_whole_is_not_kept(case: Case) -> None:
    await ready(case)

    async def cut(call: ExecCall, etcd: Any) -> ExecResult:
        result: ExecResult = await etcd(call)
        return ExecResult(result.stdout[:-7], b"", 0) if call.command[0] == "cat" else result

    await case.handle_exec(cut)
    await case.ask("one")
    assert "did not send all of it" in (await case.until_reason("SnapshotDamaged"))["message"]
    assert case.files() == []


@pytest.mark.parametrize("program", ["etcdctl", "cat"])
async def test_a_command_that_fails_is_said_in_its_own_words(case: Case, program: str) -> None:
    await ready(case)

    async def fail(call: ExecCall, etcd: Any) -> ExecResult:
        if call.command[0] == program and "member" not in call.command:
            return ExecResult(b"", b"Error: it is broken\n", 1)
        result: ExecResult = await etcd(call)
        return result

    await case.handle_exec(fail)
    await case.ask("one")
    assert "it is broken" in (await case.until_reason("CommandFailed"))["message"]
    assert case.files() == []


async def test_a_program_that_the_image_does_not_have(case: Case) -> None:
    await ready(case)

    async def refuse(call: ExecCall, etcd: Any) -> ExecResult:
        if call.command[0] == "cat":
            raise ApiStatusError(500, 'exec in pod etcd-c1-cp-0: exec: "cat": executable file not found in $PATH')
        result: ExecResult = await etcd(call)
        return result

    await case.handle_exec(refuse)
    await case.ask("one")
    assert '"cat": executable file not found' in (await case.until_reason("Refused"))["message"]


async def test_a_store_that_gives_back_other_bytes_is_found_out(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await ready(case)

    async def read(_self: Directory, _name: str) -> AsyncGenerator[bytes, None]:
        yield b"other bytes"

    monkeypatch.setattr(Directory, "read", read)
    await case.ask("one")
    await case.until_reason("BackupDamaged")
    assert case.files() == []


async def test_old_ones_that_cannot_be_ended_do_not_undo_the_new_one(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(case, keep=1)
    await case.ask("one")
    await case.served("one")

    async def refuse(_self: Directory, _name: str) -> None:
        raise TransientError("read-only", reason="BackupStoreUnavailable")

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "delete", refuse)
        case.clock.shift += timedelta(minutes=1)
        await case.ask("two")
        status = await case.served("two")
    assert status["failureReason"] == "BackupStoreUnavailable"
    assert len(case.files()) == 4
    case.clock.shift += timedelta(minutes=1)
    await case.ask("three")
    status = await case.served("three")
    assert "failureReason" not in status
    assert case.files() == [f"{status['lastSuccess']['name']}.db", f"{status['lastSuccess']['name']}.json"]


async def test_a_controller_that_dies_in_the_middle_leaves_nothing_and_the_next_one_does_it(case: Case) -> None:
    await ready(case)
    began, stuck = asyncio.Event(), True

    async def hang(call: ExecCall, etcd: Any) -> ExecResult:
        if call.command[0] == "cat" and stuck:
            began.set()
            await asyncio.Event().wait()
        result: ExecResult = await etcd(call)
        return result

    await case.handle_exec(hang)
    await case.ask("one")
    async with asyncio.timeout(20):
        await began.wait()
    await case.scenario.kill()
    assert case.files() == []
    stuck = False
    await case.scenario.start()
    await case.served("one")
    assert len(case.files()) == 2


async def test_snapshots_stay_when_the_cluster_goes_and_when_backups_are_switched_off(case: Case) -> None:
    await ready(case)
    await case.ask("one")
    record = (await case.served("one"))["lastSuccess"]
    await case.scenario.patch("c1", {"backup": None})

    async def is_off() -> bool:
        return await case.scenario.condition("c1", "BackupReady") == {}

    await case.scenario.until(is_off)
    assert (await case.status())["lastSuccess"] == record
    await case.scenario.delete()
    await case.scenario.gone()
    assert len(case.files()) == 2


async def test_a_slow_store_keeps_neither_its_cluster_nor_others_from_anything(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many slow backups as the queue has workers: pools grow, clusters come and go all the same."""
    scenario, go, put = case.scenario, asyncio.Event(), Directory.put
    busy = [f"busy-{number}" for number in range(8)]

    async def put_slowly(self: Directory, name: str, source: Path) -> None:
        await go.wait()
        await put(self, name, source)

    for name in busy:
        await scenario.create(name, backup={"store": "disk"})
    for name in busy:
        await scenario.ready(name)
    monkeypatch.setattr(Directory, "put", put_slowly)
    for name in busy:
        patch = {"metadata": {"annotations": {"capn.dev/backup-now": "one"}}}
        await scenario.user.merge_patch(NESTED_CLUSTER, name, NAMESPACE_NAME, patch)

    async def all_say_so() -> bool:
        return all([(await scenario.condition(name, "BackupReady")).get("reason") == "BackingUp" for name in busy])

    await scenario.until(all_say_so)
    assert (await scenario.condition("busy-0", "Ready"))["status"] == "True"
    await scenario.patch("busy-0", {"workers": [{"name": "md"}]})
    await scenario.until(lambda: "busy-0-md-0" in {vm.ref.name for vm in scenario.world.machines.values()})
    await scenario.create("other")
    await scenario.ready("other")
    await scenario.delete("busy-1")
    await scenario.gone("busy-1")
    go.set()

    async def are_served() -> bool:
        left = [await scenario.cluster(name) for name in busy if name != "busy-1"]
        return all((found or {})["status"].get("backup", {}).get("lastRequest") == "one" for found in left)

    await scenario.until(are_served)
    await scenario.settle()
    assert len([name for name in case.files() if name.endswith(".json")]) == len(busy) - 1
    for name in ("busy-0", "busy-2"):
        assert (await scenario.condition(name, "BackupReady"))["status"] == "True"
