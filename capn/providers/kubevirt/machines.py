"""Makes and removes a machine's objects: node Service, seed Secret, VirtualMachine; in an order that survives a crash.

Role: the steps behind the provider's calls. The VirtualMachine is made last, so one that exists has all that it needs,
and removed first. Must not: wait, or change what does not carry the machine's UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capn import names
from capn.api.resources import (
    PERSISTENT_VOLUME_CLAIM,
    SECRET,
    SERVICE,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
)
from capn.build.kubevirt_objects import (
    HALTED,
    VirtualMachineInput,
    build_node_service,
    build_release_patch,
    build_seed_secret,
    build_virtual_machine,
    is_persistent,
)
from capn.build.stamps import LABEL_VM
from capn.errors import TerminalError, TransientError
from capn.kube.client import KubeClient
from capn.providers.adopt import create_or_adopt, delete_owned
from capn.providers.base import MachineRef, MachineRequest, MachineState
from capn.providers.checks import build_machine_vanished, image_name
from capn.providers.kubevirt.console import list_pods
from capn.providers.kubevirt.place import Place
from capn.providers.kubevirt.storage import choose_root_disk, ensure_volume
from capn.providers.kubevirt.views import compute_state, is_off
from capn.providers.stamps import build_stamp, is_owned, refuse_foreign
from capn.settings import KubeVirtEndpoint

_EMPTY_SEED = b"#cloud-config\n{}\n"


async def find_vm(client: KubeClient, place: Place, ref: MachineRef) -> dict[str, Any] | None:
    """The machine's VirtualMachine; None when there is none or when it is not ours."""
    vm = await client.get(VIRTUAL_MACHINE, place.machine(ref), place.of(ref.cluster))
    return vm if vm is not None and is_owned(vm, ref.uid) else None


async def ensure_node_service(client: KubeClient, place: Place, ref: MachineRef) -> str:
    """The machine's node address: that of its Service, made where it is missing."""
    name, namespace = place.node_service(ref), place.of(ref.cluster)
    service = await client.get(SERVICE, name, namespace)
    if service is None:
        made = build_node_service(namespace, name, build_stamp(ref))
        service = await create_or_adopt(client, SERVICE, made, ref.uid)
    refuse_foreign(service, ref.uid, kind="Service")
    return str(service["spec"]["clusterIP"])


async def find_address(client: KubeClient, place: Place, ref: MachineRef) -> str | None:
    """The machine's node address; None when its Service is not there or not ours."""
    service = await client.get(SERVICE, place.node_service(ref), place.of(ref.cluster))
    return str(service["spec"]["clusterIP"]) if service is not None and is_owned(service, ref.uid) else None


async def make_vm(
    client: KubeClient, place: Place, endpoint: KubeVirtEndpoint, request: MachineRequest
) -> dict[str, Any]:
    """Seed and VirtualMachine of a machine that has none. TerminalError when its bootstrap data is used up."""
    ref, namespace = request.ref, place.of(request.ref.cluster)
    if request.bootstrap_data is None:
        raise build_machine_vanished()
    root_disk = await choose_root_disk(client, endpoint, namespace)
    if root_disk == "persistentVolumeClaim":
        await ensure_volume(client, place, endpoint, request)
    seed = build_seed_secret(namespace, place.seed(ref), build_stamp(ref), request.bootstrap_data)
    await create_or_adopt(client, SECRET, seed, ref.uid)
    vm = build_virtual_machine(
        VirtualMachineInput(
            namespace=namespace,
            name=place.machine(ref),
            stamp=build_stamp(ref),
            role=request.role,
            cpus=request.cpus,
            memory_mib=request.memory_mib,
            disk_gib=max(request.disk_gib, endpoint.image_gib),
            image=endpoint.image.replace("{name}", image_name(request)),
            pull_policy=endpoint.image_pull_policy,
            pull_secret=endpoint.image_pull_secret,
            kernel_args=endpoint.kernel_args,
            root_disk=root_disk,
            volume=place.volume(ref),
            storage_class=endpoint.storage_class,
            eviction_strategy=endpoint.eviction_strategy,
            grace_s=endpoint.grace_s,
            node_selector=endpoint.node_selector,
            seed=place.seed(ref),
        )
    )
    return await create_or_adopt(client, VIRTUAL_MACHINE, vm, ref.uid)


async def revive_vm(client: KubeClient, request: MachineRequest, vm: dict[str, Any]) -> dict[str, Any] | None:
    """What exists, started again where it has ended; None when it had to be removed to be made anew.

    TerminalError when its disk ended with it and held a node.
    """
    meta = vm["metadata"]
    if meta.get("deletionTimestamp"):
        raise TransientError("the VM is being removed", reason="MachineStopping")
    halted = vm["spec"].get("runStrategy") == HALTED  # even if it has not ended yet: it is about to
    if not halted and compute_state(vm) not in (MachineState.STOPPED, MachineState.CRASHED):
        return vm
    if is_persistent(vm):
        if vm["spec"].get("runStrategy") == "Always":
            return vm  # KubeVirt is about to start it
        patch = {"spec": {"runStrategy": "Always"}}
        return await client.merge_patch(VIRTUAL_MACHINE, meta["name"], meta["namespace"], patch)
    if request.bootstrap_data is None:
        raise TerminalError(
            "the VM has ended and its disk, a containerDisk, with it: delete this NestedMachine, so that another one is"
            " made; volumes survive (root_disk in the endpoint's settings)",
            reason="MachineVanished",
        )
    await client.delete(VIRTUAL_MACHINE, meta["name"], meta["namespace"], uid=meta["uid"])
    return None


async def halt_vm(client: KubeClient, place: Place, ref: MachineRef) -> bool:
    """Halt the VM; True when it is off, or there is none. TerminalError when its disk would end with it."""
    vm = await find_vm(client, place, ref)
    if vm is None:
        return True
    meta = vm["metadata"]
    if meta.get("deletionTimestamp"):
        raise TransientError("the VM is being removed", reason="MachineStopping")
    if not is_persistent(vm):
        if compute_state(vm) in (MachineState.STOPPED, MachineState.CRASHED):
            return True
        raise TerminalError(
            'the VM\'s disk, a containerDisk, would end with it: set spec.powerState back to "On"; clusters that are to'
            " be switched off need volumes (root_disk in the endpoint's settings)",
            reason="DiskNotPersistent",
        )
    if vm["spec"].get("runStrategy") != HALTED:
        patch = {"spec": {"runStrategy": HALTED}}
        vm = await client.merge_patch(VIRTUAL_MACHINE, meta["name"], meta["namespace"], patch)
    return vm is None or is_off(vm)


async def release_seed(client: KubeClient, place: Place, ref: MachineRef) -> None:
    """Take the seed out of the VirtualMachine and empty its Secret, which a running instance still refers to."""
    name, namespace = place.seed(ref), place.of(ref.cluster)
    vm = await find_vm(client, place, ref)
    if vm is not None:
        patch = build_release_patch(vm)
        if patch is not None:
            await client.merge_patch(VIRTUAL_MACHINE, place.machine(ref), namespace, patch)
    seed = await client.get(SECRET, name, namespace)
    if seed is not None and is_owned(seed, ref.uid):
        empty = build_seed_secret(namespace, name, build_stamp(ref), _EMPTY_SEED)["data"]
        if seed.get("data") != empty:
            await client.merge_patch(SECRET, name, namespace, {"data": empty})


async def delete_vm(client: KubeClient, place: Place, ref: MachineRef) -> bool:
    """Remove VM, seed, volume and Service; True when nothing is left, launcher pods included.

    A DataVolume is the VirtualMachine's own and goes with it.
    """
    name, namespace = place.machine(ref), place.of(ref.cluster)
    gone = await delete_owned(client, VIRTUAL_MACHINE, name, namespace, ref.uid)
    instance = await client.get(VIRTUAL_MACHINE_INSTANCE, name, namespace)
    if not gone or (instance is not None and _is_instance_of(instance, ref)) or await list_pods(client, namespace, ref):
        return False
    rest = (
        (SECRET, place.seed(ref)),
        (PERSISTENT_VOLUME_CLAIM, place.volume(ref)),
        (SERVICE, place.node_service(ref)),
    )
    return all([await delete_owned(client, resource, other, namespace, ref.uid) for resource, other in rest])


def _is_instance_of(instance: Mapping[str, Any], ref: MachineRef) -> bool:
    """Instances carry the template's labels, not the VirtualMachine's annotations."""
    labels = instance["metadata"].get("labels") or {}
    return bool(labels.get(LABEL_VM) == names.build_domain_uuid(ref.uid))
