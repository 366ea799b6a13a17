"""Add-ons: applied, kept, pruned, through crashes; what is wrong with one stops no other and writes nothing secret."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest

from capn import names
from capn.api.resources import CONFIG_MAP, CRD, NAMESPACE, NESTED_CLUSTER, SECRET, Resource
from capn.kube.memory import MemoryKubeClient
from tests.harness.scenario import NAMESPACE_NAME, Scenario

GADGET = Resource("example.org", "v1", "gadgets", "Gadget")
GADGETS = """
apiVersion: example.org/v1
kind: Gadget
metadata: {name: g, namespace: tools}
spec: {size: 3}
---
apiVersion: v1
kind: Namespace
metadata: {name: tools}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: gadgets, kind: Gadget}
  versions: [{name: v1, served: true, storage: true}]
"""
NET = [{"name": "net", "configMapRef": {"name": "net"}}]


def settings(value: str, name: str = "a") -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: {value}}}\n"


async def put(scenario: Scenario, text: str, name: str = "net") -> None:
    if await scenario.api.get(NAMESPACE, NAMESPACE_NAME) is None:
        await scenario.user.create(NAMESPACE, {"metadata": {"name": NAMESPACE_NAME}})
    meta = {"name": name, "namespace": NAMESPACE_NAME}
    await scenario.user.apply(CONFIG_MAP, {"metadata": meta, "data": {"all.yaml": text}})


async def refresh(scenario: Scenario, value: str) -> None:
    meta = {"metadata": {"annotations": {names.ANNOTATION_REFRESH: value}}}
    await scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, meta)
    await scenario.settle()


async def child_of(scenario: Scenario) -> MemoryKubeClient:
    cluster = await scenario.cluster()
    assert cluster is not None
    return scenario.api_of(cluster["metadata"]["uid"])


async def rows(scenario: Scenario) -> list[dict[str, Any]]:
    cluster = await scenario.cluster()
    assert cluster is not None
    found: list[dict[str, Any]] = cluster["status"]["addons"]
    return found


async def read(child: MemoryKubeClient, name: str = "a") -> str | None:
    found = await child.get(CONFIG_MAP, name, "default")
    return None if found is None else str(found["data"]["k"])


async def says(scenario: Scenario, words: str) -> None:
    async def is_said() -> bool:
        return words in (await scenario.condition("c1", "AddonsReady")).get("message", "")

    await scenario.until(is_said)
    await scenario.settle()


async def test_crds_namespaces_and_their_objects_are_applied_in_order_without_a_network(scenario: Scenario) -> None:
    await put(scenario, GADGETS)
    await scenario.create(addons=NET, network={"cni": "None"})
    await scenario.ready()
    gadget = await (await child_of(scenario)).get(GADGET, "g", "tools")
    assert gadget is not None
    assert gadget["spec"] == {"size": 3}
    assert await rows(scenario) == [{"name": "net", "ready": True, "applied": 3, "message": ""}]
    assert (await scenario.condition("c1", "AddonsReady"))["status"] == "True"


async def test_a_settled_one_writes_nothing_anywhere_not_even_after_a_restart(scenario: Scenario) -> None:
    await put(scenario, GADGETS)
    await scenario.create(addons=NET)
    await scenario.ready()
    child = await child_of(scenario)
    before = scenario.api.writes, child.writes
    await scenario.restart()
    await scenario.settle()
    assert (scenario.api.writes, child.writes) == before


async def test_drift_and_loss_are_mended_without_reading_the_parent(scenario: Scenario) -> None:
    await put(scenario, settings("one") + "---\n" + settings("two", "b"))
    await scenario.create(addons=NET)
    await scenario.ready()
    child = await child_of(scenario)
    reads = scenario.api.requests["get", "configmaps"]
    await child.as_manager("kubectl").merge_patch(CONFIG_MAP, "a", "default", {"data": {"k": "mine", "extra": "kept"}})
    await child.delete(CONFIG_MAP, "b", "default")
    assert scenario.controllers is not None
    scenario.controllers.cluster_controller.queue.add(scenario.key())
    await scenario.settle()
    assert (await read(child), await read(child, "b")) == ("one", "two")
    found = await child.get(CONFIG_MAP, "a", "default")
    assert found is not None
    assert found["data"]["extra"] == "kept"
    assert scenario.api.requests["get", "configmaps"] == reads


async def test_new_content_is_taken_at_a_refresh_and_what_it_drops_is_pruned(scenario: Scenario) -> None:
    await put(scenario, settings("one") + "---\n" + settings("two", "b"))
    await scenario.create(addons=NET)
    await scenario.ready()
    child = await child_of(scenario)
    await put(scenario, settings("three"))
    await scenario.wake()
    assert await read(child) == "one"  # nothing tells of a ConfigMap's change
    await refresh(scenario, "1")
    assert (await read(child), await read(child, "b")) == ("three", None)
    await put(scenario, settings("four"))
    scenario.shift = timedelta(minutes=11)
    await scenario.wake()
    assert await read(child) == "four"


async def test_a_removed_one_is_pruned_but_not_what_was_taken_over(scenario: Scenario) -> None:
    await put(scenario, settings("one") + "---\n" + settings("two", "b"))
    await scenario.create(addons=NET)
    await scenario.ready()
    child = await child_of(scenario)
    free = {"metadata": {"annotations": {names.ANNOTATION_ADDON: None}}}
    await child.merge_patch(CONFIG_MAP, "b", "default", free)
    await scenario.patch("c1", {"addons": []})
    await scenario.settle()
    assert (await read(child), await read(child, "b")) == (None, "two")
    assert await child.get(CONFIG_MAP, "capn-addon-net", "kube-system") is None
    assert await rows(scenario) == []
    assert await scenario.condition("c1", "AddonsReady") == {}
    assert (await scenario.condition("c1", "Ready"))["status"] == "True"


async def test_a_removal_while_the_controller_is_away_is_made_up_for(scenario: Scenario) -> None:
    await put(scenario, GADGETS)
    await scenario.create(addons=NET)
    await scenario.ready()
    await scenario.kill()
    await scenario.patch("c1", {"addons": []})
    await scenario.start()
    await scenario.settle()
    child = await child_of(scenario)
    assert await child.get(CRD, "gadgets.example.org") is None
    assert await child.get(NAMESPACE, "tools") is None
    assert await child.get(CONFIG_MAP, "capn-addon-net", "kube-system") is None


async def test_a_crash_between_two_objects_neither_leaks_nor_repeats(scenario: Scenario) -> None:
    """What a controller that died in the middle leaves: an inventory without digest, some objects of old and new."""
    await put(scenario, settings("one") + "---\n" + settings("two", "b"))
    await scenario.create(addons=NET)
    await scenario.ready()
    await scenario.kill()
    child = await child_of(scenario)
    await child.merge_patch(CONFIG_MAP, "capn-addon-net", "kube-system", {"data": {"digest": ""}})
    await put(scenario, settings("three"))
    await scenario.start()
    await scenario.ready()
    assert (await read(child), await read(child, "b")) == ("three", None)


async def test_what_is_wrong_with_one_does_not_stop_another(scenario: Scenario) -> None:
    await put(scenario, "hunter2: [", "bad")
    await put(scenario, settings("one"))
    addons = [
        {"name": "bad", "configMapRef": {"name": "bad"}},
        {"name": "lost", "configMapRef": {"name": "lost"}},
        *NET,
    ]
    await scenario.create(addons=addons, workers=[{"name": "md", "replicas": 1}])
    await says(scenario, "bad: key all.yaml, document 1: is not YAML")
    assert [(row["name"], row["ready"]) for row in await rows(scenario)] == [
        ("bad", False), ("lost", False), ("net", True),
    ]  # fmt: skip
    assert "make it there" in (await rows(scenario))[1]["message"]
    assert (await scenario.condition("c1", "WorkersReady"))["status"] == "True"
    assert (await scenario.condition("c1", "Ready"))["reason"] == "AddonsNotApplied"
    writes = scenario.api.writes
    await scenario.wake()
    assert scenario.api.writes - writes == 1  # the test's own
    await put(scenario, settings("two", "b"), "bad")
    await put(scenario, settings("three", "c"), "lost")
    await refresh(scenario, "1")
    await scenario.ready()


async def test_emptied_or_lost_content_prunes_nothing(scenario: Scenario) -> None:
    await put(scenario, settings("one"))
    await scenario.create(addons=NET)
    await scenario.ready()
    await put(scenario, "# nothing\n")
    await refresh(scenario, "1")
    await says(scenario, "hold no manifest")
    await scenario.user.delete(CONFIG_MAP, "net", NAMESPACE_NAME)
    await refresh(scenario, "2")
    await says(scenario, "ConfigMap net is not in namespace team")
    assert await read(await child_of(scenario)) == "one"


async def test_a_kind_that_is_not_served_is_waited_for(scenario: Scenario) -> None:
    gadget, rest = GADGETS.split("---\n", 1)
    await put(scenario, gadget)
    await scenario.create(addons=NET)
    await says(scenario, "kind Gadget of example.org/v1 is not served by the child (yet)")
    await put(scenario, rest, "crds")
    await scenario.patch("c1", {"addons": [*NET, {"name": "crds", "configMapRef": {"name": "crds"}}]})
    await scenario.ready()


@pytest.mark.parametrize("kind", ["Opaque", names.SECRET_TYPE_ADDON])
async def test_only_a_secret_that_is_meant_for_it_is_copied(scenario: Scenario, kind: str) -> None:
    await put(scenario, settings("x"), "other")
    meta = {"name": "s", "namespace": NAMESPACE_NAME}
    data = {"a": base64.b64encode(settings("hunter2").encode()).decode()}
    await scenario.user.create(SECRET, {"metadata": meta, "type": kind, "data": data})
    await scenario.create(addons=[{"name": "s", "secretRef": {"name": "s"}}])
    if kind == "Opaque":
        await says(scenario, "not of type capn.dev/addon")
        assert await read(await child_of(scenario)) is None
    else:
        await scenario.ready()
        assert await read(await child_of(scenario)) == "hunter2"
    assert "hunter2" not in str(await scenario.cluster())
    assert "hunter2" not in str(scenario.events.lines)


async def test_another_namespaces_content_is_out_of_reach(scenario: Scenario) -> None:
    await scenario.user.create(NAMESPACE, {"metadata": {"name": "other"}})
    meta = {"name": "net", "namespace": "other"}
    await scenario.user.create(CONFIG_MAP, {"metadata": meta, "data": {"a": settings("one")}})
    await scenario.create(addons=NET)
    await says(scenario, "ConfigMap net is not in namespace team")
