"""A directory as backup store: on a disk, or a volume that is mounted into the controller's pod.

Role: files are written under another name, synced and renamed, so that a crash leaves none that looks finished. Must
not: touch anything outside its directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from capn.errors import NotFoundError, TransientError

T = TypeVar("T")

_PART = ".part"
_PIECE = 1 << 20


class DirectoryStore:
    """Files below `root`, which must exist: one that is not mounted must not be filled in its place."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, name: str, source: Path) -> None:
        """Copy, sync, rename."""
        await self._run(lambda: self._put(self._path(name), source))

    async def read(self, name: str) -> AsyncGenerator[bytes, None]:
        """The file, piece by piece; open only while a piece is read, so that whoever gives up leaves none open."""
        path, offset = self._path(name), 0
        try:
            while piece := await self._run(partial(self._read_piece, path, offset)):
                offset += len(piece)
                yield piece
        except FileNotFoundError as error:
            raise NotFoundError(f"the backup store has no {name}") from error

    async def list(self, directory: str) -> list[str]:
        """Finished files only."""

        def find() -> list[str]:
            found = self._path(directory).glob("*")
            return sorted(directory + path.name for path in found if path.is_file() and path.suffix != _PART)

        return await self._run(find)

    async def delete(self, name: str) -> None:
        """Remove the file."""
        await self._run(lambda: self._path(name).unlink(missing_ok=True))

    @staticmethod
    def _read_piece(path: Path, offset: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_PIECE)

    def _put(self, target: Path, source: Path) -> None:
        if not self._root.is_dir():
            raise FileNotFoundError(2, "is not there or not mounted", str(self._root))
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_name(target.name + _PART)
        for left in target.parent.glob(f"*{_PART}"):  # of a controller that died; a cluster has one backup at a time
            left.unlink(missing_ok=True)
        try:
            with open(part, "xb", opener=_open_private) as file, source.open("rb") as content:
                shutil.copyfileobj(content, file, _PIECE)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
            _sync_directory(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def _path(self, name: str) -> Path:
        if ".." in name.split("/") or name.startswith("/"):
            raise NotFoundError(f"{name} is no name in a backup store")
        return self._root / name

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except FileNotFoundError as error:
            if error.filename == str(self._root):
                raise self._explain(error) from error
            raise
        except OSError as error:
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> TransientError:
        message = f"the backup store's directory {self._root}: {error.strerror}"
        return TransientError(message, reason="BackupStoreUnavailable")


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)  # a snapshot holds the child's Secrets


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
