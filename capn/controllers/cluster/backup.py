"""Phase BackupReady: a snapshot of the child's etcd in the administrator's store, when one is due.

Role: decides whether one is due (by the schedule, by the annotation; one that was missed is made up for once), has it
taken beside the reconciles, looked at again where it was written, and only then the oldest ended. Nothing polls: the
scope says when to look again. A failure never makes the cluster less Ready. Must not: write the PKI anywhere, or count
a snapshot before it was read back.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog

from capn import names
from capn.api.cluster import Backup, BackupRecord, BackupStatus
from capn.api.cron import find_next, parse_schedule
from capn.backup.base import Store
from capn.build.snapshots import (
    Snapshot,
    SnapshotDigest,
    build_directory,
    build_metadata,
    build_name,
    choose_expired,
)
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.controllers.timestamps import format_time
from capn.errors import CapnError, NotFoundError, TransientError
from capn.kube.etcd import EtcdClient

log = structlog.get_logger(__name__)

LIMIT_S = 1800.0
RETRY_S = 600.0
MAX_BYTES = 16 << 30  # twice the most that etcd's makers advise; a child must not fill our disk
_REQUEST_CHARS = 253
_MESSAGE_CHARS = 4096


async def reconcile_backup(scope: ClusterScope) -> Wait | None:
    """Take a snapshot if one is due. A failure is a Wait: it is tried again, and other phases go on."""
    spec = scope.cluster.spec.backup
    if spec is None:
        return None
    scope.backup = before = scope.cluster.status.backup or BackupStatus()
    request = _find_request(scope)
    due, now = _find_due(scope, spec, before), scope.deps.now()
    if (request and request != before.last_request) or (due is not None and due <= now):
        if (pause_s := scope.deps.backups.pause_s(scope.ref.uid, _cause(scope), now)) > 0:
            scope.backup_due_s = pause_s
            return _explain(before)
        attempt = await scope.deps.chores.poll(scope.ref, "backup", partial(_try, scope, spec, before))
        if attempt is None:
            return Wait("BackingUp", "a snapshot is being taken, or waits for those of other clusters", blocks=False)
        scope.backup, taken = attempt.result()
        if not taken:
            scope.backup_due_s = RETRY_S
            return _explain(scope.backup)
        due = _find_due(scope, spec, scope.backup)
    if due is not None:
        scope.backup_due_s = max(1.0, (due - scope.deps.now()).total_seconds())
    return _describe(spec, scope.backup, due)


def _describe(spec: Backup, status: BackupStatus, due: datetime | None) -> Wait | None:
    """What there is to say while nothing is due."""
    if status.failure_reason is not None:
        return _explain(status)
    if spec.schedule is not None and due is None:
        message = f"spec.backup.schedule {spec.schedule!r} names no day that there is"
        return Wait("BackupNeverDue", message, blocks=False)
    if status.last_success is None:
        return Wait("WaitingForBackup", "no snapshot was due yet", blocks=False)
    return None


def _find_request(scope: ClusterScope) -> str | None:
    return scope.cluster.metadata.annotations.get(names.ANNOTATION_BACKUP_NOW, "")[:_REQUEST_CHARS] or None


def _cause(scope: ClusterScope) -> tuple[int, str | None]:
    """What a pause after a failure holds for: a new spec or request is tried at once."""
    return scope.cluster.metadata.generation, _find_request(scope)


def _find_due(scope: ClusterScope, spec: Backup, status: BackupStatus) -> datetime | None:
    """The first scheduled time after the last success, or after the cluster was made."""
    if spec.schedule is None:
        return None
    since = status.last_success.time if status.last_success is not None else scope.cluster.metadata.creation_timestamp
    after = scope.deps.now() if since is None else datetime.fromisoformat(since)
    return find_next(parse_schedule(spec.schedule), after)


async def _try(scope: ClusterScope, spec: Backup, before: BackupStatus) -> tuple[BackupStatus, bool]:
    """One attempt, by the scope of the reconcile that began it; what became of it, and whether there is a snapshot."""
    try:
        async with asyncio.timeout(LIMIT_S):
            store, record = await _back_up(scope, spec)
    except TimeoutError:
        error = TransientError(f"the snapshot took longer than {LIMIT_S:g} s", reason="BackupTooSlow")
        return _note_failure(scope, before, error), False
    except CapnError as error:
        return _note_failure(scope, before, error), False
    scope.deps.backups.forget(scope.ref.uid)
    taken = BackupStatus(last_success=record, last_request=_find_request(scope) or before.last_request)
    try:
        await _expire(scope, spec, store)
    except CapnError as error:  # there is a new snapshot all the same; the next one tries to end the old ones again
        return _note_failure(scope, taken, error), True
    return taken, True


def _note_failure(scope: ClusterScope, before: BackupStatus, error: CapnError) -> BackupStatus:
    log.warning("backup failed", cluster=scope.ref.name, namespace=scope.ref.namespace, reason=error.reason)
    scope.deps.backups.postpone(scope.ref.uid, _cause(scope), scope.deps.now(), RETRY_S)
    failure = {"failure_reason": error.reason[:256], "failure_message": str(error)[:_MESSAGE_CHARS]}
    return before.model_copy(update=failure)


def _explain(status: BackupStatus) -> Wait:
    return Wait(status.failure_reason or "BackupFailed", status.failure_message or "", blocks=False)


async def _back_up(scope: ClusterScope, spec: Backup) -> tuple[Store, BackupRecord]:
    child = scope.require_child()
    store = scope.deps.backups.get(spec.store)
    etcd = EtcdClient(child.client)
    moment = scope.deps.now()
    name = build_name(scope.cluster, moment)
    with tempfile.TemporaryDirectory(prefix="capn-backup-") as private:
        file = Path(private) / "snapshot.db"
        health = await etcd.health(await etcd.members())
        digest = await _download(etcd, file)
        snapshot = Snapshot(name, digest.size, digest.sha256)
        about = Path(private) / "snapshot.json"
        about.write_bytes(
            build_metadata(
                scope.cluster,
                snapshot,
                version=scope.child_version or scope.cluster.spec.version,
                revision=max((found.revision for found in health.values()), default=0),
                taken=format_time(moment),
            )
        )
        await store.put(f"{name}.db", file)
        await _verify(store, snapshot)
        await store.put(f"{name}.json", about)
    return store, BackupRecord(time=format_time(moment), name=name, size=snapshot.size, sha256=snapshot.sha256)


async def _download(etcd: EtcdClient, target: Path) -> SnapshotDigest:
    """The snapshot in a file of ours, found whole."""
    digest = SnapshotDigest()
    try:
        with await asyncio.to_thread(target.open, "xb") as file:
            async with aclosing(etcd.snapshot()) as pieces:
                async for piece in pieces:
                    digest.update(piece)
                    if digest.size > MAX_BYTES:
                        raise TransientError(f"the snapshot is larger than {MAX_BYTES} bytes", reason="BackupTooLarge")
                    await asyncio.to_thread(file.write, piece)
    except OSError as error:
        message = f"the controller's directory for temporary files: {error.strerror}"
        raise TransientError(message, reason="BackupNoSpace") from error
    digest.require_whole()
    return digest


async def _verify(store: Store, snapshot: Snapshot) -> None:
    """Read it back; one that differs is removed again."""
    digest = SnapshotDigest()
    try:
        async with aclosing(store.read(f"{snapshot.name}.db")) as pieces:
            async for piece in pieces:
                digest.update(piece)
    except NotFoundError as error:
        raise TransientError("the backup store lost the snapshot at once", reason="BackupStoreUnavailable") from error
    if digest.sha256 != snapshot.sha256:
        await store.delete(f"{snapshot.name}.db")
        raise TransientError("the backup store gave back other bytes than were written", reason="BackupDamaged")


async def _expire(scope: ClusterScope, spec: Backup, store: Store) -> None:
    """End what is beyond `keep`: the metadata first, so that nothing looks finished that is not."""
    found = await store.list(build_directory(scope.ref.namespace, scope.ref.name))
    for name in choose_expired(found, uid=scope.ref.uid, keep=spec.keep):
        await store.delete(f"{name}.json")
        await store.delete(f"{name}.db")
