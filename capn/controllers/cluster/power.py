"""Phase PoweredOff: switches a cluster's machines off and on again, by `spec.powerState`, in an order that etcd stands.

Off: all workers, then control planes one after the other, the first of them last, since it has the endpoint. On: all
control planes at once, for etcd needs its quorum, then workers when the child's API answers. A machine's own reconciler
does what the annotation on it says; that it has done so comes back by the machine's status. Must not: make or delete a
machine, ask the child, or touch a hypervisor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from capn import names
from capn.api.conditions import ClusterCondition, MachineCondition, find, is_true
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_MACHINE
from capn.build.restore_plan import find_loss
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Phase, Wait

REASON_STOPPING, REASON_STARTING = "PoweringOff", "PoweringOn"


async def reconcile_power_off(scope: ClusterScope) -> Wait | None:
    """Mark the machines whose turn it is; done when all of them are off."""
    turn = select_to_stop(scope.machines)
    if any(machine.spec.role == names.ROLE_CONTROL_PLANE for machine in turn):
        # Control planes whose turn comes later open it again, if they look at their node; the last one does not.
        await scope.deps.children.drop(scope.ref.uid)
    for machine in turn:
        await _mark(scope, machine, off=True)
    running = [machine for machine in _staying(scope.machines) if not is_off(machine)]
    if not running:
        return None
    return Wait(REASON_STOPPING, f"waiting for {len(running)} machine(s) to be off, next {_next(running)}")


async def reconcile_power_on(scope: ClusterScope) -> Wait | None:
    """Take the marks off; the other phases go on when the control plane is there again, workers follow meanwhile."""
    for machine in select_to_start(scope.machines):
        await _mark(scope, machine, off=False)
    starting = [machine for machine in _staying(scope.machines) if was_switched_off(machine)]
    if not starting:
        return None
    if has_quorum(scope.control_planes()):
        return Wait(REASON_STARTING, f"{len(starting)} machine(s) are being started", blocks=False)
    # A control plane that was never initialized, or is lost, becomes Ready only by the phases that come after this one.
    needed = scope.initialized and find_loss(scope.control_planes()) is None
    return Wait(REASON_STARTING, "the control plane is being started", blocks=needed)


def select_to_stop(machines: Sequence[NestedMachine]) -> list[NestedMachine]:
    """Machines that shall go off now, whether they know it or not."""
    workers = [machine for machine in _staying(machines) if machine.spec.role == names.ROLE_WORKER]
    if not all(map(is_off, workers)):
        return workers
    turn = list(workers)
    for machine in _by_falling_ordinal(machines):
        turn.append(machine)
        if not is_off(machine):
            break
    return turn


def select_to_start(machines: Sequence[NestedMachine]) -> list[NestedMachine]:
    """Machines that may run now."""
    control_planes = _by_falling_ordinal(machines)
    if not has_quorum(control_planes):
        return control_planes
    return [*control_planes, *(machine for machine in _staying(machines) if machine.spec.role == names.ROLE_WORKER)]


def has_quorum(control_planes: Sequence[NestedMachine]) -> bool:
    """Whether most control planes are Ready, so that the child's API answers."""
    ready = sum(is_true(machine.status.conditions, MachineCondition.READY) for machine in control_planes)
    return 2 * ready > len(control_planes)


def is_marked(machine: NestedMachine) -> bool:
    """Whether the machine was told to be off."""
    return names.ANNOTATION_POWER_OFF in machine.metadata.annotations


def is_off(machine: NestedMachine) -> bool:
    """Whether the machine was told to be off, and is."""
    return is_marked(machine) and is_true(machine.status.conditions, MachineCondition.POWERED_OFF)


def was_switched_off(machine: NestedMachine) -> bool:
    """Whether the machine is off, on its way there, or on its way back."""
    return is_marked(machine) or find(machine.status.conditions, MachineCondition.POWERED_OFF) is not None


def _staying(machines: Iterable[NestedMachine]) -> list[NestedMachine]:
    """Those that are not being deleted: what is deleted goes off by itself."""
    return [machine for machine in machines if not machine.metadata.deleting]


def _by_falling_ordinal(machines: Iterable[NestedMachine]) -> list[NestedMachine]:
    found = [machine for machine in _staying(machines) if machine.spec.role == names.ROLE_CONTROL_PLANE]
    return sorted(found, key=lambda machine: machine.spec.ordinal, reverse=True)


def _next(running: Sequence[NestedMachine]) -> str:
    marked = [machine for machine in running if is_marked(machine)]
    return min(machine.metadata.name for machine in marked or running)


async def _mark(scope: ClusterScope, machine: NestedMachine, *, off: bool) -> None:
    """Write the annotation unless it says so already; a machine that is gone needs none."""
    if is_marked(machine) is off:
        return
    meta = machine.metadata
    value = names.POWER_OFF_ASKED if off else None
    patch = {"metadata": {"annotations": {names.ANNOTATION_POWER_OFF: value}, "uid": meta.uid}}
    written = await scope.deps.client.merge_patch(NESTED_MACHINE, meta.name, meta.namespace, patch)
    if written is not None:
        scope.deps.machines.note_write(written)


PHASES: tuple[Phase[ClusterScope], ...] = (Phase(ClusterCondition.POWERED_OFF, reconcile_power_off),)
