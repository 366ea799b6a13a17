"""What users run in a child: pods on a node, and budgets over them, as kubelet and disruption controller leave them."""

from __future__ import annotations

from typing import Any

from capn.api.resources import NODE, POD, POD_DISRUPTION_BUDGET
from capn.kube.memory import MemoryKubeClient

APP = "team"
# Held by the kubelet until the pod's containers have ended.
KUBELET = "test.dev/kubelet"


class Workload:
    """Pods of one child. A pod that lingers is there until `end`, as with a long grace or a dead kubelet."""

    def __init__(self, api: MemoryKubeClient) -> None:
        self.api = api.as_manager("kubelet")

    async def run(self, name: str, node: str, *, lingers: bool = False, **metadata: Any) -> None:
        meta = {"name": name, "namespace": APP, "labels": {"app": "web"}, **metadata}
        if lingers:
            meta["finalizers"] = [KUBELET]
        await self.api.create(POD, {"metadata": meta, "spec": {"nodeName": node}})
        await self.set_phase(name, "Running")

    async def set_phase(self, name: str, phase: str) -> None:
        status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(phase == "Running")}]}
        where = {"name": name, "namespace": APP}
        await self.api.apply(POD, {"metadata": where, "status": status}, subresource="status")

    async def end(self, name: str) -> None:
        """The containers have ended."""
        await self.api.merge_patch(POD, name, APP, {"metadata": {"finalizers": None}})

    async def names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in (await self.api.list(POD, namespace=APP)).items]

    async def is_leaving(self, name: str) -> bool:
        pod = await self.api.get(POD, name, APP)
        return pod is not None and "deletionTimestamp" in pod["metadata"]

    async def guard(self, *, allowed: int) -> None:
        """A budget over all pods that allows so many disruptions now."""
        meta = {"name": "web", "namespace": APP}
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
        made = await self.api.apply(POD_DISRUPTION_BUDGET, {"metadata": meta, "spec": spec})
        status = {
            "observedGeneration": made["metadata"]["generation"],
            "currentHealthy": 1 + allowed,
            "desiredHealthy": 1,
            "disruptionsAllowed": allowed,
        }
        await self.api.apply(POD_DISRUPTION_BUDGET, {"metadata": meta, "status": status}, subresource="status")

    async def silence(self, node: str) -> None:
        """The kubelet does not report any more, and the node controller has noticed."""
        status = {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}
        await self.api.apply(NODE, {"metadata": {"name": node}, "status": status}, subresource="status")

    async def is_cordoned(self, node: str) -> bool:
        found = await self.api.get(NODE, node)
        return found is not None and bool((found.get("spec") or {}).get("unschedulable"))
