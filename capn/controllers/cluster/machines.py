"""Phases that make NestedMachines: the control planes one after the other, the workers all at once.

Must not: touch a hypervisor; that is the machine's own reconciler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from capn import names
from capn.api.conditions import MachineCondition, is_true
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_MACHINE
from capn.build.machines import desired_machines
from capn.controllers.cluster.live import refuse_if_deleting
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.parse import parse
from capn.controllers.phases import Wait
from capn.errors import ConflictError, OwnershipError, TerminalError, TransientError


async def reconcile_control_planes(scope: ClusterScope) -> Wait | None:
    """Create the first control plane; each further one when all those before it are Ready."""
    wanted = [machine for machine in desired_machines(scope.cluster) if _role(machine) == names.ROLE_CONTROL_PLANE]
    existing = {machine.metadata.name: machine for machine in scope.control_planes()}
    for manifest in wanted:
        machine = existing.get(manifest["metadata"]["name"])
        if machine is None:
            await create_machine(scope, manifest)
            return None
        await restore_stamps(scope, machine, manifest)
        if not is_true(machine.status.conditions, MachineCondition.READY):
            return None
    return None


async def reconcile_workers(scope: ClusterScope) -> Wait | None:
    """Create missing workers and delete those that the spec no longer asks for."""
    wanted = {
        machine["metadata"]["name"]: machine
        for machine in desired_machines(scope.cluster)
        if _role(machine) == names.ROLE_WORKER
    }
    existing = {machine.metadata.name: machine for machine in scope.workers()}
    for name, manifest in wanted.items():
        if name in existing:
            await restore_stamps(scope, existing[name], manifest)
        else:
            await create_machine(scope, manifest)
    await delete_machines(scope, [machine for name, machine in existing.items() if name not in wanted])
    return None


async def create_machine(scope: ClusterScope, manifest: dict[str, Any]) -> None:
    """POST the machine; names are deterministic, so a stale cache cannot make two. OwnershipError if taken."""
    deps, ref = scope.deps, scope.ref
    name = manifest["metadata"]["name"]
    await refuse_if_deleting(scope)
    try:
        created = await deps.client.create(NESTED_MACHINE, manifest)
    except ConflictError:
        existing = await deps.client.get(NESTED_MACHINE, name, ref.namespace)
        if existing is None:
            raise
        if not _owned(existing, ref.uid):
            raise OwnershipError(
                f"NestedMachine {name} exists and belongs to another cluster; delete it or rename this cluster"
            ) from None
        if existing["metadata"].get("deletionTimestamp"):
            raise TransientError(f"NestedMachine {name} is still being deleted") from None
        created = existing
    deps.machines.note_write(created)
    try:
        scope.machines = [*scope.machines, parse(NestedMachine, created)]
    except ValidationError as error:
        raise TerminalError(
            f"NestedMachine {name} cannot be read: {error.errors()[0]['msg']}; delete it to have it made again",
            reason="MachineUnreadable",
        ) from error


async def restore_stamps(scope: ClusterScope, machine: NestedMachine, manifest: dict[str, Any]) -> None:
    """Put labels and owner back on a machine that somebody has stripped of them."""
    wanted = manifest["metadata"]
    labelled = wanted["labels"].items() <= machine.metadata.labels.items()
    if machine.metadata.deleting or (labelled and machine.metadata.controller_uid == scope.ref.uid):
        return
    stamps = {key: wanted[key] for key in ("name", "namespace", "labels", "ownerReferences")}
    head = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
    obj = head | {"metadata": stamps | {"uid": machine.metadata.uid}}
    scope.deps.machines.note_write(await scope.deps.client.apply(NESTED_MACHINE, obj))


async def delete_machines(scope: ClusterScope, machines: Sequence[NestedMachine]) -> None:
    """Ask for deletion of machines that are not being deleted yet."""
    for machine in machines:
        if not machine.metadata.deleting:
            meta = machine.metadata
            await scope.deps.client.delete(NESTED_MACHINE, meta.name, meta.namespace, uid=meta.uid)


def _role(machine: dict[str, Any]) -> str:
    return str(machine["spec"]["role"])


def _owned(obj: dict[str, Any], uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences", ()))
