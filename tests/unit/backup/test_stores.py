"""One suite for every backup store, and what only one of them can do wrong. S3 is a double that checks signatures."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from capn.api.resources import NAMESPACE, SECRET
from capn.backup import directory
from capn.backup.base import Store
from capn.backup.registry import StoreRegistry
from capn.backup.sigv4 import EMPTY_SHA256, Keys, sign
from capn.errors import ApiStatusError, CapnError, InvalidSpecError, NotFoundError, TransientError, UnreachableError
from capn.kube.memory import MemoryKubeClient
from capn.settings import DirectoryStore, S3Store, SecretKey
from tests.harness import s3_double
from tests.harness.s3_double import S3Double

NAME = "team/demo/20261126T030005Z-0123abcd"


def now() -> datetime:
    return datetime.now(UTC)


async def secrets(access: str = s3_double.ACCESS, secret: str = s3_double.SECRET) -> MemoryKubeClient:
    api = MemoryKubeClient()
    await api.create(NAMESPACE, {"metadata": {"name": "capn-system"}})
    data = {"access": base64.b64encode(access.encode()).decode(), "secret": base64.b64encode(secret.encode()).decode()}
    await api.create(SECRET, {"metadata": {"name": "s3", "namespace": "capn-system"}, "data": data})
    return api


def settings(endpoint: str, **changes: Any) -> S3Store:
    keys = {f"{key}_key": SecretKey(namespace="capn-system", name="s3", key=key) for key in ("access", "secret")}
    values = {"endpoint": endpoint, "bucket": "backups", "region": s3_double.REGION, "prefix": "some/where", **keys}
    return S3Store(**(values | changes))


def build_s3(double: S3Double, api: MemoryKubeClient, **changes: Any) -> Store:
    return StoreRegistry({"s": settings(double.endpoint, **changes)}, api, now).get("s")


@pytest.fixture
async def double() -> AsyncIterator[S3Double]:
    async with S3Double().running() as running:
        yield running


@pytest.fixture(params=["directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, double: S3Double) -> Store:
    if request.param == "directory":
        root = tmp_path / "store"
        root.mkdir()
        return StoreRegistry({"s": DirectoryStore(path=root)}, MemoryKubeClient(), now).get("s")
    return build_s3(double, await secrets())


def make_file(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "source"
    path.write_bytes(data)
    return path


async def read(store: Store, name: str) -> bytes:
    async with aclosing(store.read(name)) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_what_is_put_comes_back(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    await store.put(f"{NAME}.db", make_file(tmp_path, data))
    assert await read(store, f"{NAME}.db") == data
    await store.put(f"{NAME}.db", make_file(tmp_path, b"again"))
    assert await read(store, f"{NAME}.db") == b"again"


async def test_lists_hold_one_directory_in_order(store: Store, tmp_path: Path) -> None:
    assert await store.list("team/demo/") == []
    names = [f"team/demo/{number}.db" for number in range(5)]
    for name in [*reversed(names), "team/demo2/x.db", "team/y.db"]:
        await store.put(name, make_file(tmp_path, b"x"))
    assert await store.list("team/demo/") == names


async def test_deleting_is_for_good_and_twice_is_fine(store: Store, tmp_path: Path) -> None:
    await store.put(f"{NAME}.db", make_file(tmp_path, b"x"))
    await store.delete(f"{NAME}.db")
    await store.delete(f"{NAME}.db")
    assert await store.list("team/demo/") == []
    with pytest.raises(NotFoundError):
        await read(store, f"{NAME}.db")


def test_an_unknown_store_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    registry = StoreRegistry({"here": DirectoryStore(path=tmp_path)}, MemoryKubeClient(), now)
    with pytest.raises(
        InvalidSpecError, match=r"spec\.backup\.store: 'there' is no backup store .* known: here"
    ) as caught:
        registry.get("there")
    assert caught.value.reason == "BackupStoreNotFound"


async def test_a_directory_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    store = directory.DirectoryStore(tmp_path / "absent")
    with pytest.raises(TransientError, match="is not there or not mounted") as caught:
        await store.put(f"{NAME}.db", make_file(tmp_path, b"x"))
    assert caught.value.reason == "BackupStoreUnavailable"
    assert not (tmp_path / "absent").exists()


async def test_a_failed_write_leaves_nothing_and_a_dead_controllers_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    (root / "team/demo").mkdir(parents=True)
    (root / "team/demo/old.db.part").write_bytes(b"half")
    store = directory.DirectoryStore(root)
    assert await store.list("team/demo/") == []

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TransientError, match="No space left on device"):
            await store.put(f"{NAME}.db", make_file(tmp_path, b"x"))
    assert list((root / "team/demo").iterdir()) == []
    await store.put(f"{NAME}.db", make_file(tmp_path, b"x"))
    assert (root / f"{NAME}.db").stat().st_mode & 0o777 == 0o600
    assert (root / "team/demo").stat().st_mode & 0o777 in {0o700, 0o755}  # ours, or made before


async def test_a_name_does_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    store = directory.DirectoryStore(tmp_path)
    for name in ("../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(NotFoundError, match="is no name"):
            await read(store, name)


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ({"lifecycle": ""}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ({"max-keys": "2", "prefix": "J"}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_signatures_are_those_of_amazons_examples(query: dict[str, str], signature: str) -> None:
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    headers = sign(
        keys,
        datetime(2013, 5, 24, tzinfo=UTC),
        method="GET",
        host="examplebucket.s3.amazonaws.com",
        path="/",
        query=query,
        payload_sha256=EMPTY_SHA256,
    )
    assert headers["Authorization"].endswith(f"Signature={signature}")
    assert "SECRET" not in repr(keys)
    assert keys.secret_key not in repr(keys)


async def test_objects_are_below_the_prefix(double: S3Double, tmp_path: Path) -> None:
    await build_s3(double, await secrets()).put(f"{NAME}.db", make_file(tmp_path, b"x"))
    await build_s3(double, await secrets(), prefix="").put(f"{NAME}.db", make_file(tmp_path, b"x"))
    assert sorted(double.objects) == [f"some/where/{NAME}.db", f"{NAME}.db"]


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({}, "wrong", "the backup store refuses: SignatureDoesNotMatch"),
        ({"bucket": "absent"}, s3_double.SECRET, "the backup store refuses: NoSuchBucket"),
    ],
)
async def test_what_the_administrator_must_change(double: S3Double, changes: Any, key: str, text: str) -> None:
    with pytest.raises(ApiStatusError, match=text) as caught:
        await build_s3(double, await secrets(secret=key), **changes).list("team/demo/")
    assert caught.value.reason == "BackupStoreRefused"


@pytest.mark.parametrize(("status", "expected"), [(503, TransientError), (429, TransientError), (301, ApiStatusError)])
async def test_a_store_that_fails(double: S3Double, status: int, expected: type[CapnError], tmp_path: Path) -> None:
    double.fails = status
    with pytest.raises(expected):
        await build_s3(double, await secrets()).put(f"{NAME}.db", make_file(tmp_path, b"x"))
    assert double.objects == {}
    assert len(double.requests) == 1


async def test_a_store_that_is_not_there_and_a_secret_that_is_missing(double: S3Double) -> None:
    gone = S3Double(endpoint="http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"backup store at http://127\.0\.0\.1:9 does not answer") as caught:
        await build_s3(gone, await secrets()).list("a/")
    assert caught.value.reason == "BackupStoreUnavailable"
    with pytest.raises(TransientError, match="put the backup store's access key there") as missing:
        await build_s3(double, MemoryKubeClient()).list("a/")
    assert missing.value.reason == "SecretMissing"
