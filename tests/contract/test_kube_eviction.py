"""Evictions and field selectors, on the in-process double and a real API server with its disruption controller."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.resources import POD, POD_DISRUPTION_BUDGET
from capn.errors import ApiStatusError, ConflictError
from capn.kube.errors import DisruptionBudgetError, OverloadedError
from tests.contract.kube_cases import Case, Manifest, eventually

NO_UID = "00000000-0000-4000-8000-000000000000"


async def run_pod(case: Case, name: str, *, ready: bool = True, phase: str = "Running", **spec: Any) -> Manifest:
    """A pod of app web, in the state that a kubelet would report."""
    pod = {
        "metadata": {"name": name, "namespace": case.namespace, "labels": {"app": "web"}},
        "spec": {
            "containers": [{"name": "c", "image": "none"}],
            "schedulerName": "nobody",
            "automountServiceAccountToken": False,
            **spec,
        },
    }

    async def is_made() -> Manifest | None:
        try:
            return await case.client.create(POD, pod)
        except ApiStatusError as error:
            if "serviceaccount" not in str(error):
                raise
            return None  # a new namespace has none for a moment

    made: Manifest = await eventually(is_made)
    ended: dict[str, Any] = {"status": "True" if ready else "False", "type": "Ready"}
    status = {"phase": phase, "conditions": [ended]}
    await case.client.apply(POD, {"metadata": pod["metadata"], "status": status}, subresource="status")
    return made


async def guard(case: Case, name: str, *, at_least: int, healthy: int) -> None:
    """A budget over app web, once its status says that this many pods are healthy."""
    where = {"name": name, "namespace": case.namespace}
    spec = {"minAvailable": at_least, "selector": {"matchLabels": {"app": "web"}}}
    made = await case.client.apply(POD_DISRUPTION_BUDGET, {"metadata": where, "spec": spec})
    generation = made["metadata"]["generation"]
    if not case.is_real:  # what the disruption controller would write
        counts = {
            "currentHealthy": healthy,
            "desiredHealthy": at_least,
            "disruptionsAllowed": max(0, healthy - at_least),
        }
        status = counts | {"observedGeneration": generation, "expectedPods": healthy}
        await case.client.apply(POD_DISRUPTION_BUDGET, {"metadata": where, "status": status}, subresource="status")

    async def is_counted() -> bool:
        found = await case.client.get(POD_DISRUPTION_BUDGET, name, case.namespace)
        status = (found or {}).get("status") or {}
        return status.get("observedGeneration") == generation and status.get("currentHealthy") == healthy

    await eventually(is_counted)


async def test_eviction_of_nothing(case: Case) -> None:
    assert await case.client.evict("absent", case.namespace) is False


async def test_a_pod_without_a_budget_goes(case: Case) -> None:
    made = await run_pod(case, "a")
    assert await case.client.evict("a", case.namespace, uid=made["metadata"]["uid"]) is True
    assert await case.client.get(POD, "a", case.namespace) is None


async def test_a_pod_of_another_uid_stays(case: Case) -> None:
    await run_pod(case, "a")
    with pytest.raises(ConflictError):
        await case.client.evict("a", case.namespace, uid=NO_UID)
    assert await case.client.get(POD, "a", case.namespace) is not None


async def test_a_budget_refuses_and_is_spent(case: Case) -> None:
    await run_pod(case, "a")
    await run_pod(case, "b")
    await guard(case, "web", at_least=2, healthy=2)
    with pytest.raises(DisruptionBudgetError) as caught:
        await case.client.evict("a", case.namespace)
    assert not isinstance(caught.value, OverloadedError)
    assert caught.value.code == 429
    assert caught.value.reason == "DisruptionBudget"
    assert caught.value.budget == "The disruption budget web needs 2 healthy pods and has 2 currently"
    assert await case.client.get(POD, "a", case.namespace) is not None
    await guard(case, "web", at_least=1, healthy=2)
    assert await case.client.evict("a", case.namespace) is True
    with pytest.raises(DisruptionBudgetError):
        await case.client.evict("b", case.namespace)


async def test_a_pod_that_is_not_ready_goes_when_the_others_are_enough(case: Case) -> None:
    await run_pod(case, "a")
    await run_pod(case, "sick", ready=False)
    await guard(case, "web", at_least=1, healthy=1)
    assert await case.client.evict("sick", case.namespace) is True
    with pytest.raises(DisruptionBudgetError):
        await case.client.evict("a", case.namespace)


async def test_a_pod_that_is_not_ready_stays_when_the_others_are_too_few(case: Case) -> None:
    await run_pod(case, "a")
    await run_pod(case, "sick", ready=False)
    await guard(case, "web", at_least=2, healthy=1)
    with pytest.raises(DisruptionBudgetError):
        await case.client.evict("sick", case.namespace)


@pytest.mark.parametrize("phase", ["Pending", "Succeeded"])
async def test_a_pod_that_counts_for_no_budget_goes(case: Case, phase: str) -> None:
    await run_pod(case, "a")
    await run_pod(case, "other", phase=phase, ready=False)
    await guard(case, "web", at_least=2, healthy=1)
    assert await case.client.evict("other", case.namespace) is True


async def test_two_budgets_over_one_pod_are_no_budget_error(case: Case) -> None:
    await run_pod(case, "a")
    await guard(case, "web", at_least=0, healthy=1)
    await guard(case, "also", at_least=0, healthy=1)
    with pytest.raises(ApiStatusError) as caught:
        await case.client.evict("a", case.namespace)
    assert not isinstance(caught.value, DisruptionBudgetError)
    assert "more than one PodDisruptionBudget" in str(caught.value)


async def test_a_list_by_field(case: Case) -> None:
    node = f"node-of-{case.namespace}"
    await run_pod(case, "here", nodeName=node, terminationGracePeriodSeconds=0)
    await run_pod(case, "elsewhere")
    found = await case.client.list(POD, field_selector=f"spec.nodeName={node}")
    assert [pod["metadata"]["name"] for pod in found.items] == ["here"]
    found = await case.client.list(
        POD, namespace=case.namespace, label_selector="app=web", field_selector="spec.nodeName=,metadata.name=elsewhere"
    )
    assert [pod["metadata"]["name"] for pod in found.items] == ["elsewhere"]
    with pytest.raises(ApiStatusError) as caught:
        await case.client.list(POD, field_selector="spec.nodeName")
    assert caught.value.code == 400
    await case.client.delete(POD, "here", case.namespace)
