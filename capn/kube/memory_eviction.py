"""Evictions of the in-process API double: whether a PodDisruptionBudget lets a pod go.

Role: what an API server decides when an Eviction is posted, from the budgets' status; that is the disruption
controller's to compute, so a test that has none writes it. Inputs: the store and the pod. Must not: delete the pod.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from capn.api.conditions import find_condition
from capn.api.resources import POD_DISRUPTION_BUDGET
from capn.errors import ApiStatusError
from capn.kube.errors import DisruptionBudgetError
from capn.kube.memory_store import MemoryStore, Stored

# A pod that has not begun, has ended or is on its way counts for no budget.
_UNCOUNTED = frozenset({"", "Pending", "Succeeded", "Failed"})


def spend_budget(store: MemoryStore, stored: Stored) -> None:
    """Take the pod's disruption off its budget. DisruptionBudgetError when none is allowed now."""
    pod = stored.to_dict()
    if pod["metadata"].get("deletionTimestamp") or (pod.get("status") or {}).get("phase", "") in _UNCOUNTED:
        return
    budgets = [found for found in store.scan(POD_DISRUPTION_BUDGET) if _selects(found.to_dict(), pod)]
    if len(budgets) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise ApiStatusError(HTTPStatus.INTERNAL_SERVER_ERROR, message, reason="InternalError")
    for found in budgets:
        _spend(store, found, pod)


def _selects(budget: dict[str, Any], pod: dict[str, Any]) -> bool:
    """By `matchLabels`; no selector selects nothing, an empty one everything."""
    selector = (budget.get("spec") or {}).get("selector")
    if selector is None or budget["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    return bool((selector.get("matchLabels") or {}).items() <= (pod["metadata"].get("labels") or {}).items())


def _spend(store: MemoryStore, stored: Stored, pod: dict[str, Any]) -> None:
    budget = stored.to_dict()
    name, status = budget["metadata"]["name"], budget.get("status") or {}
    healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    if not _is_ready(pod) and 0 < desired <= healthy:
        return  # it is not among those that the application needs
    if status.get("observedGeneration", 0) < budget["metadata"]["generation"]:
        raise _refuse(pod, f"The disruption budget {name} is still being processed by the server.")
    allowed = status.get("disruptionsAllowed", 0)
    if allowed <= 0:
        raise _refuse(pod, f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
    disrupted = (status.get("disruptedPods") or {}) | {pod["metadata"]["name"]: store.timestamp()}
    budget["status"] = status | {"disruptionsAllowed": allowed - 1, "disruptedPods": disrupted}
    store.update(POD_DISRUPTION_BUDGET, budget, stored.managers, stored)


def _is_ready(pod: dict[str, Any]) -> bool:
    return (find_condition(pod, "Ready") or {}).get("status") == "True"


def _refuse(pod: dict[str, Any], budget: str) -> DisruptionBudgetError:
    meta = pod["metadata"]
    what = f"evict pod {meta['namespace']}/{meta['name']}"
    return DisruptionBudgetError(
        f"{what}: Cannot evict pod as it would violate the pod's disruption budget.", budget=budget
    )
