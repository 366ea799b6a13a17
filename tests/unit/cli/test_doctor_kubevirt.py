"""What `capn doctor` says of a cluster with KubeVirt, and of one without."""

from __future__ import annotations

from typing import Any

from capn.api.resources import NODE, STORAGE_CLASS, Resource
from capn.cli.doctor_kubevirt import KUBEVIRT, examine_kubevirt
from capn.cli.findings import Finding
from capn.errors import ApiStatusError
from capn.kube.client import ObjectList
from capn.kube.memory import MemoryKubeClient
from capn.settings import KubeVirtEndpoint


class Forbidding(MemoryKubeClient):
    """Refuses the list of KubeVirt objects, as an API server does to capn's own account."""

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> ObjectList:
        if resource == KUBEVIRT:
            raise ApiStatusError(403, "kubevirts.kubevirt.io is forbidden", reason="Forbidden")
        return await super().list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )


async def examine(
    kubevirt: dict[str, Any] | None,
    nodes: list[dict[str, Any]],
    endpoint: KubeVirtEndpoint | None = None,
    *,
    client: MemoryKubeClient | None = None,
) -> dict[str, Finding]:
    client = client or MemoryKubeClient()
    if kubevirt is not None:
        await client.create(KUBEVIRT, {"metadata": {"name": "kubevirt", "namespace": "kubevirt"}, **kubevirt})
    for number, node in enumerate(nodes):
        labels = node.pop("labels", {})
        await client.create(NODE, {"metadata": {"name": f"n{number}", "labels": labels}, **node})
    await client.create(STORAGE_CLASS, {"metadata": {"name": "slow"}})
    found = await examine_kubevirt("default", endpoint or KubeVirtEndpoint(), client)
    return {finding.check.removeprefix("kubevirt endpoint default").strip(": "): finding for finding in found}


def deployed(version: str = "v1.7.0", *, emulation: bool = False) -> dict[str, Any]:
    config = {"developerConfiguration": {"useEmulation": emulation}}
    status = {"observedKubeVirtVersion": version, "phase": "Deployed"}
    return {"spec": {"configuration": config}, "status": status}


def host(*, kvm: str = "0") -> dict[str, Any]:
    allocatable = {"devices.kubevirt.io/kvm": kvm}
    return {"labels": {"kubevirt.io/schedulable": "true"}, "status": {"allocatable": allocatable}}


async def test_a_cluster_without_kubevirt() -> None:
    found = await examine(None, [])
    assert not found[""].ok
    assert "install KubeVirt" in found[""].fix


async def test_who_may_not_see_the_kubevirt_object_is_not_told_that_there_is_none() -> None:
    found = await examine(None, [host()], client=Forbidding())
    assert all(finding.ok for finding in found.values()), found
    assert "may not see" in found["version"].found
    assert "emulation unknown" in found["acceleration"].found


async def test_a_good_one() -> None:
    found = await examine(deployed(), [host(kvm="1k")])
    assert all(finding.ok for finding in found.values()), found
    assert "1 with KVM" in found["acceleration"].found


async def test_an_old_one_and_one_that_is_not_up() -> None:
    found = await examine(deployed("v1.0.1"), [host(kvm="1k")])
    assert "update KubeVirt" in found["version"].fix
    found = await examine({**deployed(), "status": {"phase": "Deploying"}}, [host(kvm="1k")])
    assert "Deployed" in found["version"].fix


async def test_hosts_without_kvm_need_emulation() -> None:
    found = await examine(deployed(), [host()])
    assert "useEmulation" in found["acceleration"].fix
    found = await examine(deployed(emulation=True), [host()])
    assert found["acceleration"].ok


async def test_disks_that_end_with_their_vm_are_told() -> None:
    found = await examine(deployed(), [host(kvm="1")])
    assert found["storage"].ok
    assert "end with their VM" in found["storage"].found


async def test_volumes_need_their_class() -> None:
    found = await examine(deployed(), [host(kvm="1")], KubeVirtEndpoint(root_disk="dataVolume", storage_class="fast"))
    assert not found["storage"].ok
    assert "slow" in found["storage"].fix
    found = await examine(deployed(), [host(kvm="1")], KubeVirtEndpoint(root_disk="dataVolume", storage_class="slow"))
    assert found["storage"].ok
