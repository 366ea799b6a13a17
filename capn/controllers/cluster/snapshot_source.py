"""Snapshots out of the administrator's stores: which one, and its bytes in a file, found whole.

Role: reads; what a store gives is checked against the snapshot's `.json` and etcd's own checksum. Must not: write to a
store, or believe a name that did not come from a listing of the cluster's own directory.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from capn.api.cluster import NestedCluster
from capn.api.restore import RestoreFrom, RestoreStatus
from capn.backup.base import Store
from capn.build.restore_plan import METADATA_BYTES, Facts, build_damaged, check_fits, choose_snapshot, read_facts
from capn.build.snapshots import SnapshotDigest, build_directory
from capn.controllers.backups import Backups
from capn.controllers.cluster.backup import MAX_BYTES
from capn.errors import TerminalError, TransientError


@dataclass(frozen=True, slots=True)
class Source:
    """Where to look. `uid`: only snapshots of that very cluster; `name`: only that one; `field` names it in errors."""

    store: str
    directory: str
    field: str
    uid: str | None = None
    name: str | None = None

    @classmethod
    def of_spec(cls, cluster: NestedCluster, wanted: RestoreFrom) -> Source:
        """What spec.restoreFrom asks for: of a cluster in the same namespace, whichever bore that name."""
        directory = build_directory(cluster.metadata.namespace, wanted.cluster or cluster.metadata.name)
        return cls(wanted.store, directory, "spec.restoreFrom.store", name=wanted.snapshot)

    @classmethod
    def of_backup(cls, cluster: NestedCluster) -> Source:
        """The cluster's own backups."""
        meta, backup = cluster.metadata, cluster.spec.backup
        if backup is None:
            raise TerminalError("spec.backup is not set any more: set it again", reason="RestoreImpossible")
        return cls(backup.store, build_directory(meta.namespace, meta.name), "spec.backup.store", uid=meta.uid)

    @classmethod
    def of_restore(cls, restore: RestoreStatus) -> Source:
        """The store of a restore that goes on."""
        return cls(restore.store, "", "status.restore.store")

    def open(self, backups: Backups) -> Store:
        """The store. InvalidSpecError (BackupStoreNotFound) names the field and those that there are."""
        return backups.get(self.store, self.field)


async def find_snapshot(store: Store, source: Source, cluster: NestedCluster) -> Facts:
    """The snapshot to take. TerminalError: none there (NoSnapshot), or not for this cluster (SnapshotUnfit)."""
    name = choose_snapshot(await store.list(source.directory), uid=source.uid, name=source.name)
    if name is None:
        which = f"snapshot {source.name}" if source.name else "whole snapshot"
        raise TerminalError(
            f"the store {source.store} has no {which} of {source.directory.rstrip('/')}: put .db and .json there, or"
            " delete the NestedCluster and make it anew",
            reason="NoSnapshot",
        )
    about = b""
    async with aclosing(store.read(f"{name}.json")) as pieces:
        async for piece in pieces:
            about += piece
            if len(about) > METADATA_BYTES:
                raise build_damaged(name, "its .json is too long")
    facts = read_facts(name, about)
    check_fits(cluster, facts)
    return facts


async def fetch_snapshot(store: Store, name: str, sha256: str, target: Path) -> None:
    """Its bytes in a file of ours. TerminalError (SnapshotDamaged) when they are not what was written once."""
    digest = SnapshotDigest()
    try:
        with await asyncio.to_thread(target.open, "xb") as file:
            async with aclosing(store.read(f"{name}.db")) as pieces:
                async for piece in pieces:
                    digest.update(piece)
                    if digest.size > MAX_BYTES:
                        raise build_damaged(name, f"it is larger than {MAX_BYTES} bytes")
                    await asyncio.to_thread(file.write, piece)
    except OSError as error:
        message = f"the controller's directory for temporary files: {error.strerror}"
        raise TransientError(message, reason="BackupNoSpace") from error
    if digest.sha256 != sha256:
        raise build_damaged(name, "its bytes have another SHA-256 than its .json says")
    try:
        digest.require_whole()
    except TransientError as error:
        raise build_damaged(name, "etcd's own checksum at its end is wrong") from error
