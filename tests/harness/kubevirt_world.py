"""A double of a cluster with KubeVirt: the memory API server, Service addresses, and what virt-controller makes of VMs.

For speed and for faults that real KubeVirt does not produce on demand. It passes the provider contract as the real one
does (tests/contract). It runs every VM at once, and its guests say one report for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from capn.api.resources import (
    DATA_VOLUME,
    POD,
    SERVICE,
    SERVICE_CIDR,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    Resource,
)
from capn.build.report import Report, ReportState, encode_report
from capn.errors import ApiStatusError, NotFoundError
from capn.kube.client import ObjectList
from capn.kube.memory import MemoryKubeClient

SERVICE_NETWORK = "10.77.0.0/16"
REPORT = Report(stage="kubeadm/etcd", state=ReportState.RUNNING, seq=7)


class KubeVirtWorld(MemoryKubeClient):
    """One simulated cluster; `hold` keeps new VMs from starting, as a full cluster does.

    `lingers` keeps a deleted VM's guest until `end` is called, as one that takes its time to shut down. It has CDI when
    `imports`. `refusals` is how many lists of VMs are still to be refused, as by an API server that has just begun.
    """

    def __init__(self) -> None:
        super().__init__(uid_seed="kubevirt")
        self.hold = False
        self.lingers = False
        self.imports = False
        self._returning: dict[str, asyncio.Future[None]] = {}
        self.refusals = 0
        self._addresses = 10
        self._virt = self.as_manager("virt-controller")

    async def prepare(self) -> None:
        """What every cluster has."""
        spec = {"cidrs": [SERVICE_NETWORK]}
        await self._virt.create(SERVICE_CIDR, {"metadata": {"name": "kubernetes"}, "spec": spec})

    async def create(self, resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
        if resource is SERVICE and "clusterIP" not in obj["spec"]:
            self._addresses += 1
            address = f"10.77.{self._addresses // 250}.{self._addresses % 250}"
            obj = {**obj, "spec": {**obj["spec"], "clusterIP": address}}
        made = await super().create(resource, obj)
        if resource is VIRTUAL_MACHINE:
            await self._start(made)
            return await self.get(resource, made["metadata"]["name"], made["metadata"]["namespace"]) or made
        return made

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> ObjectList:
        if resource is VIRTUAL_MACHINE and self.refusals:
            self.refusals -= 1
            raise ApiStatusError(403, "virtualmachines.kubevirt.io is forbidden", reason="Forbidden")
        if resource is DATA_VOLUME and not self.imports:
            raise NotFoundError("list datavolumes: the server could not find the requested resource")
        return await super().list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )

    async def merge_patch(
        self, resource: Resource, name: str, namespace: str | None, patch: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        patched = await super().merge_patch(resource, name, namespace, patch)
        if resource is VIRTUAL_MACHINE and patched and patched["spec"].get("runStrategy") == "Halted":
            await self.end(name, str(namespace), phase=None)
            await self.set_status(name, str(namespace), {"printableStatus": "Stopped"})
            return patched
        if resource is VIRTUAL_MACHINE and patched and patched["spec"].get("runStrategy") == "Always":
            await self._start(patched)
            return await self.get(resource, name, namespace)
        return patched

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        done = await super().delete(resource, name, namespace, uid=uid)
        if resource is VIRTUAL_MACHINE and done and not self.lingers:
            await self.end(name, namespace or "", phase=None)
        return done

    async def follow_log(
        self, pod: str, namespace: str, *, container: str, tail_lines: int, silence_s: float = 600.0
    ) -> AsyncIterator[bytes]:
        """The guest's report again and again, until the pod is gone."""
        assert (container, tail_lines > 0, silence_s > 0) == ("guest-console-log", True, True)
        while await self.get(POD, pod, namespace) is not None:
            yield encode_report(REPORT)
            await asyncio.sleep(0.05)

    async def set_status(self, name: str, namespace: str, status: Mapping[str, Any]) -> None:
        """Say of a VM what virt-controller would."""
        meta = {"name": name, "namespace": namespace}
        await self._virt.apply(VIRTUAL_MACHINE, {"metadata": meta, "status": dict(status)}, subresource="status")

    async def set_instance(self, name: str, namespace: str, status: Mapping[str, Any]) -> None:
        """Say of an instance what virt-controller would."""
        meta = {"name": name, "namespace": namespace}
        obj = {"metadata": meta, "status": dict(status)}
        await self._virt.apply(VIRTUAL_MACHINE_INSTANCE, obj, subresource="status")

    async def stop(self, name: str, namespace: str) -> None:
        """The guest powers off: what has ended stays, the pod's log ends. A VM that runs `Always` comes back."""
        await self.end(name, namespace, phase="Succeeded")
        vm = await self.get(VIRTUAL_MACHINE, name, namespace) or {"spec": {}}
        comes_back = vm["spec"].get("runStrategy") == "Always"
        status = {"printableStatus": "CrashLoopBackOff" if comes_back else "Stopped", "created": True}
        await self.set_status(name, namespace, status)
        if comes_back:
            self._returning[name] = asyncio.ensure_future(self._return(vm))

    async def _return(self, vm: Mapping[str, Any]) -> None:
        await asyncio.sleep(2)
        meta = vm["metadata"]
        now = await self.get(VIRTUAL_MACHINE, meta["name"], meta["namespace"])
        if now is not None and now["spec"].get("runStrategy") == "Always":
            await self._start(vm)

    async def end(self, name: str, namespace: str, *, phase: str | None) -> None:
        """End an instance; `phase` None: it goes away altogether."""
        await MemoryKubeClient.delete(self, POD, f"virt-launcher-{name}", namespace)
        if phase is None:
            await MemoryKubeClient.delete(self, VIRTUAL_MACHINE_INSTANCE, name, namespace)
        else:
            await self.set_instance(name, namespace, {"phase": phase})

    async def _start(self, vm: Mapping[str, Any]) -> None:
        meta, template = vm["metadata"], vm["spec"]["template"]
        name, namespace = str(meta["name"]), str(meta["namespace"])
        await self.end(name, namespace, phase=None)
        # As the real one does, for a moment.
        await self.set_status(name, namespace, {"printableStatus": "Stopped"})
        labels = template["metadata"]["labels"]
        instance = {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": template["spec"]}
        await MemoryKubeClient.create(self, VIRTUAL_MACHINE_INSTANCE, instance)
        pod = {"metadata": {"name": f"virt-launcher-{name}", "namespace": namespace, "labels": labels}, "spec": {}}
        await MemoryKubeClient.create(self, POD, pod)
        if self.hold:
            await self.set_instance(name, namespace, {"phase": "Scheduling"})
            await self.set_status(name, namespace, {"printableStatus": "Starting", "created": True})
            return
        running = {"initContainerStatuses": [{"name": "guest-console-log", "state": {"running": {}}}]}
        meta = {"name": f"virt-launcher-{name}", "namespace": namespace}
        await self._virt.apply(POD, {"metadata": meta, "status": running}, subresource="status")
        await self.set_instance(name, namespace, {"phase": "Running"})
        await self.set_status(name, namespace, {"printableStatus": "Running", "ready": True, "created": True})
