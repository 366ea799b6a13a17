"""From KubeVirt's objects to a machine's state and what keeps its VM from running.

Role: pure. Inputs: VirtualMachine, VirtualMachineInstance and launcher pod as a server returned them; outputs:
`MachineState`, `Problem`. Messages are steady and name the fix. Source: `status.printableStatus` and the conditions of
kubevirt.io/api v1.7.0 core/v1/types.go. Must not: raise for a field that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from capn.api.conditions import find_condition
from capn.build.kubevirt_objects import HALTED
from capn.providers.base import MachineState, Problem

Json = Mapping[str, Any]
_STATES = {
    "Running": MachineState.RUNNING,
    "Migrating": MachineState.RUNNING,
    "Paused": MachineState.PAUSED,
    "Stopped": MachineState.STOPPED,
    "Stopping": MachineState.STOPPED,
    "CrashLoopBackOff": MachineState.CRASHED,
}
_STARTS_ITSELF = frozenset({"Once", "Always"})
_PULL_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_DISK_PROBLEMS = {
    "ErrorPvcNotFound": "its PersistentVolumeClaim is gone",
    "DataVolumeError": "the image cannot be imported into its volume: look at the DataVolume's events and importer pod",
    "WaitingForVolumeBinding": "its volume is not bound: is there room, and does the StorageClass have a provisioner?",
}
_LONGEST = 600
_POD_NAME = re.compile(r'(pods )?"?virt-launcher-[-a-z0-9]+"?')


def compute_state(vm: Json) -> MachineState:
    """The VM's state as KubeVirt sums it up; CREATING for all that is on its way.

    A new VM is called Stopped for a moment, until KubeVirt has made the instance that its run strategy asks for.
    """
    status, spec = _status(vm), vm.get("spec") or {}
    state = _STATES.get(status.get("printableStatus", ""), MachineState.CREATING)
    begins = spec.get("runStrategy") in _STARTS_ITSELF and not status.get("created")
    return MachineState.CREATING if state is MachineState.STOPPED and begins else state


def is_off(vm: Json) -> bool:
    """Whether a VM that was halted has ended: no instance of it is left, and none is made."""
    status = _status(vm)
    halted = (vm.get("spec") or {}).get("runStrategy") == HALTED
    return halted and status.get("printableStatus") == "Stopped" and not status.get("created")


def read_essence(vm: Mapping[str, Any]) -> object:
    """What of a VM matters to its machine; probe times and volume statuses do not."""
    status = vm.get("status") or {}
    conditions = [
        (condition.get("type"), condition.get("status"), condition.get("reason"), condition.get("message"))
        for condition in status.get("conditions") or ()
    ]
    return (status.get("printableStatus"), conditions, bool(vm["metadata"].get("deletionTimestamp")))


def find_problem(vm: Json, instance: Json | None, pods: Iterable[Json]) -> Problem | None:
    """What keeps the VM from running, or None while it is just on its way."""
    status = _status(vm).get("printableStatus", "")
    if status == "Paused":
        return _explain_pause(instance)
    candidates = (
        *(_explain_pod(pod) for pod in pods),
        _explain_place(status, instance),
        _explain_disk(status),
        _explain_refusal(instance),
        _explain_failure(vm),
    )
    return next((problem for problem in candidates if problem is not None), None)


def _explain_pause(instance: Json | None) -> Problem:
    reason = _condition(instance, "Paused").get("reason", "")
    if reason == "PausedIOError":
        return Problem("DiskFull", "the VM is paused because its disk cannot be written: free space in its storage")
    return Problem("MachinePaused", "the VM is paused; resume it with `virtctl unpause vm`", passes=True)


def _explain_pod(pod: Json) -> Problem | None:
    """A launcher pod that cannot start its containers."""
    status = pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _PULL_REASONS:
            return Problem(
                "ImagePullFailed",
                f"the node image {container.get('image', '')} cannot be pulled: push it where the hosts find it"
                " (`capn image containerdisk`), or correct spec.version, spec.machine.image or the endpoint's image",
            )
    return None


def _explain_place(status: str, instance: Json | None) -> Problem | None:
    scheduled = _condition(instance, "PodScheduled")
    if status == "ErrorUnschedulable" or scheduled.get("reason") == "Unschedulable":
        return _explain_unschedulable(scheduled.get("message", ""))
    return None


def _explain_unschedulable(message: str) -> Problem:
    if "Insufficient memory" in message:
        fix = "lower spec.machine.memory, or free memory on the hosts"
        return Problem("InsufficientMemory", f"no host has room for the VM's memory: {fix}", passes=True)
    if "Insufficient cpu" in message:
        return Problem(
            "InsufficientCPU", "no host has CPUs left for the VM: lower spec.machine.cpus, or free some", passes=True
        )
    if "devices.kubevirt.io/kvm" in message:
        return Problem(
            "NoKVM",
            "no host offers /dev/kvm: use hosts with hardware virtualization, or set useEmulation in the KubeVirt CR",
            passes=True,
        )
    return Problem("Unschedulable", f"no host takes the VM's launcher pod: {_clip(message)}", passes=True)


def _explain_disk(status: str) -> Problem | None:
    said = _DISK_PROBLEMS.get(status)
    return Problem("DiskNotReady", f"the VM waits for its disk: {said}", passes=True) if said else None


def _explain_failure(vm: Json) -> Problem | None:
    failure = _condition(vm, "Failure")
    if failure.get("status") != "True":
        return None
    return Problem("VirtualMachineFailed", f"KubeVirt cannot run the VM: {_clip(failure.get('message', ''))}")


def _explain_refusal(instance: Json | None) -> Problem | None:
    condition = _condition(instance, "Synchronized")
    if condition.get("status") != "False" or not condition.get("message"):
        return None
    reason, message = condition.get("reason", ""), _clip(condition.get("message", ""))
    if reason in _PULL_REASONS:
        return Problem("ImagePullFailed", f"KubeVirt cannot pull the node image: {message}")
    if reason == "FailedPvcNotFound":
        return Problem("DiskMissing", f"the VM's disk is not there: {message}", passes=True)
    if "exceeded quota" in message:
        return Problem("QuotaExceeded", f"the namespace's ResourceQuota has no room for the VM: {message}", passes=True)
    if "violates PodSecurity" in message:
        return Problem("PodSecurityRefused", f"the namespace's Pod Security level refuses the launcher pod: {message}")
    return Problem(reason or "NotSynchronized", f"KubeVirt cannot start the VM: {message}", passes=True)


def _status(obj: Json) -> Json:
    status = obj.get("status")
    return status if isinstance(status, Mapping) else {}


def _condition(obj: Json | None, kind: str) -> Json:
    """The condition, or an empty one."""
    return find_condition(obj or {}, kind) or {}


def _clip(message: str) -> str:
    """What others say, as it may stand in a condition: bounded, and without the random end of a pod's name."""
    message = _POD_NAME.sub("the launcher pod", message)
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
