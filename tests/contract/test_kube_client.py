"""One suite for every `KubeClient`: the in-process double, and HTTP to a real kube-apiserver."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
import yaml

from capn.api.resources import (
    CONFIG_MAP,
    CRD,
    DAEMON_SET,
    NAMESPACE,
    NESTED_CLUSTER,
    NODE,
    POD,
    SECRET,
    SERVICE_ACCOUNT,
    Resource,
)
from capn.build.addon_inventory import Inventory, read_inventory
from capn.build.addons import parse_content
from capn.controllers.child_pool import Child
from capn.controllers.cluster.addons import _Converger
from capn.errors import (
    ApiStatusError,
    ConflictError,
    NotFoundError,
    TerminalError,
    TransientError,
    UnreachableError,
)
from capn.kube.client import ExecResult, KubeClient, WatchEvent
from capn.kube.discovery import Discovery
from capn.kube.errors import CommandFailedError, WatchExpiredError
from capn.kube.exec import ExecCall
from capn.kube.memory import MemoryKubeClient
from capn.runtime.informer import Informer
from tests.contract.kube_cases import (
    Case,
    Manifest,
    apply_cluster,
    apply_map,
    config_map,
    eventually,
    revision,
    status_of,
)

NO_UID = "00000000-0000-4000-8000-000000000000"


async def test_get_of_nothing_is_none(case: Case) -> None:
    assert await case.client.get(CONFIG_MAP, "absent", case.namespace) is None


async def test_create_then_get(case: Case) -> None:
    made = await case.client.create(CONFIG_MAP, config_map(case, "a", data={"k": "v"}))
    assert made["metadata"]["uid"]
    assert made["kind"] == "ConfigMap"
    found = await case.client.get(CONFIG_MAP, "a", case.namespace)
    assert found is not None
    assert found["data"] == {"k": "v"}
    assert revision(found) == revision(made)


async def test_create_of_a_taken_name(case: Case) -> None:
    await case.client.create(CONFIG_MAP, config_map(case, "a"))
    with pytest.raises(ConflictError) as caught:
        await case.client.create(CONFIG_MAP, config_map(case, "a"))
    assert caught.value.reason == "AlreadyExists"


async def test_a_write_needs_name_and_namespace(case: Case) -> None:
    for meta in ({}, {"name": "a"}, {"name": "..", "namespace": case.namespace}):
        with pytest.raises(TerminalError):
            await case.client.apply(CONFIG_MAP, {"metadata": meta})


async def test_apply_creates_updates_and_does_nothing_twice(case: Case) -> None:
    first = await apply_map(case, "a", data={"k": "1"})
    same = await apply_map(case, "a", data={"k": "1"})
    assert revision(same) == revision(first)
    changed = await apply_map(case, "a", data={"k": "2"})
    assert changed["data"] == {"k": "2"}
    assert revision(changed) > revision(first)
    assert changed["metadata"]["uid"] == first["metadata"]["uid"]


async def test_apply_removes_what_it_no_longer_says(case: Case) -> None:
    await apply_map(case, "a", data={"keep": "1", "drop": "1"}, metadata={"labels": {"x": "1", "y": "1"}})
    left = await apply_map(case, "a", data={"keep": "1"}, metadata={"labels": {"x": "1"}})
    assert left["data"] == {"keep": "1"}
    assert left["metadata"]["labels"] == {"x": "1"}


async def test_apply_leaves_what_others_own(case: Case) -> None:
    await case.other.apply(CONFIG_MAP, config_map(case, "a", data={"theirs": "1", "shared": "1"}))
    await apply_map(case, "a", data={"ours": "1", "shared": "1"})
    left = await apply_map(case, "a", data={"ours": "1"})
    assert left["data"] == {"ours": "1", "theirs": "1", "shared": "1"}


async def test_apply_conflicts_unless_forced(case: Case) -> None:
    await case.other.apply(CONFIG_MAP, config_map(case, "a", data={"k": "theirs"}))
    with pytest.raises(ConflictError):
        await case.client.apply(CONFIG_MAP, config_map(case, "a", data={"k": "ours"}), force=False)
    taken = await case.client.apply(CONFIG_MAP, config_map(case, "a", data={"k": "ours"}))
    assert taken["data"] == {"k": "ours"}
    with pytest.raises(ConflictError):
        await case.other.apply(CONFIG_MAP, config_map(case, "a", data={"k": "theirs"}), force=False)


async def test_a_created_field_is_not_removed_by_an_apply_without_it(case: Case) -> None:
    await case.client.create(CONFIG_MAP, config_map(case, "a", data={"made": "1"}))
    left = await apply_map(case, "a", data={"applied": "1"})
    assert left["data"] == {"made": "1", "applied": "1"}


async def test_apply_with_the_uid_of_another_object(case: Case) -> None:
    with pytest.raises(ConflictError):
        await apply_map(case, "gone", metadata={"uid": NO_UID})
    assert await case.client.get(CONFIG_MAP, "gone", case.namespace) is None
    live = await apply_map(case, "a", data={"k": "1"})
    with pytest.raises(ConflictError):
        await apply_map(case, "a", data={"k": "2"}, metadata={"uid": NO_UID})
    mine = await apply_map(case, "a", data={"k": "2"}, metadata={"uid": live["metadata"]["uid"]})
    assert mine["data"] == {"k": "2"}


async def test_apply_of_an_old_revision(case: Case) -> None:
    first = await apply_map(case, "a", data={"k": "1"})
    await apply_map(case, "a", data={"k": "2"})
    with pytest.raises(ConflictError):
        await apply_map(case, "a", data={"k": "3"}, metadata={"resourceVersion": first["metadata"]["resourceVersion"]})


async def test_owner_references_merge_by_uid(case: Case) -> None:
    owner = await apply_map(case, "owner")
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": NO_UID}
    ours = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    await case.other.apply(SECRET, _secret(case, "a", ownerReferences=[ours]))
    both = await case.client.apply(SECRET, _secret(case, "a", ownerReferences=[ours, theirs]))
    assert {reference["uid"] for reference in both["metadata"]["ownerReferences"]} == {ours["uid"], NO_UID}
    left = await case.client.apply(SECRET, _secret(case, "a"))
    assert [reference["uid"] for reference in left["metadata"]["ownerReferences"]] == [ours["uid"]]


def _secret(case: Case, name: str, **meta: Any) -> Manifest:
    return {"metadata": {"name": name, "namespace": case.namespace, **meta}, "data": {"value": "czNjcmV0"}}


async def test_status_is_written_through_its_subresource_only(case: Case) -> None:
    made = await apply_cluster(case, "a", status={"phase": "Ready"})
    assert "status" not in made
    generation = made["metadata"]["generation"]
    status = {"phase": "Ready", "conditions": [_condition("Ready", "True"), _condition("Stalled", "False")]}
    done = await case.client.apply(NESTED_CLUSTER, status_of(case, "a", **status), subresource="status")
    assert done["status"]["phase"] == "Ready"
    assert done["metadata"]["generation"] == generation
    again = await case.client.apply(NESTED_CLUSTER, status_of(case, "a", **status), subresource="status")
    assert revision(again) == revision(done)
    fewer = await case.client.apply(
        NESTED_CLUSTER, status_of(case, "a", conditions=[_condition("Ready", "False")]), subresource="status"
    )
    assert fewer["status"] == {"conditions": [_condition("Ready", "False")]}
    spec = await apply_cluster(case, "a", spec={"paused": True})
    assert spec["metadata"]["generation"] == generation + 1
    assert spec["status"] == fewer["status"]


def _condition(name: str, status: str) -> Manifest:
    return {
        "type": name, "status": status, "reason": "Because", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip


async def test_status_of_nothing(case: Case) -> None:
    with pytest.raises(NotFoundError):
        await case.client.apply(NESTED_CLUSTER, status_of(case, "absent", phase="Ready"), subresource="status")


async def test_status_with_a_uid_that_is_gone(case: Case) -> None:
    await apply_cluster(case, "a")
    stale = status_of(case, "a", phase="Ready")
    stale["metadata"]["uid"] = NO_UID
    with pytest.raises(ConflictError):
        await case.client.apply(NESTED_CLUSTER, stale, subresource="status")


async def test_a_dry_run_tells_what_an_apply_would_make_and_writes_nothing(case: Case) -> None:
    data = {"a": "1", "b": "2"}
    new = await case.client.dry_run(CONFIG_MAP, config_map(case, "dry", data=data), manager="kubectl")
    assert new["data"] == data
    assert await case.client.get(CONFIG_MAP, "dry", case.namespace) is None

    made = await case.other.apply(CONFIG_MAP, config_map(case, "dry", data=data))
    changed = config_map(case, "dry", data={"a": "3"})
    # By the manager that owns them, what is no longer said goes; by another one it stays.
    assert (await case.client.dry_run(CONFIG_MAP, changed, manager="kubectl"))["data"] == {"a": "3"}
    assert (await case.client.dry_run(CONFIG_MAP, changed, manager="plan"))["data"] == {"a": "3", "b": "2"}
    assert revision(await case.client.get(CONFIG_MAP, "dry", case.namespace) or {}) == revision(made)


async def test_merge_patch(case: Case) -> None:
    assert await case.client.merge_patch(CONFIG_MAP, "absent", case.namespace, {"data": {"k": "1"}}) is None
    made = await apply_map(case, "a", data={"k": "1", "drop": "1"})
    patched = await case.client.merge_patch(CONFIG_MAP, "a", case.namespace, {"data": {"k": "2", "drop": None}})
    assert patched is not None
    assert patched["data"] == {"k": "2"}
    same = await case.client.merge_patch(CONFIG_MAP, "a", case.namespace, {"data": {"k": "2"}})
    assert same is not None
    assert revision(same) == revision(patched)
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"k": "3"}}
    with pytest.raises(ConflictError):
        await case.client.merge_patch(CONFIG_MAP, "a", case.namespace, stale)


async def test_delete(case: Case) -> None:
    assert await case.client.delete(CONFIG_MAP, "absent", case.namespace) is False
    made = await apply_map(case, "a")
    with pytest.raises(ConflictError):
        await case.client.delete(CONFIG_MAP, "a", case.namespace, uid=NO_UID)
    assert await case.client.delete(CONFIG_MAP, "a", case.namespace, uid=made["metadata"]["uid"]) is True
    assert await case.client.get(CONFIG_MAP, "a", case.namespace) is None


async def test_a_finalizer_holds_what_is_deleted(case: Case) -> None:
    made = await apply_cluster(case, "a", metadata={"finalizers": ["capn.dev/finalizer"]})
    await case.client.delete(NESTED_CLUSTER, "a", case.namespace)
    held = await case.client.get(NESTED_CLUSTER, "a", case.namespace)
    assert held is not None
    assert held["metadata"]["deletionTimestamp"]
    assert held["metadata"]["generation"] == made["metadata"]["generation"] + 1
    await case.client.delete(NESTED_CLUSTER, "a", case.namespace)
    again = await case.client.get(NESTED_CLUSTER, "a", case.namespace)
    assert again is not None
    assert revision(again) == revision(held)
    with pytest.raises(ApiStatusError):
        await case.client.merge_patch(
            NESTED_CLUSTER, "a", case.namespace, {"metadata": {"finalizers": ["capn.dev/finalizer", "x.dev/more"]}}
        )
    released = await case.client.merge_patch(NESTED_CLUSTER, "a", case.namespace, {"metadata": {"finalizers": None}})
    assert released is not None
    assert not released["metadata"].get("finalizers")
    assert await case.client.get(NESTED_CLUSTER, "a", case.namespace) is None


async def test_what_an_object_owns_goes_with_it(case: Case) -> None:
    owner = await apply_map(case, "owner")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    await case.client.apply(SECRET, _secret(case, "owned", ownerReferences=[reference]))
    await case.client.apply(SECRET, _secret(case, "free"))
    await case.client.delete(CONFIG_MAP, "owner", case.namespace)

    async def is_gone() -> bool:
        return await case.client.get(SECRET, "owned", case.namespace) is None

    await eventually(is_gone)
    assert await case.client.get(SECRET, "free", case.namespace) is not None


async def test_list_by_namespace_and_labels(case: Case) -> None:
    for name, labels in (("a", {"app": "x", "tier": "1"}), ("b", {"app": "x"}), ("c", {"app": "y"}), ("d", {})):
        await apply_map(case, name, metadata={"labels": labels, "namespace": case.namespace})
    expected = {
        "app=x": ["a", "b"], "app!=x,app": ["c"], "!app": ["d"], "app in (x,y),tier": ["a"],
        "app notin (x)": ["c", "d"], "app==y": ["c"],
    }  # fmt: skip
    for selector, names in expected.items():
        found = await case.client.list(CONFIG_MAP, namespace=case.namespace, label_selector=selector)
        ours = [item for item in found.items if item["metadata"]["name"] != "kube-root-ca.crt"]
        assert [item["metadata"]["name"] for item in ours] == names, selector
        assert all(item["kind"] == "ConfigMap" and item["apiVersion"] == "v1" for item in ours)
    everywhere = await case.client.list(CONFIG_MAP, label_selector="app=y")
    assert [item["metadata"]["name"] for item in everywhere.items] == ["c"]
    assert int(everywhere.resource_version) >= revision(everywhere.items[0])


async def test_a_bad_selector_is_refused(case: Case) -> None:
    with pytest.raises(ApiStatusError) as caught:
        await case.client.list(CONFIG_MAP, namespace=case.namespace, label_selector="a b c")
    assert caught.value.code == 400


async def _watch(case: Case, revision_from: str, count: int, **scope: Any) -> list[WatchEvent]:
    found: list[WatchEvent] = []
    stream: Any = case.client.watch(
        CONFIG_MAP, resource_version=revision_from, namespace=case.namespace, timeout_s=20, **scope
    )
    async with asyncio.timeout(20), aclosing(stream):
        async for event in stream:
            if event.type != "BOOKMARK":
                found.append(event)
            if len(found) == count:
                break
    return found


async def test_watch_from_a_list(case: Case) -> None:
    await apply_map(case, "before")
    listed = await case.client.list(CONFIG_MAP, namespace=case.namespace)
    first = await apply_map(case, "a", data={"k": "1"})
    watching = asyncio.create_task(_watch(case, listed.resource_version, 3))
    await asyncio.sleep(0.05)
    second = await apply_map(case, "a", data={"k": "2"})
    await case.client.delete(CONFIG_MAP, "a", case.namespace)
    events = await watching
    assert [event.type for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    revisions = [revision(event.object) for event in events]
    assert revisions[:2] == [revision(first), revision(second)]
    assert revisions == sorted(set(revisions))
    assert events[1].object["data"] == {"k": "2"}


async def test_watch_sees_labels_come_and_go(case: Case) -> None:
    listed = await case.client.list(CONFIG_MAP, namespace=case.namespace)
    await apply_map(case, "a", data={"k": "1"})
    await apply_map(case, "a", metadata={"labels": {"app": "x"}, "namespace": case.namespace})
    await apply_map(case, "a", data={"k": "2"}, metadata={"labels": {"app": "x"}, "namespace": case.namespace})
    await apply_map(case, "a")
    events = await _watch(case, listed.resource_version, 3, label_selector="app=x")
    assert [event.type for event in events] == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_quiet_watch_ends_in_time_with_a_bookmark(case: Case) -> None:
    made = await apply_map(case, "a")
    later = await case.client.create(SECRET, _secret(case, "other-kind"))
    stream: Any = case.client.watch(
        CONFIG_MAP, resource_version=made["metadata"]["resourceVersion"], namespace=case.namespace, timeout_s=3
    )
    async with asyncio.timeout(20):
        events = [event async for event in stream]
    assert {event.type for event in events} == {"BOOKMARK"}
    assert int(events[-1].object["metadata"]["resourceVersion"]) >= revision(later)


async def test_watch_of_a_compacted_revision(case: Case) -> None:
    await apply_cluster(case, "a")
    if isinstance(case.client, MemoryKubeClient):
        case.client.compaction()
    # The real server's cache of a custom resource begins when its CRD was established, long after revision 1.
    stream: Any = case.client.watch(NESTED_CLUSTER, resource_version="1", namespace=case.namespace, timeout_s=20)
    async with asyncio.timeout(20), aclosing(stream):
        with pytest.raises(WatchExpiredError):
            await anext(stream)


async def test_compact_reading_agrees(case: Case) -> None:
    client: Any = case.client
    await apply_cluster(case, "a", metadata={"labels": {"x": "y"}, "finalizers": ["capn.dev/finalizer"]})
    listed = await client.list_compact(NESTED_CLUSTER, namespace=case.namespace)
    plain = await case.client.get(NESTED_CLUSTER, "a", case.namespace)
    assert plain is not None
    plain["metadata"].pop("managedFields", None)
    assert [item.to_dict() for item in listed.items] == [plain]
    await case.client.merge_patch(NESTED_CLUSTER, "a", case.namespace, {"metadata": {"finalizers": None}})
    stream = client.watch_compact(
        NESTED_CLUSTER, resource_version=listed.resource_version, namespace=case.namespace, timeout_s=20
    )
    async with asyncio.timeout(20), aclosing(stream):
        event = await anext(stream)
    assert event.type == "MODIFIED"
    assert event.object.key == (case.namespace, "a")
    assert event.object.controller_uid is None
    assert event.object.revision > int(listed.resource_version)


async def test_a_cluster_scoped_kind(case: Case) -> None:
    name = f"node-{case.namespace}"
    made = await case.client.create(NODE, {"metadata": {"name": name}, "spec": {"providerID": "x://y"}})
    assert "namespace" not in made["metadata"]
    found = await case.client.get(NODE, name)
    assert found is not None
    assert found["spec"]["providerID"] == "x://y"
    assert await case.client.delete(NODE, name)


async def test_get_raw(case: Case) -> None:
    status, body = await case.client.get_raw("/readyz")
    assert (status, body) == (200, "ok")
    status, body = await case.client.get_raw("/version")
    assert status == 200
    assert '"gitVersion"' in body
    assert (await case.client.get_raw("/no-such-path"))[0] == 404


async def test_a_command_needs_a_pod_that_runs(case: Case) -> None:
    """What a container answers needs a kubelet: tests/integration/test_exec.py, tests/unit/kube/test_exec.py."""
    call: Any = {"namespace": case.namespace, "container": "c", "command": ["true"]}
    with pytest.raises(NotFoundError):
        await case.client.exec("absent", **call)
    with pytest.raises(NotFoundError):
        await anext(case.client.exec_stream("absent", **call))
    # As a kubelet makes one: no account, no scheduler.
    spec = {"containers": [{"name": "c", "image": "none"}], "automountServiceAccountToken": False}
    await eventually(lambda: _account_exists(case))
    await case.client.create(POD, {"metadata": {"name": "p", "namespace": case.namespace}, "spec": spec})
    with pytest.raises(ApiStatusError, match="does not have a host assigned") as caught:
        await case.client.exec("p", **call)
    assert caught.value.code == 400
    with pytest.raises(ApiStatusError, match="container other is not valid for pod p") as caught:
        await case.client.exec("p", **{**call, "container": "other"})
    assert caught.value.code == 400


async def _account_exists(case: Case) -> bool:
    """A real API server refuses pods until the controller manager has made the namespace's account."""
    return not case.is_real or await case.client.get(SERVICE_ACCOUNT, "default", case.namespace) is not None


async def test_the_double_runs_what_a_test_registers() -> None:
    memory = MemoryKubeClient()
    pod = {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [{"name": "c"}]}}
    await memory.create(POD, pod)

    async def handle(call: ExecCall) -> ExecResult:
        await asyncio.sleep(float(call.command[0]))
        return ExecResult(b"x" * 100_000, call.stdin or b"", int(call.command[1]))

    memory.exec_handler = handle
    call: Any = {"namespace": "ns", "container": "c"}
    assert (await memory.exec("p", **call, command=["0", "3"], stdin=b"in")).exit_code == 3
    with pytest.raises(ApiStatusError, match="longer than 10 bytes"):
        await memory.exec("p", **call, command=["0", "0"], limit_bytes=10)
    with pytest.raises(UnreachableError, match=r"did not end within 0\.01 s"):
        await memory.exec("p", **call, command=["5", "0"], timeout_s=0.01)
    pieces = [piece async for piece in memory.exec_stream("p", **call, command=["0", "0"])]
    assert len(pieces) > 1
    assert b"".join(pieces) == b"x" * 100_000
    with pytest.raises(CommandFailedError):
        [piece async for piece in memory.exec_stream("p", **call, command=["0", "1"])]
    assert memory.as_manager("kubectl").exec_handler is handle


async def test_concurrent_takers_of_one_revision(case: Case) -> None:
    made = await apply_map(case, "a")
    patches = [{"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"by": str(i)}}
               for i in range(4)]  # fmt: skip
    calls = [case.client.merge_patch(CONFIG_MAP, "a", case.namespace, patch) for patch in patches]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert all(isinstance(answer, ConflictError | dict) for answer in answers)


@pytest.mark.integration
async def test_a_refused_schema_names_the_field(crds: list[str], client: KubeClient, namespace: str) -> None:
    # Only a real API server has schemas.
    assert crds
    case = Case(client, namespace, client, is_real=True)
    with pytest.raises(ApiStatusError) as caught:
        await apply_cluster(case, "a", spec={"version": "latest"})
    assert caught.value.code == 422
    assert "spec.version" in str(caught.value)
    with pytest.raises(ApiStatusError) as caught:
        await apply_cluster(case, "a", spec={"vresion": "v1.37.2"})
    assert "vresion" in str(caught.value)


async def test_apply_as_another_manager(case: Case) -> None:
    await case.client.apply(CONFIG_MAP, config_map(case, "shared", data={"a": "1"}), manager="capn-addon-x")
    await case.client.apply(CONFIG_MAP, config_map(case, "shared", data={"b": "2"}))
    found = await case.client.get(CONFIG_MAP, "shared", case.namespace)
    assert found is not None
    assert found["data"] == {"a": "1", "b": "2"}


async def test_discovery_of_built_in_kinds(case: Case) -> None:
    discovery = Discovery(case.client)
    assert await discovery.find("v1", "ConfigMap") == CONFIG_MAP
    assert await discovery.find("v1", "Node") == NODE
    assert await discovery.find("apps/v1", "DaemonSet") == DAEMON_SET
    assert await discovery.find("v1", "Gadget") is None
    assert await discovery.find("example.org/v1", "Gadget") is None
    assert await discovery.find("v1/../../version", "Gadget") is None


async def test_an_addon_with_a_crd_and_its_object_is_applied_kept_and_pruned(case: Case) -> None:
    manifests = [CRD_MANIFEST, {**GADGET_MANIFEST, "metadata": {"name": "g", "namespace": case.namespace}}]
    content = parse_content("tools", {"all": yaml.safe_dump_all(manifests).encode()})
    if not case.is_real:
        await case.client.create(NAMESPACE, {"metadata": {"name": "kube-system"}})
    child = Child(case.client, Informer(case.client, NODE), Discovery(case.client))
    converger = _Converger(child, "tools", quotes=True)
    gadget = Resource("contract.example.org", "v1", "gadgets", "Gadget")

    async def read() -> Inventory:
        obj = await case.client.get(CONFIG_MAP, "capn-addon-tools", "kube-system")
        return (read_inventory(obj) if obj else None) or Inventory("tools")

    async def converge() -> bool:
        try:
            await converger.converge(content, await read())
        except (TransientError, NotFoundError):  # the CRD takes a moment to be served
            return False
        return True

    try:
        await eventually(converge)
        before = await case.client.get(gadget, "g", case.namespace)
        assert before is not None
        kept = await read()
        assert kept.digest == content.digest
        assert len(kept.seen) == 2
        await converger.converge(content, kept)
        assert await case.client.get(gadget, "g", case.namespace) == before
        assert await read() == kept
        await case.other.merge_patch(gadget, "g", case.namespace, {"spec": {"size": 9}})
        await converger.converge(content, kept)
        found = await case.client.get(gadget, "g", case.namespace)
        assert found is not None
        assert found["spec"] == {"size": 3}
    finally:
        await converger.prune(list((await read()).seen))
        await case.client.delete(CONFIG_MAP, "capn-addon-tools", "kube-system")

    async def is_gone() -> bool:
        return await case.client.get(CRD, "gadgets.contract.example.org") is None

    await eventually(is_gone)


CRD_MANIFEST: Manifest = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.contract.example.org"},
    "spec": {
        "group": "contract.example.org",
        "scope": "Namespaced",
        "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
                        },
                    }
                },
            }
        ],
    },
}
GADGET_MANIFEST: Manifest = {"apiVersion": "contract.example.org/v1", "kind": "Gadget", "spec": {"size": 3}}
