"""A scaler sets a pool's size by an annotation; the spec stays as its manifest has it."""

from __future__ import annotations

from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from tests.harness.scenario import NAMESPACE_NAME, Scenario

KEY = "replicas.capn.dev/md"
POOL = {"name": "md", "replicas": 1, "autoscaling": {"min": 1, "max": 3}}


async def ask(scenario: Scenario, value: str | None, key: str = KEY) -> None:
    """What a scaler does; it may do nothing else."""
    patch = {"metadata": {"annotations": {key: value}}}
    await scenario.user.merge_patch(NESTED_CLUSTER, "c1", NAMESPACE_NAME, patch)


async def has_size(scenario: Scenario, count: int) -> bool:
    cluster = await scenario.cluster()
    counts = {"desired": count, "created": count, "ready": count}
    status: dict[str, Any] = (cluster or {}).get("status", {})
    return bool(
        status.get("pools") == [{"name": "md", **counts}] and status.get("workers") == counts | {"updated": count}
    )


async def scaling(scenario: Scenario) -> dict[str, Any]:
    return await scenario.condition("c1", "ScalingAccepted")


async def refused(scenario: Scenario, reason: str) -> bool:
    found = await scaling(scenario)
    return (found.get("status"), found.get("reason")) == ("False", reason)


async def workers(scenario: Scenario) -> list[str]:
    found = await scenario.api.list(NESTED_MACHINE, label_selector=f"{names.LABEL_ROLE}=worker")
    return [machine["metadata"]["name"] for machine in found.items]


async def test_up_and_down_by_the_annotation_alone(scenario: Scenario) -> None:
    await scenario.create(workers=[POOL])
    await scenario.ready()
    assert await has_size(scenario, 1)
    first = await scenario.cluster()
    assert first is not None
    await ask(scenario, "3")
    await scenario.until(lambda: has_size(scenario, 3))
    assert await workers(scenario) == ["c1-md-0", "c1-md-1", "c1-md-2"]
    await ask(scenario, "2")
    await scenario.until(lambda: has_size(scenario, 2))
    assert await workers(scenario) == ["c1-md-0", "c1-md-1"]
    last = await scenario.cluster()
    assert last is not None
    assert last["spec"] == first["spec"]
    assert last["metadata"]["generation"] == first["metadata"]["generation"]
    assert (await scaling(scenario))["status"] == "True"
    await scenario.ready()
    before = scenario.api.writes
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == before


async def test_the_manifest_applied_again_changes_nothing(scenario: Scenario) -> None:
    """As a GitOps tool does every few minutes, with its replicas of old."""
    await scenario.create(workers=[POOL])
    await scenario.ready()
    await ask(scenario, "2")
    await scenario.until(lambda: has_size(scenario, 2))
    await scenario.ready()
    before = scenario.api.writes
    await scenario.patch("c1", {"workers": [POOL]})
    await scenario.settle()
    assert scenario.api.writes == before + 1  # the patch itself
    assert await has_size(scenario, 2)


@pytest.mark.parametrize(("asked", "reason", "size"), [("9", "ReplicasOutOfRange", 3), ("0", "ReplicasOutOfRange", 1)])
async def test_out_of_range_is_cut_and_said(scenario: Scenario, asked: str, reason: str, size: int) -> None:
    await scenario.create(workers=[POOL])
    await scenario.ready()
    await ask(scenario, asked)
    await scenario.until(lambda: refused(scenario, reason))
    assert "allows 1 to 3" in (await scaling(scenario))["message"]
    await scenario.until(lambda: has_size(scenario, size))
    await scenario.ready()  # a scaler's mistake does not make a cluster unhealthy
    assert reason in scenario.events.reasons("c1")


async def test_garbage_changes_nothing_is_said_once_and_passes(scenario: Scenario) -> None:
    await scenario.create(workers=[POOL])
    await scenario.ready()
    await ask(scenario, "2")
    await scenario.until(lambda: has_size(scenario, 2))
    await ask(scenario, "many")
    await scenario.until(lambda: refused(scenario, "InvalidReplicas"))
    await scenario.ready()
    assert await has_size(scenario, 2)
    assert "write a whole number from 1 to 3; until then it is 2" in (await scaling(scenario))["message"]
    assert scenario.events.reasons("c1").count("InvalidReplicas") == 1
    before = scenario.api.writes
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == before
    assert await has_size(scenario, 2)
    await ask(scenario, None)
    await scenario.settle()
    assert await has_size(scenario, 2), "a word that is taken back is no order to scale down"
    assert (await scaling(scenario))["status"] == "True"


async def test_lower_bounds_take_effect_at_once(scenario: Scenario) -> None:
    await scenario.create(workers=[POOL])
    await scenario.ready()
    await ask(scenario, "3")
    await scenario.until(lambda: has_size(scenario, 3))
    await scenario.patch("c1", {"workers": [POOL | {"autoscaling": {"min": 1, "max": 2}}]})
    await scenario.until(lambda: has_size(scenario, 2))
    await scenario.until(lambda: refused(scenario, "ReplicasOutOfRange"))


async def test_a_pool_that_is_not_autoscaled_has_the_size_of_its_spec(scenario: Scenario) -> None:
    await scenario.create(workers=[{"name": "md", "replicas": 1}])
    await scenario.ready()
    assert await scaling(scenario) == {}
    await ask(scenario, "3")
    await scenario.until(lambda: refused(scenario, "NotAutoscaled"))
    assert await workers(scenario) == ["c1-md-0"]
    await scenario.patch("c1", {"workers": [POOL]})
    await scenario.until(lambda: has_size(scenario, 3))


async def test_another_pools_annotation_is_told_of(scenario: Scenario) -> None:
    await scenario.create(workers=[POOL])
    await scenario.ready()
    await ask(scenario, "3", key="replicas.capn.dev/typo")
    await scenario.until(lambda: refused(scenario, "NotAutoscaled"))
    assert "no pool has that name" in (await scaling(scenario))["message"]
    assert await has_size(scenario, 1)
