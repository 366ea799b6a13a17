"""The double's server-side apply and its selectors: properties, over any objects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capn.api.resources import CONFIG_MAP, NAMESPACE, NESTED_CLUSTER, NESTED_MACHINE, SECRET
from capn.errors import ApiStatusError, UnreachableError
from capn.kube.decode import compact, decode_object, encode, parse_revision
from capn.kube.fields import build_fields, merge, read_field, remove_fields
from capn.kube.memory import MemoryKubeClient
from capn.kube.selectors import build_matcher

SCALARS = st.one_of(st.integers(0, 3), st.sampled_from(["a", "b"]), st.booleans())
CONDITIONS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["A", "B", "C"]), "status": SCALARS}),
    max_size=3,
    unique_by=lambda item: item["type"],
)
VALUES = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["x", "y", "z"]), inner, max_size=3),
    max_leaves=8,
)
SPECS = st.dictionaries(st.sampled_from(["p", "q", "r"]), VALUES, max_size=3)
BODIES = st.fixed_dictionaries({"spec": SPECS, "extra": st.fixed_dictionaries({"conditions": CONDITIONS})})
META = {"metadata": {"name": "a", "namespace": "ns"}}


def drop_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: inner for key, child in value.items() if (inner := drop_empty(child)) not in ({}, [])}
    return value


@given(BODIES)
def test_what_was_applied_is_there(body: dict[str, Any]) -> None:
    merged = merge({}, body)
    assert all(read_field(merged, path) == read_field(body, path) for path in build_fields(body))


@settings(max_examples=40, deadline=None)
@given(BODIES, BODIES)
async def test_apply_is_idempotent_and_ends_in_the_last_intent(first: dict[str, Any], second: dict[str, Any]) -> None:
    client = MemoryKubeClient()
    await client.apply(NESTED_CLUSTER, {**META, **first})
    applied = await client.apply(NESTED_CLUSTER, {**META, **second})
    again = await client.apply(NESTED_CLUSTER, {**META, **second})
    assert again == applied
    for part in ("spec", "extra"):
        found = applied.get(part, {})
        if part == "extra":
            found = {"conditions": sorted(found.get("conditions", []), key=lambda item: item["type"])}
            wanted = {"conditions": sorted(second[part]["conditions"], key=lambda item: item["type"])}
        else:
            wanted = second[part]
        assert drop_empty(found) == drop_empty(wanted)


@settings(max_examples=40, deadline=None)
@given(SPECS, SPECS)
async def test_another_managers_fields_survive_ours(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    client = MemoryKubeClient()
    await client.as_manager("other").apply(NESTED_CLUSTER, {**META, "theirs": theirs})
    await client.apply(NESTED_CLUSTER, {**META, "ours": ours})
    left = await client.apply(NESTED_CLUSTER, META)
    assert drop_empty(left.get("theirs", {})) == drop_empty(theirs)
    assert "ours" not in left or not drop_empty(left["ours"])


@given(BODIES)
def test_removing_every_field_leaves_nothing(body: dict[str, Any]) -> None:
    assert drop_empty(remove_fields(body, build_fields(body))) == {}
    assert remove_fields(body, []) == body


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ("", {}, True), (None, {"a": "b"}, True), ("a=b", {"a": "b"}, True), ("a=b", {}, False),
        ("a!=b", {}, True), ("a,!c", {"a": ""}, True), ("a,!c", {"a": "", "c": ""}, False),
        ("a in (b, c),d=e", {"a": "c", "d": "e"}, True), ("a notin (b,c)", {"a": "b"}, False),
    ],
)  # fmt: skip
def test_selectors(selector: str | None, labels: dict[str, str], expected: bool) -> None:  # noqa: FBT001
    assert build_matcher(selector)(labels) is expected


def test_no_selector() -> None:
    with pytest.raises(ApiStatusError):
        build_matcher("a b")


@given(BODIES)
def test_compact_objects_lose_nothing_that_is_listed(body: dict[str, Any]) -> None:
    plain = {**META, "apiVersion": "v1", "kind": "X", "spec": body["spec"], "status": body["extra"], "data": {"a": "b"}}
    managed = {**plain, "metadata": {**META["metadata"], "managedFields": [{"manager": "m"}], "resourceVersion": "5"}}
    obj = compact(managed)
    assert obj.to_dict() == {**plain, "metadata": {**META["metadata"], "resourceVersion": "5"}}
    assert obj.revision == 5


def test_compact_objects_do_not_keep_the_answer_alive() -> None:
    big = encode({**META, "spec": {"x": 1}, "junk": "y" * 1_000_000})
    obj = decode_object(big)
    assert len(bytes(obj.spec)) < 20  # type: ignore[arg-type]  # set in this object
    assert memoryview(obj.spec).nbytes < 20  # type: ignore[arg-type]


def test_revisions() -> None:
    assert [parse_revision(text) for text in ("12", "", "x1", "٣")] == [12, 0, 0, 0]


# the double beyond what a real server is compared in


async def test_a_namespace_ends_with_everything_in_it() -> None:
    client = MemoryKubeClient()
    await client.create(NAMESPACE, {"metadata": {"name": "ns"}})
    await client.create(SECRET, {"metadata": {"name": "s", "namespace": "ns"}})
    held = {"metadata": {"name": "c", "namespace": "ns", "finalizers": ["x.dev/y"]}, "spec": {}}
    await client.create(NESTED_CLUSTER, held)
    await client.create(SECRET, {"metadata": {"name": "s", "namespace": "other"}})
    await client.delete(NAMESPACE, "ns")
    assert await client.get(SECRET, "s", "ns") is None
    assert await client.get(NESTED_CLUSTER, "c", "ns") is not None
    with pytest.raises(ApiStatusError) as caught:
        await client.create(SECRET, {"metadata": {"name": "late", "namespace": "ns"}})
    assert (caught.value.code, caught.value.reason) == (403, "NamespaceTerminating")
    await client.merge_patch(NESTED_CLUSTER, "c", "ns", {"metadata": {"finalizers": None}})
    assert await client.get(NAMESPACE, "ns") is None
    assert await client.get(SECRET, "s", "other") is not None


async def test_garbage_goes_level_by_level_and_waits_for_finalizers() -> None:
    client = MemoryKubeClient()
    top = await client.create(NESTED_CLUSTER, {**META, "spec": {}})

    def owned(name: str, owner: dict[str, Any], **meta: Any) -> dict[str, Any]:
        reference = {"kind": "X", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        return {"metadata": {"name": name, "namespace": "ns", "ownerReferences": [reference], **meta}}

    middle = await client.create(NESTED_MACHINE, owned("m", top, finalizers=["x.dev/y"]))
    await client.create(SECRET, owned("s", middle))
    await client.delete(NESTED_CLUSTER, "a", "ns")
    waiting = await client.get(NESTED_MACHINE, "m", "ns")
    assert waiting is not None
    assert waiting["metadata"]["deletionTimestamp"]
    assert await client.get(SECRET, "s", "ns") is not None
    await client.merge_patch(NESTED_MACHINE, "m", "ns", {"metadata": {"finalizers": []}})
    assert await client.get(SECRET, "s", "ns") is None


async def test_requests_are_counted_and_uids_repeat_from_run_to_run() -> None:
    uids = []
    for _ in range(2):
        client = MemoryKubeClient(uid_seed="x")
        uids.append((await client.create(CONFIG_MAP, META))["metadata"]["uid"])
    await client.list(CONFIG_MAP)
    await client.apply(NESTED_CLUSTER, {**META, "spec": {}})
    await client.apply(NESTED_CLUSTER, {**META, "status": {"phase": "x"}}, subresource="status")
    assert uids[0] == uids[1] != (await MemoryKubeClient(uid_seed="y").create(CONFIG_MAP, META))["metadata"]["uid"]
    assert client.requests["apply", "nestedclusters/status"] == 1
    assert client.writes == 3


async def test_string_data_is_kept_as_data() -> None:
    client = MemoryKubeClient()
    made = await client.apply(SECRET, {**META, "stringData": {"value": "x"}})
    assert made["data"] == {"value": "eA=="}
    assert "stringData" not in made


async def test_dropped_watches_end_with_an_error() -> None:
    client = MemoryKubeClient()
    stream = client.watch(CONFIG_MAP, resource_version=str(client.store.revision), timeout_s=5)
    await client.create(CONFIG_MAP, META)
    assert (await anext(stream)).type == "ADDED"
    client.drop_watches()
    with pytest.raises(UnreachableError):
        await anext(stream)
