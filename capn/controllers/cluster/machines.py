"""Makes, mends and deletes NestedMachines: the steps that the phases of control planes and workers share.

Must not: decide which machines there shall be, or touch a hypervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_MACHINE
from capn.controllers.cluster.live import refuse_if_deleting
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.parse import parse
from capn.errors import ConflictError, OwnershipError, TerminalError, TransientError


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


def _owned(obj: dict[str, Any], uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences", ()))
