"""Phase Restored: a cluster that is to begin with a snapshot, or whose etcd is lost, gets its data back.

Role: decides (by `capn.build.restore_plan`), makes sure that the snapshot is whole before anything is touched, writes
down what is restored and why, and only then removes what is left of the control plane; later brings the snapshot to the
machine that was made for it. Each step is found again after a crash: by `status.restore`, by the restore that a
machine's spec names, by what the machine itself says. Must not: begin for mere silence, remove a control plane before
the snapshot was read, or make one while another of before exists.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog

from capn import names
from capn.api.conditions import ClusterCondition, MachineCondition, find, is_true
from capn.api.resources import CONFIG_MAP, NESTED_CLUSTER
from capn.api.restore import RestorePhase, RestoreStatus
from capn.build import kubeadm_record
from capn.build.owners import build_subject
from capn.build.restore_plan import Facts, Loss, find_loss, is_of
from capn.controllers.child_pool import Child
from capn.controllers.cluster.initialized import compute_machine_wait
from capn.controllers.cluster.machines import delete_machines, list_live_machines
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.cluster.snapshot_source import Source, fetch_snapshot, find_snapshot
from capn.controllers.phases import Wait
from capn.controllers.timestamps import format_time
from capn.errors import CapnError, NotFoundError, TerminalError, TransientError, UnreachableError

log = structlog.get_logger(__name__)

RECEIVER = "/capn/restore"
LIMIT_S = 1800.0
POLL_S = 10.0
# Longer than the endpoint takes to move and etcd to choose a leader, if it has a quorum after all.
PATIENCE_S = 180.0
IN_DOUBT = "QuorumInDoubt"
# What is written down is carried out in a later reconcile, which reads it.
_NEXT_S = 1.0
_OK, _CREATED, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT = 200, 201, 401, 403, 404, 409
_UPLOADING = "UploadingSnapshot"
_UPLOAD = "upload"


async def reconcile_restore(scope: ClusterScope) -> Wait | None:
    """Begin a restore if one is due; while one goes on, remove the control planes of before."""
    if (restore := scope.restoring) is not None:
        return await _remove_former(scope, restore)
    cluster = scope.cluster
    wanted = cluster.spec.restore_from
    if wanted is not None and cluster.status.restore is None and not (scope.initialized or scope.control_planes()):
        message = "spec.restoreFrom asks for it"
        return await _begin(scope, Source.of_spec(cluster, wanted), "RestoreFrom", message)
    if not scope.initialized or (loss := find_loss(scope.control_planes())) is None:
        return None
    if not await _is_certain(scope, loss):
        return None
    if not loss.sure and (remaining := _compute_patience(scope)) > 0:
        message = f"{loss.message}, unless one that joined has a vote: if the child is silent for {PATIENCE_S:g} s more"
        return Wait(IN_DOUBT, f"{message}, the newest snapshot is restored", min(remaining, POLL_S))
    _check_allowed(scope, loss)
    return await _begin(scope, Source.of_backup(cluster), loss.reason, loss.message)


def _compute_patience(scope: ClusterScope) -> float:
    """For how many seconds the child, which does not answer now, may still be silent."""
    told = find(scope.cluster.status.conditions, ClusterCondition.RESTORED)
    if told is None or told.reason != IN_DOUBT:
        return PATIENCE_S
    return PATIENCE_S - (scope.deps.now() - datetime.fromisoformat(told.last_transition_time)).total_seconds()


async def _is_certain(scope: ClusterScope, loss: Loss) -> bool:
    """Look once more, past every cache: at the machines, at the hypervisor, and whether the child answers after all."""
    ordered = [machine for machine in await list_live_machines(scope) if machine.spec.role == names.ROLE_CONTROL_PLANE]
    live = find_loss(ordered)
    if live is None or {machine.metadata.uid for machine in live.lost} != {m.metadata.uid for m in loss.lost}:
        return False
    for machine in live.lost:
        if await scope.provider.observe_machine(scope.machine_ref(machine)) is not None:
            return False
    return not await _answers(scope)


async def _answers(scope: ClusterScope) -> bool:
    """Whether the child's API gives an answer that needs etcd's quorum."""
    try:
        child = await _open(scope)
        return await child.client.get(CONFIG_MAP, kubeadm_record.NAME, kubeadm_record.NAMESPACE) is not None
    except CapnError as error:
        log.info("the child does not answer", cluster=scope.ref.name, error=str(error))
        return False


def _check_allowed(scope: ClusterScope, loss: Loss) -> None:
    cluster = scope.cluster
    if cluster.metadata.annotations.get(names.ANNOTATION_SKIP_RESTORE) == "true":
        raise TerminalError(
            f"{loss.message}; the annotation {names.ANNOTATION_SKIP_RESTORE} forbids to restore a snapshot by itself:"
            " take it away to have the newest one restored, or delete the NestedCluster and make it anew",
            reason="RestoreForbidden",
        )
    if cluster.spec.backup is None:
        raise TerminalError(
            f"{loss.message}, and there is no spec.backup to restore from: set spec.backup.store to the store that has"
            " snapshots of this cluster, or delete the NestedCluster and make it anew",
            reason="RestoreImpossible",
        )


async def _begin(scope: ClusterScope, source: Source, reason: str, message: str) -> Wait:
    """Read the snapshot, whole; then say and write down that it is restored. Nothing is changed yet."""
    chosen = await scope.deps.chores.poll(scope.ref, "choose snapshot", partial(_choose, scope, source))
    if chosen is None:
        return Wait("ReadingSnapshot", f"{message}; the newest snapshot is read before anything is changed")
    read, facts = chosen.result()
    if read != source:
        return Wait("ReadingSnapshot", f"{message}; another source was named meanwhile", _NEXT_S)
    scope.restore = RestoreStatus(
        phase=RestorePhase.PREPARING,
        reason=reason,
        store=source.store,
        snapshot=facts.name,
        taken=facts.taken,
        sha256=facts.sha256,
        size=facts.size,
        started_at=format_time(scope.deps.now()),
    )
    lost = (
        "" if reason == "RestoreFrom" else f": EVERYTHING that was written in this cluster since {facts.taken} IS LOST"
    )
    tell(scope, "RestoreStarted", f"{message}; the snapshot {facts.name}, taken {facts.taken}, is restored{lost}")
    return Wait("RestoreDecided", f"{message}; restoring {facts.name}, taken {facts.taken}", _NEXT_S)


async def _choose(scope: ClusterScope, source: Source) -> tuple[Source, Facts]:
    """The snapshot to restore, found whole, and where."""
    async with _room("the store") as file:
        store = source.open(scope.deps.backups)
        facts = await find_snapshot(store, source, scope.cluster)
        await fetch_snapshot(store, facts.name, facts.sha256, file)
    return source, facts


@asynccontextmanager
async def _room(what: str) -> AsyncIterator[Path]:
    """A file of ours for a snapshot, for as long as `what` may take. TransientError (RestoreTooSlow) after that."""
    try:
        async with asyncio.timeout(LIMIT_S):
            with tempfile.TemporaryDirectory(prefix="capn-restore-") as private:
                yield Path(private) / "snapshot.db"
    except TimeoutError:
        raise TransientError(f"{what} took longer than {LIMIT_S:g} s", reason="RestoreTooSlow") from None


async def _remove_former(scope: ClusterScope, restore: RestoreStatus) -> Wait | None:
    """Machines of before must be gone, VMs and all, before the new one is made: nobody serves old data beside it."""
    former = [machine for machine in scope.control_planes() if not is_of(machine, restore)]
    if not scope.control_planes():  # the cache may be behind; one more look before the new one is made
        live = await list_live_machines(scope)
        former = [m for m in live if m.spec.role == names.ROLE_CONTROL_PLANE and not is_of(m, restore)]
    if not former:
        return None
    await scope.deps.children.drop(scope.ref.uid)
    await delete_machines(scope, former)
    named = ", ".join(machine.metadata.name for machine in former)
    return Wait("RemovingControlPlanes", f"{named} must be gone before {restore.snapshot} is restored", POLL_S)


async def reconcile_upload(scope: ClusterScope) -> Wait | None:
    """Bring the snapshot to the new machine when it waits for it; done when the machine says that it is done."""
    restore = scope.restoring
    if restore is None:
        return None
    machine = next((found for found in scope.control_planes() if is_of(found, restore)), None)
    if machine is not None and is_true(machine.status.conditions, MachineCondition.BOOTSTRAP_SUCCEEDED):
        return None
    if (wait := compute_machine_wait(scope.control_planes())) is not None or machine is None:
        return wait or Wait("WaitingForMachine", "the machine that is to be restored is being created", POLL_S)
    child = await _open(scope)
    state = "waiting" if scope.deps.chores.is_known(scope.ref, _UPLOAD) else await _ask(child)
    if state == "waiting":
        return await _upload(scope, restore, child)
    if state == "gone" and restore.uploaded_at is None:
        _note_uploaded(scope, restore)  # by a controller that did not live to write it down
    stage = machine.status.bootstrap.stage if machine.status.bootstrap is not None else None
    where = f"{machine.metadata.name} is at stage {stage}" if stage else f"{machine.metadata.name} is starting"
    return Wait("Restoring", f"{restore.snapshot}, taken {restore.taken}: {where}", POLL_S)


async def _ask(child: Child) -> str:
    """What the machine says: silent, waiting, receiving, received, or gone: there is an API server by now."""
    try:
        status, body = await child.client.get_raw(RECEIVER)
    except UnreachableError:
        return "silent"
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        message = f"the machine does not take the kubeconfig's client certificate ({status}): {body[:256]}"
        raise TransientError(message, reason="UploadFailed")
    if status != _OK:
        return "gone" if status == _NOT_FOUND else "silent"
    try:
        state = json.loads(body)["state"]
    except (ValueError, KeyError, TypeError):
        return "gone"
    return state if state in {"waiting", "receiving", "received"} else "gone"


async def _upload(scope: ClusterScope, restore: RestoreStatus, child: Child) -> Wait:
    message = f"{restore.snapshot} ({restore.size} bytes) is being brought to the new control plane"
    upload = await scope.deps.chores.poll(scope.ref, _UPLOAD, partial(_bring, scope, restore, child))
    if upload is None:
        return Wait(_UPLOADING, message)
    try:
        status, body = upload.result()
    except NotFoundError:
        return await _choose_again(scope, restore)
    if status == _CONFLICT:
        return Wait(_UPLOADING, message, POLL_S)
    if status not in {_OK, _CREATED}:
        raise TransientError(f"the machine does not take the snapshot ({status}): {body[:256]}", reason="UploadFailed")
    _note_uploaded(scope, restore)
    return Wait("Restoring", f"{restore.snapshot}, taken {restore.taken}: the new control plane has it", POLL_S)


async def _bring(scope: ClusterScope, restore: RestoreStatus, child: Child) -> tuple[int, str]:
    """From the store to the machine; the status and the text that it answers."""
    async with _room("the upload") as file:
        store = Source.of_restore(restore).open(scope.deps.backups)
        await fetch_snapshot(store, restore.snapshot, restore.sha256, file)
        return await child.client.upload(RECEIVER, file, sha256=restore.sha256, timeout_s=LIMIT_S)


async def _choose_again(scope: ClusterScope, restore: RestoreStatus) -> Wait:
    """The snapshot went from the store meanwhile; the machine goes on waiting, for another one."""
    cluster = scope.cluster
    wanted = cluster.spec.restore_from if restore.reason == "RestoreFrom" else None
    source = Source.of_backup(cluster) if wanted is None else Source.of_spec(cluster, wanted)
    wait = await _begin(scope, source, restore.reason, f"the store has {restore.snapshot} no more")
    if scope.restore is not None:
        scope.restore = scope.restore.model_copy(update={"started_at": restore.started_at})
    return wait


def _note_uploaded(scope: ClusterScope, restore: RestoreStatus) -> None:
    moment = format_time(scope.deps.now())
    scope.restore = restore.model_copy(update={"phase": RestorePhase.STARTING, "uploaded_at": moment})


async def _open(scope: ClusterScope) -> Child:
    credentials = scope.credentials
    if credentials is None or credentials.kubeconfig is None:
        raise TransientError("the kubeconfig is not there yet")
    return await scope.deps.children.open(scope.provider, scope.ref, credentials.kubeconfig)


def tell(scope: ClusterScope, reason: str, message: str) -> None:
    """An event on the cluster, a warning: whoever looks after it must hear of a restore."""
    meta = scope.cluster.metadata
    scope.deps.recorder.event(build_subject(NESTED_CLUSTER, meta), "Warning", reason, message[:1000])
    log.warning("restore", cluster=meta.name, namespace=meta.namespace, reason=reason, what=message)
