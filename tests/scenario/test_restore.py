"""Restores: a lost control plane, a lost quorum and a new cluster begin with a snapshot; nothing is touched before it
was read, nothing is concluded from silence, and a controller that dies goes on where it was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from capn import names
from capn.api.conditions import ClusterCondition, find
from capn.api.resources import CONFIG_MAP, DAEMON_SET, NESTED_CLUSTER, NESTED_MACHINE, NODE, SECRET
from capn.controllers.cluster.reconciler import ClusterReconciler
from capn.controllers.cluster.restore import PATIENCE_S
from capn.controllers.credentials import pki_secret_names
from capn.errors import UnreachableError
from capn.kube.memory import MemoryKubeClient
from capn.providers.memory_world import ChildClient
from capn.settings import DirectoryStore
from tests.harness.scenario import NAMESPACE_NAME, Scenario

LIMIT_S = 60.0


@dataclass
class Case:
    """A started scenario with a store."""

    scenario: Scenario
    root: Path

    async def uid(self, name: str = "c1") -> str:
        cluster = await self.scenario.cluster(name)
        assert cluster is not None
        return str(cluster["metadata"]["uid"])

    async def child(self, name: str = "c1") -> MemoryKubeClient:
        return self.scenario.api_of(await self.uid(name))

    async def write(self, word: str, name: str = "c1") -> None:
        """Somebody's object in the child."""
        await (
            (await self.child(name))
            .as_manager("kubectl")
            .create(CONFIG_MAP, {"metadata": {"name": word, "namespace": "default"}, "data": {"word": word}})
        )

    async def words(self, name: str = "c1") -> set[str]:
        found = await (await self.child(name)).list(CONFIG_MAP, namespace="default")
        return {item["metadata"]["name"] for item in found.items}

    async def nodes(self, name: str = "c1") -> dict[str, str]:
        found = (await (await self.child(name)).list(NODE)).items
        return {item["metadata"]["name"]: item["spec"]["providerID"] for item in found}

    async def endpoint(self, name: str) -> str:
        cluster = await self.scenario.cluster(name)
        assert cluster is not None
        return str(cluster["status"]["endpoint"]["host"])

    async def api_that_flannel_asks(self, name: str) -> str:
        found = await (await self.child(name)).get(DAEMON_SET, "flannel", "kube-flannel")
        assert found is not None
        [container] = found["spec"]["template"]["spec"]["containers"]
        told = {variable["name"]: variable.get("value") for variable in container["env"]}
        return str(told["KUBERNETES_SERVICE_HOST"])

    async def restore_of(self, name: str = "c1") -> dict[str, Any]:
        cluster = await self.scenario.cluster(name)
        assert cluster is not None
        found: dict[str, Any] = cluster.get("status", {}).get("restore", {})
        return found

    def pass_time(self) -> None:
        """A snapshot, or a restore, is known by the second in which it began."""
        self.scenario.shift += timedelta(seconds=5)

    async def back_up(self, request: str = "one") -> str:
        """A snapshot; its name without directory and ending."""
        self.pass_time()
        patch = {"metadata": {"annotations": {names.ANNOTATION_BACKUP_NOW: request}}}
        await self.scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, patch)
        found: dict[str, Any] = {}

        async def is_served() -> bool:
            nonlocal found
            cluster = await self.scenario.cluster()
            assert cluster is not None
            found = cluster["status"].get("backup", {})
            return found.get("lastRequest") == request

        await self.scenario.until(is_served)
        await self.scenario.settle()
        return str(found["lastSuccess"]["name"]).rpartition("/")[2]

    async def lose(self, *machines: str) -> None:
        """VMs go behind our back."""
        for name in machines:
            self.scenario.provider.remove(await self.scenario.machine_ref(name))

    async def restored(self, name: str = "c1", *, since: str | None = None) -> dict[str, Any]:
        """Wait until a restore that began after `since` is over and the cluster is Ready."""

        async def is_over() -> bool:
            restore = await self.restore_of(name)
            over = restore.get("phase") == "Completed" and restore.get("startedAt") != since
            return over and (await self.scenario.condition(name, "Ready")).get("status") == "True"

        await self.scenario.until(is_over, limit_s=LIMIT_S)
        await self.scenario.settle()
        return await self.restore_of(name)

    async def says(self, reason: str, name: str = "c1", kind: str = "Restored") -> dict[str, Any]:
        async def is_said() -> bool:
            return (await self.scenario.condition(name, kind)).get("reason") == reason

        await self.scenario.until(is_said, limit_s=LIMIT_S)
        return await self.scenario.condition(name, kind)

    def vms(self) -> dict[str, str]:
        return {vm.ref.name: vm.ref.uid for vm in self.scenario.world.machines.values()}

    async def is_at_rest(self) -> bool:
        before = self.scenario.api.store.revision
        await self.scenario.restart()
        await self.scenario.settle()
        return self.scenario.api.store.revision == before


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    root = tmp_path / "store"
    root.mkdir()
    scenario = Scenario(backup_stores={"disk": DirectoryStore(path=root)})
    await scenario.start()
    try:
        yield Case(scenario, root)
        assert await scenario.leaks() == []
    finally:
        await scenario.kill()
        await scenario.provider.close()


@dataclass
class Halt:
    """A place where the controller stands still until `go`."""

    here: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    async def came(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self.here.wait()

    async def stand(self) -> None:
        self.here.set()
        try:
            await self.go.wait()
        finally:
            self.ended = True


@contextmanager
def halting_at(reason: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Halt]:
    """The cluster's reconcile stands still once it has said that reason."""
    halt, write = Halt(), ClusterReconciler._write

    async def write_and_stand(self: ClusterReconciler, scope: Any, status: Any) -> None:
        await write(self, scope, status)
        said = find(status.conditions, ClusterCondition.RESTORED)
        if said is not None and said.reason == reason:
            await halt.stand()

    with monkeypatch.context() as patched:
        patched.setattr(ClusterReconciler, "_write", write_and_stand)
        yield halt


@contextmanager
def hanging_upload(monkeypatch: pytest.MonkeyPatch) -> Iterator[Halt]:
    """The upload stands still, and fails in the end."""
    halt = Halt()

    async def hang(*_args: Any, **_more: Any) -> tuple[int, str]:
        await halt.stand()
        raise UnreachableError("the connection was reset")

    with monkeypatch.context() as patched:
        patched.setattr(ChildClient, "upload", hang)
        yield halt


async def begin(case: Case, *, replicas: int = 1, **spec: Any) -> str:
    """A cluster with a word of before the snapshot and one of after it."""
    await case.scenario.create(controlPlane={"replicas": replicas}, backup={"store": "disk"}, **spec)

    async def is_whole() -> bool:
        cluster = await case.scenario.cluster()
        plane = (cluster or {}).get("status", {}).get("controlPlane", {})
        ready = (await case.scenario.condition("c1", "Ready")).get("status") == "True"
        return ready and plane.get("ready") == replicas

    await case.scenario.until(is_whole, limit_s=LIMIT_S)
    await case.scenario.settle()
    await case.write("before")
    snapshot = await case.back_up()
    await case.write("after")
    return snapshot


async def test_the_only_control_plane_comes_back_with_the_newest_snapshot(case: Case) -> None:
    await begin(case, workers=[{"name": "md", "replicas": 1}])
    await case.write("second")
    snapshot = await case.back_up("two")
    await case.write("late")
    vms, nodes = case.vms(), await case.nodes()
    await case.lose("c1-cp-0")
    restore = await case.restored()
    assert await case.words() == {"before", "after", "second"}
    assert restore["reason"] == "ControlPlaneLost"
    assert restore["snapshot"] == f"team/c1/{snapshot}"
    assert restore["completedAt"] >= restore["uploadedAt"] >= restore["startedAt"]
    after = await case.nodes()
    assert after["c1-md-0"] == nodes["c1-md-0"]
    assert after["c1-cp-0"] != nodes["c1-cp-0"]
    assert case.vms()["c1-md-0"] == vms["c1-md-0"], "the worker was not replaced"
    assert case.vms()["c1-cp-0"] != vms["c1-cp-0"]
    told = {reason: (kind, text) for _, kind, reason, text in case.scenario.events.lines}
    assert told["RestoreStarted"][0] == "Warning"
    assert f"since {restore['taken']} IS LOST" in told["RestoreStarted"][1]
    assert "RestoreCompleted" in told
    assert (await case.scenario.condition("c1", "Restored"))["status"] == "True"
    assert await case.is_at_rest()
    await case.back_up("three")  # etcd's pod is there and answers


async def test_without_quorum_all_that_is_left_goes_before_the_new_one_is_made(case: Case) -> None:
    await begin(case, replicas=3)
    before = case.vms()
    made_too_early: list[str] = []
    make = case.scenario.provider._make

    def watch(request: Any) -> Any:
        made_too_early.extend(uid for uid in before.values() if uid in case.scenario.world.machines)
        return make(request)

    case.scenario.provider._make = watch
    await case.lose("c1-cp-0", "c1-cp-2")
    restore = await case.restored()
    assert restore["reason"] == "QuorumLost"
    assert made_too_early == []
    assert await case.words() == {"before"}

    async def are_three() -> bool:
        etcd = case.scenario.world.clusters[await case.uid()].etcd
        return sorted(member.name for member in etcd.members if not member.is_learner) == [
            "c1-cp-0", "c1-cp-1", "c1-cp-2",
        ]  # fmt: skip

    await case.scenario.until(are_three, limit_s=LIMIT_S)
    await case.scenario.ready()
    assert set(before.values()).isdisjoint(case.vms().values())
    assert set(await case.nodes()) == {"c1-cp-0", "c1-cp-1", "c1-cp-2"}
    assert await case.is_at_rest()


async def grow_to_two_of_three(case: Case) -> None:
    """1 -> 3: the second has joined, the third cannot."""
    await begin(case)
    case.scenario.provider.fail_bootstrap("c1-cp-2", "timed out", stage="kubeadm/preflight")
    patch = {"spec": {"controlPlane": {"replicas": 3}}}
    await case.scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, patch)

    async def has_failed() -> bool:
        machine = await case.scenario.user.get(NESTED_MACHINE, "c1-cp-2", NAMESPACE_NAME)
        return machine is not None and machine.get("status", {}).get("failureReason") is not None

    await case.scenario.until(has_failed, limit_s=LIMIT_S)


async def test_a_machine_that_is_still_joining_is_no_quorum(case: Case) -> None:
    await grow_to_two_of_three(case)
    await case.lose("c1-cp-0")
    said = await case.says("QuorumInDoubt")
    assert "unless one that joined has a vote" in said["message"]
    assert await case.restore_of() == {}
    case.scenario.world.failures.clear()
    case.scenario.advance(PATIENCE_S + 1)
    assert (await case.restored())["reason"] == "QuorumLost"
    assert await case.words() == {"before"}
    assert set(await case.nodes()) == {"c1-cp-0", "c1-cp-1", "c1-cp-2"}


async def test_one_that_is_lost_while_it_joins_costs_no_data(case: Case) -> None:
    await grow_to_two_of_three(case)
    case.scenario.world.failures.clear()
    await case.lose("c1-cp-2")
    case.scenario.advance(PATIENCE_S + 1)
    await case.scenario.ready()
    assert await case.restore_of() == {}
    assert await case.words() == {"before", "after"}


async def test_with_quorum_nothing_is_restored(case: Case) -> None:
    await begin(case, replicas=3)
    await case.lose("c1-cp-1")

    async def is_replaced() -> bool:
        ready = (await case.scenario.condition("c1", "Ready")).get("status") == "True"
        return ready and "c1-cp-1" in case.vms()

    await case.scenario.until(is_replaced, limit_s=LIMIT_S)
    assert await case.restore_of() == {}
    assert await case.words() == {"before", "after"}


async def test_a_control_plane_that_is_deleted_by_hand_comes_back_from_the_snapshot(case: Case) -> None:
    await begin(case)
    await case.scenario.user.delete(NESTED_MACHINE, "c1-cp-0", NAMESPACE_NAME)
    await case.restored()
    assert await case.words() == {"before"}


async def test_it_can_be_lost_and_restored_again(case: Case) -> None:
    await begin(case)
    await case.lose("c1-cp-0")
    first = await case.restored()
    await case.write("between")
    await case.back_up("two")
    case.pass_time()
    await case.lose("c1-cp-0")
    second = await case.restored(since=first["startedAt"])
    assert second["snapshot"] != first["snapshot"]
    assert await case.words() == {"before", "between"}


async def test_a_silent_hypervisor_and_a_stopped_vm_are_no_loss(case: Case) -> None:
    await begin(case)
    ref = await case.scenario.machine_ref("c1-cp-0")
    case.scenario.provider.set_down(True)
    for _again in range(3):
        await case.scenario.wake()
    case.scenario.provider.set_down(False)
    case.scenario.provider.crash(ref)
    await case.scenario.ready()
    assert await case.restore_of() == {}
    assert await case.words() == {"before", "after"}


@pytest.mark.parametrize(
    ("prepare", "reason", "words"),
    [
        ("skip", "RestoreForbidden", "capn.dev/skip-restore"),
        ("no-snapshot", "NoSnapshot", "the store disk has no whole snapshot of team/c1"),
        ("unfinished", "NoSnapshot", "delete the NestedCluster"),
        ("damaged", "SnapshotDamaged", "another SHA-256"),
        ("cut-consistently", "SnapshotDamaged", "etcd's own checksum"),
        ("strange", "SnapshotDamaged", "not what capn writes"),
        ("no-store", "BackupStoreNotFound", "spec.backup.store: 'tape' is no backup store"),
        ("no-backup", "RestoreImpossible", "set spec.backup.store"),
        ("older", "SnapshotUnfit", "v1.35.1: it can be restored into v1.35 or v1.36"),
    ],
)
async def test_what_cannot_be_restored_is_said_and_nothing_is_deleted(
    case: Case, prepare: str, reason: str, words: str
) -> None:
    snapshot = await begin(case, replicas=3)
    database, about = (case.root / "team" / "c1" / f"{snapshot}.{ending}" for ending in ("db", "json"))
    said = json.loads(about.read_text())
    match prepare:
        case "skip":
            patch = {"metadata": {"annotations": {names.ANNOTATION_SKIP_RESTORE: "true"}}}
            await case.scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, patch)
        case "no-snapshot":
            database.unlink()
            about.unlink()
        case "unfinished":
            about.unlink()
        case "damaged":
            database.write_bytes(database.read_bytes()[:-1] + b"\0")
        case "cut-consistently":
            data = database.read_bytes()[:-40]
            database.write_bytes(data)
            said["snapshot"] |= {"size": len(data), "sha256": sha256(data).hexdigest()}
            about.write_text(json.dumps(said))
        case "strange":
            about.write_text("{}")
        case "no-store":
            await case.scenario.patch("c1", {"backup": {"store": "tape"}})
        case "no-backup":
            await case.scenario.patch("c1", {"backup": None})
        case "older":
            about.write_text(json.dumps(said | {"kubernetesVersion": "v1.35.1"}))
    await case.lose("c1-cp-1", "c1-cp-2")
    condition = await case.says(reason)
    assert words in condition["message"]
    assert (await case.scenario.condition("c1", "Stalled"))["reason"] == reason
    assert "c1-cp-0" in case.vms(), "what was left is left"
    machines = (await case.scenario.api.list(NESTED_MACHINE, namespace=NAMESPACE_NAME)).items
    assert len(machines) == 3
    assert not [machine for machine in machines if machine["metadata"].get("deletionTimestamp")]
    assert await case.restore_of() == {}
    assert "RestoreStarted" not in case.scenario.events.reasons("c1")


async def test_it_goes_on_when_what_kept_it_is_mended(case: Case) -> None:
    await begin(case)
    patch: dict[str, Any] = {"metadata": {"annotations": {names.ANNOTATION_SKIP_RESTORE: "true"}}}
    await case.scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, patch)
    await case.lose("c1-cp-0")
    await case.says("RestoreForbidden")
    patch["metadata"]["annotations"][names.ANNOTATION_SKIP_RESTORE] = None
    await case.scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, patch)
    await case.restored()
    assert await case.words() == {"before"}


async def copy_keys(case: Case, old: str, new: str) -> None:
    for source, target in zip(pki_secret_names(old), pki_secret_names(new), strict=True):
        found = await case.scenario.secret(source)
        assert found is not None
        secret = {"metadata": {"name": target, "namespace": NAMESPACE_NAME}, "type": found["type"]}
        await case.scenario.user.create(SECRET, secret | {"data": found["data"]})


@pytest.mark.parametrize("own_keys", [True, False])
async def test_a_new_cluster_begins_with_another_ones_snapshot(case: Case, own_keys: bool) -> None:  # noqa: FBT001
    snapshot = await begin(case, workers=[{"name": "md", "replicas": 2}])
    if own_keys:
        await copy_keys(case, "c1", "c2")
    origin = {"store": "disk", "cluster": "c1", "snapshot": snapshot}
    await case.scenario.create("c2", restoreFrom=origin, workers=[{"name": "md", "replicas": 1}])
    restore = await case.restored("c2")
    assert restore["reason"] == "RestoreFrom"
    assert await case.words("c2") == {"before"}
    await case.scenario.ready("c2")
    nodes = await case.nodes("c2")
    assert set(nodes) == {"c2-cp-0", "c2-md-0"}, "the old cluster's nodes are gone"
    assert all("/c2/" in provider_id for provider_id in nodes.values())
    assert await case.api_that_flannel_asks("c2") == await case.endpoint("c2") != await case.endpoint("c1")
    assert await case.words() == {"before", "after"}, "the old cluster is as it was"
    assert set(await case.nodes()) == {"c1-cp-0", "c1-md-0", "c1-md-1"}
    assert await case.is_at_rest()


async def test_a_cluster_of_the_same_name_begins_with_its_predecessors_newest_snapshot(case: Case) -> None:
    await begin(case)
    await case.scenario.delete()
    await case.scenario.gone()
    await case.scenario.create(restoreFrom={"store": "disk"})
    await case.restored()
    assert await case.words() == {"before"}


@pytest.mark.parametrize(
    ("origin", "spec", "reason", "words"),
    [
        ({"store": "tape"}, {}, "BackupStoreNotFound", "spec.restoreFrom.store: 'tape' is no backup store"),
        (
            {"snapshot": "20200101T000000Z-00000000"},
            {},
            "NoSnapshot",
            "no snapshot 20200101T000000Z-00000000 of team/c1",
        ),
        ({"cluster": "c9"}, {}, "NoSnapshot", "team/c9"),
        ({}, {"version": "v1.36.3"}, "SnapshotUnfit", "spec.version: is v1.36.3"),
        ({}, {"version": "v1.39.0"}, "SnapshotUnfit", "v1.37 or v1.38"),
        ({}, {"network": {"serviceCIDR": "10.97.0.0/16"}}, "SnapshotUnfit", "spec.network.serviceCIDR"),
    ],
)
async def test_a_new_cluster_that_cannot_begin_with_it_begins_with_nothing(
    case: Case, origin: dict[str, str], spec: dict[str, Any], reason: str, words: str
) -> None:
    await begin(case)
    await case.scenario.create("c2", restoreFrom={"store": "disk", "cluster": "c1", **origin}, **spec)
    assert words in (await case.says(reason, "c2"))["message"]
    assert (await case.scenario.condition("c2", "Ready"))["reason"] == reason
    assert not [name for name in case.vms() if name.startswith("c2")]


async def test_a_snapshot_that_is_damaged_later_is_not_uploaded(case: Case) -> None:
    snapshot = await begin(case)
    database = case.root / "team" / "c1" / f"{snapshot}.db"
    whole = database.read_bytes()
    await case.lose("c1-cp-0")

    async def is_written_down() -> bool:
        return bool(await case.restore_of())

    await case.scenario.until(is_written_down)
    database.write_bytes(whole[:-1] + b"\0")
    await case.says("SnapshotDamaged")
    database.write_bytes(whole)
    await case.scenario.wake()
    await case.restored()
    assert await case.words() == {"before"}


async def test_a_snapshot_that_goes_from_the_store_meanwhile_is_replaced_by_another(case: Case) -> None:
    older = await begin(case)
    newest = await case.back_up("two")
    await case.lose("c1-cp-0")

    async def is_written_down() -> bool:
        return bool(await case.restore_of())

    await case.scenario.until(is_written_down)
    for ending in ("db", "json"):
        (case.root / "team" / "c1" / f"{newest}.{ending}").unlink()
    assert (await case.restored())["snapshot"] == f"team/c1/{older}"
    assert await case.words() == {"before"}


@pytest.mark.parametrize("reason", ["RestoreDecided", "RemovingControlPlanes", "Restoring"])
async def test_a_controller_that_dies_at_any_stage_goes_on(
    case: Case, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(case, replicas=3)
    with halting_at(reason, monkeypatch) as halt:
        await case.lose("c1-cp-0", "c1-cp-1")
        await halt.came()
        await case.scenario.kill()
    await case.scenario.start()
    await case.restored()
    assert await case.words() == {"before"}
    assert case.scenario.events.reasons("c1").count("RestoreStarted") == 1


async def test_a_controller_that_dies_again_and_again_goes_on(case: Case) -> None:
    await begin(case, workers=[{"name": "md"}])
    await case.lose("c1-cp-0")
    for _again in range(25):
        await asyncio.sleep(0.1)
        await case.scenario.restart()
    await case.restored()
    assert await case.words() == {"before"}
    assert await case.is_at_rest()


async def test_a_controller_that_dies_in_the_upload_uploads_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(case)
    with hanging_upload(monkeypatch) as halt:
        await case.lose("c1-cp-0")
        await halt.came()
        await case.scenario.kill()
    await case.scenario.start()
    await case.restored()
    assert await case.words() == {"before"}


async def test_an_upload_whose_answer_was_lost_is_not_made_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(case)
    whole, count, arrived = ChildClient.upload, 0, asyncio.Event()

    async def lose(self: ChildClient, path: str, source: Path, *, sha256: str, timeout_s: float) -> tuple[int, str]:
        nonlocal count
        count += 1
        await whole(self, path, source, sha256=sha256, timeout_s=timeout_s)
        arrived.set()
        await asyncio.Event().wait()
        return 0, ""

    monkeypatch.setattr(ChildClient, "upload", lose)
    await case.lose("c1-cp-0")
    async with asyncio.timeout(LIMIT_S):
        await arrived.wait()
    await case.scenario.restart()
    restore = await case.restored()
    assert count == 1
    assert restore["uploadedAt"]
    assert await case.words() == {"before"}


async def test_a_machine_that_dies_in_the_upload_is_made_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(case)
    with hanging_upload(monkeypatch) as halt:
        await case.lose("c1-cp-0")
        await halt.came()
        await case.says("UploadingSnapshot")
        case.scenario.provider.remove(await case.scenario.machine_ref("c1-cp-0"))
    halt.go.set()
    await case.restored()
    assert await case.words() == {"before"}


async def test_a_restore_that_fails_in_the_guest_is_said_and_tried_again_with_another_machine(case: Case) -> None:
    await begin(case)
    case.scenario.provider.fail_bootstrap("c1-cp-0", "Error: snapshot missing hash", stage="restore/etcd")
    await case.lose("c1-cp-0")

    async def is_said() -> bool:
        return "RestoreFailed" in (await case.scenario.condition("c1", "Stalled")).get("reason", "")

    await case.scenario.until(is_said, limit_s=LIMIT_S)
    case.scenario.world.failures.clear()
    await case.scenario.user.delete(NESTED_MACHINE, "c1-cp-0", NAMESPACE_NAME)
    await case.restored()
    assert await case.words() == {"before"}


async def test_a_worker_that_the_snapshot_does_not_know_keeps_its_vm(case: Case) -> None:
    await begin(case, workers=[{"name": "md", "replicas": 1}])
    await case.scenario.patch("c1", {"workers": [{"name": "md", "replicas": 2}]})
    await case.scenario.until(lambda: "c1-md-1" in case.vms())
    await case.scenario.ready()
    vms = case.vms()
    await case.lose("c1-cp-0")

    async def has_node() -> bool:
        return "c1-md-1" in await case.nodes()

    restore = {}

    async def is_over() -> bool:
        nonlocal restore
        restore = await case.restore_of()
        return restore.get("phase") == "Completed"

    await case.scenario.until(is_over, limit_s=LIMIT_S)
    assert await has_node()
    assert case.vms()["c1-md-1"] == vms["c1-md-1"]


async def test_nodes_of_machines_that_went_after_the_snapshot_are_removed(case: Case) -> None:
    await begin(case, workers=[{"name": "md", "replicas": 2}])
    await case.scenario.patch("c1", {"workers": [{"name": "md", "replicas": 1}]})
    await case.scenario.until(lambda: "c1-md-1" not in case.vms())
    await case.scenario.ready()
    await case.lose("c1-cp-0")
    await case.restored()
    assert set(await case.nodes()) == {"c1-cp-0", "c1-md-0"}


async def test_a_restore_that_is_paused_stands_still(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(case)
    with hanging_upload(monkeypatch) as halt:
        await case.lose("c1-cp-0")
        await halt.came()
        await case.says("UploadingSnapshot")
        await case.scenario.patch("c1", {"paused": True})
        await case.scenario.settle()
        assert halt.ended
        assert (await case.restore_of())["phase"] == "Preparing"
    await case.scenario.patch("c1", {"paused": False})
    await case.restored()


async def test_a_cluster_is_deleted_in_the_middle_of_a_restore(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(case, replicas=3)
    with halting_at("RemovingControlPlanes", monkeypatch) as halt:
        await case.lose("c1-cp-0", "c1-cp-1")
        await halt.came()
        await case.scenario.delete()
        halt.go.set()
        await case.scenario.gone()


async def test_a_cluster_is_deleted_in_the_middle_of_an_upload(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(case)
    with hanging_upload(monkeypatch) as halt:
        await case.lose("c1-cp-0")
        await halt.came()
        await case.scenario.delete()
        await case.scenario.gone()
        # It is told to end, and not waited for.
        await case.scenario.until(lambda: halt.ended)


async def test_the_old_empty_machine_never_begins_a_cluster(case: Case) -> None:
    """One that the API lost is made anew without a word of a restore; it must not get a VM before that is known."""
    await begin(case)
    begun: list[Callable[[], object]] = []
    make = case.scenario.provider._make

    def watch(request: Any) -> Any:
        if b"CAPN_RESTORE=yes" not in request.bootstrap_data:
            begun.append(request)
        return make(request)

    case.scenario.provider._make = watch
    await case.scenario.user.delete(NESTED_MACHINE, "c1-cp-0", NAMESPACE_NAME)
    await case.restored()
    assert begun == []


async def test_a_cluster_whose_control_plane_went_while_it_was_off_is_restored_when_it_is_switched_on(
    case: Case,
) -> None:
    await begin(case, workers=[{"name": "md"}])
    await case.scenario.patch("c1", {"powerState": "Off"})

    async def is_off() -> bool:
        return (await case.scenario.condition("c1", "PoweredOff")).get("status") == "True"

    await case.scenario.until(is_off, limit_s=LIMIT_S)
    await case.lose("c1-cp-0")
    await case.scenario.settle()
    assert await case.restore_of() == {}
    await case.scenario.patch("c1", {"powerState": "On"})
    await case.restored()
    assert await case.words() == {"before"}
