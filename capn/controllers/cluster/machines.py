"""Makes, mends and deletes NestedMachines: the steps that the phases of control planes and workers share.

Must not: decide which machines there shall be, or touch a hypervisor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from pydantic import ValidationError

from capn import names
from capn.api.cluster import WorkerPool
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_MACHINE
from capn.controllers.cluster.live import refuse_if_deleting
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.parse import parse
from capn.errors import ConflictError, OwnershipError, TerminalError, TransientError

log = structlog.get_logger(__name__)


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


async def update_labels(scope: ClusterScope, machine: NestedMachine, pool: WorkerPool) -> None:
    """Give the machine its pool's labels and taints; its own reconciler brings them to the node.

    Not by server-side apply: that would leave what the machine was created with.
    """
    meta = machine.metadata
    labels = {key: None for key in machine.spec.labels if key not in pool.labels} | pool.labels
    spec = {"labels": labels, "taints": [taint.to_json() for taint in pool.taints]}
    patch = {"metadata": {"uid": meta.uid}, "spec": spec}
    written = await scope.deps.client.merge_patch(NESTED_MACHINE, meta.name, meta.namespace, patch)
    if written is not None:
        scope.deps.machines.note_write(written)


async def list_live_machines(scope: ClusterScope) -> list[NestedMachine]:
    """The cluster's machines as the API server has them now."""
    ref = scope.ref
    selector = f"{names.LABEL_CLUSTER}={ref.name}"
    listed = await scope.deps.client.list(NESTED_MACHINE, namespace=ref.namespace, label_selector=selector)
    return read_machines(listed.items, ref.uid)


def read_machines(objects: Iterable[dict[str, Any]], cluster_uid: str) -> list[NestedMachine]:
    """Machines that are not another cluster's; what cannot be read is left out."""
    machines = []
    for raw in objects:
        try:
            machine = parse(NestedMachine, raw)
        except ValidationError:
            # Its own reconciler explains it; one broken machine must not stop the cluster.
            log.warning("machine cannot be read", machine=raw["metadata"]["name"])
            continue
        if machine.metadata.controller_uid in {None, cluster_uid}:
            machines.append(machine)
    return machines


async def delete_machines(scope: ClusterScope, machines: Sequence[NestedMachine]) -> None:
    """Ask for deletion of machines that are not being deleted yet."""
    for machine in machines:
        if not machine.metadata.deleting:
            meta = machine.metadata
            await scope.deps.client.delete(NESTED_MACHINE, meta.name, meta.namespace, uid=meta.uid)


def _owned(obj: dict[str, Any], uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences", ()))
