"""Snapshots of etcd: how they are named, what is written beside them, whether one is whole, which ones go.

Role: pure. A snapshot is `<namespace>/<cluster>/<time>-<mark of the cluster's UID>.db` in its store, with a `.json` of
the same name that is written last: one without it is not finished. The mark keeps a cluster from counting (and ending)
those of an earlier cluster of its name, which a restore may want. Must not: do I/O.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from capn import names
from capn.api.cluster import NestedCluster
from capn.errors import TransientError

FORMAT = 1
_HASH_BYTES = 32
_PAGE_BYTES = 512
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot that was found whole."""

    name: str  # without ending
    size: int
    sha256: str


class SnapshotDigest:
    """Takes a snapshot's bytes in order and says whether it is whole: etcd appends the SHA-256 of all before it."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._data = hashlib.sha256()
        self._tail = b""
        self.size = 0

    def update(self, piece: bytes) -> None:
        """The next bytes."""
        self._whole.update(piece)
        self.size += len(piece)
        pending = self._tail + piece
        self._data.update(pending[:-_HASH_BYTES])
        self._tail = pending[-_HASH_BYTES:]

    @property
    def sha256(self) -> str:
        """Of the whole file, in hex."""
        return self._whole.hexdigest()

    def require_whole(self) -> None:
        """TransientError (reason SnapshotDamaged) when something is missing or wrong."""
        pages, rest = divmod(self.size, _PAGE_BYTES)
        if pages == 0 or rest != _HASH_BYTES or self._data.digest() != self._tail:
            raise TransientError(
                "the snapshot's checksum is wrong: etcd did not send all of it", reason="SnapshotDamaged"
            )


def build_directory(namespace: str, cluster: str) -> str:
    """Where the snapshots of clusters of this name are in a store."""
    return f"{namespace}/{cluster}/"


def build_name(cluster: NestedCluster, moment: datetime) -> str:
    """The name of a snapshot taken at `moment`, without ending; names sort by time."""
    meta = cluster.metadata
    stamp = moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{build_directory(meta.namespace, meta.name)}{stamp}-{build_mark(meta.uid)}"


def build_mark(uid: str) -> str:
    """Eight hex digits that stand for the cluster's UID."""
    return names.build_short_id(uid)[:8]


def build_metadata(cluster: NestedCluster, snapshot: Snapshot, *, version: str, revision: int, taken: str) -> bytes:
    """What a restore needs to know besides the data. The PKI is not in it: it is in the cluster's Secrets."""
    meta, network = cluster.metadata, cluster.spec.network
    said: dict[str, Any] = {
        "format": FORMAT,
        "taken": taken,
        "cluster": {"namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
        "kubernetesVersion": version,
        "network": {
            "podCIDR": network.pod_cidr,
            "serviceCIDR": network.service_cidr,
            "dnsDomain": network.dns_domain,
        },
        "etcd": {"revision": revision},
        "snapshot": {
            "file": f"{snapshot.name.rpartition('/')[2]}.db",
            "size": snapshot.size,
            "sha256": snapshot.sha256,
        },
    }
    return json.dumps(said, indent=2, sort_keys=True).encode() + b"\n"


def choose_expired(found: Iterable[str], *, uid: str, keep: int) -> list[str]:
    """Names (without ending) of the cluster's finished snapshots beyond the newest `keep`, and of unfinished ones.

    `found` are the names of files in its directory. One newer than every finished one may be on its way and stays.
    """
    files = set(found)
    mark = build_mark(uid)
    stems = {file.rpartition(".")[0] for file in files}
    mine = sorted(stem for stem in stems if (match := _NAME.fullmatch(stem.rpartition("/")[2])) and match[1] == mark)
    finished = [stem for stem in mine if f"{stem}.json" in files]
    if not finished:
        return []
    unfinished = [stem for stem in mine if f"{stem}.json" not in files and stem < finished[-1]]
    return sorted([*finished[: max(0, len(finished) - keep)], *unfinished])
