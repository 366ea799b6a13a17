"""The part of `capn doctor` about clusters with KubeVirt: is it there, new enough, able to run what capn makes.

Role: findings for one endpoint. Inputs: a client of the cluster that runs the VMs, the endpoint's settings. Must not:
change anything, or need more than to read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from capn.api.resources import NODE, VIRTUAL_MACHINE, Resource
from capn.cli.findings import Finding
from capn.errors import ApiStatusError, CapnError, NotFoundError
from capn.kube.client import KubeClient
from capn.providers.kubevirt.storage import find_storage
from capn.settings import KubeVirtEndpoint

KUBEVIRT = Resource("kubevirt.io", "v1", "kubevirts", "KubeVirt")
# The first version whose launcher pods print the guest's console.
_OLDEST = (1, 1)


async def examine_kubevirt(name: str, endpoint: KubeVirtEndpoint, client: KubeClient) -> list[Finding]:
    """Everything that can be told of the endpoint; a check that fails does not hide the others."""
    title = f"kubevirt endpoint {name}"
    kubevirt: Mapping[str, Any] | None = None
    try:
        installed = (await client.list(KUBEVIRT)).items
    except NotFoundError:
        return [_absent(title)]
    except ApiStatusError as error:
        if error.code != HTTPStatus.FORBIDDEN:  # capn needs no right on the KubeVirt object to work
            return [_absent(title)]
    else:
        if not installed:
            return [_absent(title)]
        kubevirt = installed[0]
    findings = [_check_version(title, kubevirt), await _check_access(title, client)]
    findings.append(await _check_acceleration(title, kubevirt, client))
    if endpoint.root_disk in ("auto", "dataVolume"):
        findings.append(await _check_storage(title, endpoint, client))
    return findings


def _absent(title: str) -> Finding:
    fix = "install KubeVirt there, or correct the endpoint's kubeconfig; `capn dev up --kubevirt` brings one"
    return Finding(title, ok=False, found="no KubeVirt in that cluster", fix=fix)


def _check_version(title: str, kubevirt: Mapping[str, Any] | None) -> Finding:
    if kubevirt is None:
        return Finding(f"{title}: version", ok=True, found="unknown: this user may not see the KubeVirt object")
    status = kubevirt.get("status") or {}
    version, phase = str(status.get("observedKubeVirtVersion", "")), str(status.get("phase", ""))
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    old = numbers is not None and tuple(map(int, numbers.groups())) < _OLDEST
    fix = ""
    if phase != "Deployed":
        fix = "wait until the KubeVirt object is Deployed; `kubectl describe kubevirt -A` says what is missing"
    elif old:
        fix = "update KubeVirt to 1.1 or newer: older ones do not print the guest's console"
    return Finding(f"{title}: version", ok=not fix, found=f"{version or 'unknown'}, {phase or 'no phase'}", fix=fix)


async def _check_access(title: str, client: KubeClient) -> Finding:
    try:
        await client.list(VIRTUAL_MACHINE)
    except CapnError as error:
        fix = "give this user the rights of config/kubevirt/role.yaml"
        return Finding(f"{title}: access", ok=False, found=str(error), fix=fix)
    return Finding(f"{title}: access", ok=True, found="VirtualMachines can be listed")


async def _check_acceleration(title: str, kubevirt: Mapping[str, Any] | None, client: KubeClient) -> Finding:
    title = f"{title}: acceleration"
    emulates = None if kubevirt is None else _emulates(kubevirt)
    try:
        nodes = (await client.list(NODE)).items
    except CapnError as error:
        return Finding(title, ok=True, found=f"hosts cannot be listed ({error}); emulation {_on(emulates)}")
    able = [node for node in nodes if (node["metadata"].get("labels") or {}).get("kubevirt.io/schedulable") == "true"]
    kvm = [node for node in able if _allocatable(node, "devices.kubevirt.io/kvm") > 0]
    found = f"{len(able)} of {len(nodes)} hosts take VMs, {len(kvm)} with KVM; emulation {_on(emulates)}"
    if able and (kvm or emulates is not False):
        return Finding(title, ok=True, found=found)
    fix = "set spec.configuration.developerConfiguration.useEmulation in the KubeVirt object (slow), or use other hosts"
    return Finding(title, ok=False, found=found, fix=fix if able else "look at virt-handler on the hosts")


async def _check_storage(title: str, endpoint: KubeVirtEndpoint, client: KubeClient) -> Finding:
    title = f"{title}: storage"
    wanted = endpoint.storage_class
    try:
        storage = await find_storage(client, endpoint.namespace)
    except CapnError as error:
        fix = "give this user the rights of config/kubevirt/role.yaml"
        return Finding(title, ok=False, found=f"it cannot be asked for: {error}", fix=fix)
    if storage.offers(wanted):
        return Finding(title, ok=True, found=f"DataVolumes, StorageClass {wanted or storage.default}")
    if not storage.imports:
        found, fix = "no DataVolumes in that cluster", "install the Containerized Data Importer"
    else:
        found = f"no StorageClass {wanted or 'by default'}"
        fix = f"set the endpoint's storage_class to one of: {', '.join(storage.classes) or 'none there is'}"
    if endpoint.root_disk == "auto" and not wanted:
        return Finding(title, ok=True, found=f"{found}: disks are containerDisks and end with their VM")
    return Finding(title, ok=False, found=found, fix=f"{fix}, or set its root_disk to containerDisk")


def _allocatable(node: Mapping[str, Any], resource: str) -> int:
    text = str(((node.get("status") or {}).get("allocatable") or {}).get(resource, "0"))
    if text.endswith("k"):
        return int(text[:-1]) * 1000
    return int(text) if text.isdigit() else 0


def _emulates(kubevirt: Mapping[str, Any]) -> bool:
    config = (kubevirt.get("spec") or {}).get("configuration") or {}
    return bool((config.get("developerConfiguration") or {}).get("useEmulation"))


def _on(value: bool | None) -> str:
    return "unknown" if value is None else "on" if value else "off"
