"""Names, metadata and wholeness of snapshots."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from capn.api.cluster import NestedCluster, NestedClusterSpec
from capn.api.meta import ObjectMeta
from capn.build.snapshots import (
    Snapshot,
    SnapshotDigest,
    build_mark,
    build_metadata,
    build_name,
    choose_expired,
)
from capn.errors import TransientError

UID = "5f1c1c6e-0000-4000-8000-000000000001"
MARK = build_mark(UID)
CLUSTER = NestedCluster(
    metadata=ObjectMeta(name="demo", namespace="team", uid=UID), spec=NestedClusterSpec(version="v1.37.2")
)
DATA = b"x" * 1024


def digest_of(data: bytes, step: int) -> SnapshotDigest:
    digest = SnapshotDigest()
    for start in range(0, len(data), step):
        digest.update(data[start : start + step])
    return digest


@pytest.mark.parametrize("step", [1, 7, 32, 33, 512, 5000])
def test_a_whole_snapshot(step: int) -> None:
    data = DATA + sha256(DATA).digest()
    digest = digest_of(data, step)
    digest.require_whole()
    assert digest.size == len(data)
    assert digest.sha256 == sha256(data).hexdigest()


@pytest.mark.parametrize(
    "data",
    [b"", sha256(b"").digest(), DATA, DATA + sha256(DATA).digest()[:-1], DATA + sha256(b"other").digest(),
     DATA[:-1] + sha256(DATA[:-1]).digest(), DATA + sha256(DATA).digest() + b"x"],
)  # fmt: skip
def test_a_damaged_snapshot(data: bytes) -> None:
    with pytest.raises(TransientError) as caught:
        digest_of(data, 100).require_whole()
    assert caught.value.reason == "SnapshotDamaged"


def test_a_name_sorts_by_time_and_tells_clusters_apart() -> None:
    name = build_name(CLUSTER, datetime(2026, 11, 26, 3, 0, 5, tzinfo=UTC))
    assert name == f"team/demo/20261126T030005Z-{MARK}"
    assert build_mark("other") != MARK


def test_what_a_restore_needs_is_beside_it() -> None:
    snapshot = Snapshot(build_name(CLUSTER, datetime(2026, 11, 26, tzinfo=UTC)), 1056, "ab" * 32)
    said = json.loads(build_metadata(CLUSTER, snapshot, version="v1.37.2", revision=41, taken="2026-11-26T00:00:00Z"))
    assert said == {
        "format": 1,
        "taken": "2026-11-26T00:00:00Z",
        "cluster": {"namespace": "team", "name": "demo", "uid": UID},
        "kubernetesVersion": "v1.37.2",
        "network": {"podCIDR": "10.244.0.0/16", "serviceCIDR": "10.96.0.0/16", "dnsDomain": "cluster.local"},
        "etcd": {"revision": 41},
        "snapshot": {"file": f"20261126T000000Z-{MARK}.db", "size": 1056, "sha256": "ab" * 32},
    }


def files(*days: int, mark: str = MARK, endings: tuple[str, ...] = ("db", "json")) -> list[str]:
    return [f"team/demo/202611{day:02}T000000Z-{mark}.{ending}" for day in days for ending in endings]


def test_the_oldest_beyond_keep_go_and_others_stay() -> None:
    found = [*files(1, 2, 3, 4), *files(1, 2, mark="00000000"), "team/demo/notes.txt", "team/demo/x.json"]
    expected = [name.removesuffix(".db") for name in files(1, 2, endings=("db",))]
    assert choose_expired(found, uid=UID, keep=2) == expected
    assert choose_expired(found, uid=UID, keep=4) == []


def test_unfinished_ones_go_once_a_later_one_is_finished() -> None:
    unfinished = files(1, endings=("db",))
    assert choose_expired(unfinished, uid=UID, keep=1) == []
    assert choose_expired([*unfinished, *files(2), *files(3, endings=("db",))], uid=UID, keep=1) == [
        unfinished[0].removesuffix(".db")
    ]
