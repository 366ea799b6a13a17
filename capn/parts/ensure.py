"""Makes sure that parts are in the cache: builds or downloads what is missing, nothing else.

Role: cache layout, locking, atomicity and progress. Layout: `<cache>/parts/<name>/<version>-<digest>/<name>`.
Inputs: parts, a `PartSource`, the cache. Output: the path of each executable. Must not: change a finished part.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from capn.errors import NotFoundError
from capn.parts.catalogue import Part
from capn.parts.locks import file_lock
from capn.parts.source import PartSource, Report

_DIGEST_DIGITS = 12


def part_path(part: Part, *, source: PartSource, cache: Path) -> Path:
    """Where the part's executable is, or will be, in the cache."""
    directory = f"{part.version}-{source.digest(part)[:_DIGEST_DIGITS]}"
    return cache / "parts" / part.name / directory / part.name


def find_parts(parts: Sequence[Part], *, source: PartSource, cache: Path) -> dict[str, Path]:
    """The executables that are in the cache already, by part name. Builds nothing."""
    paths = {part.name: part_path(part, source=source, cache=cache) for part in parts}
    return {name: path for name, path in paths.items() if path.is_file()}


async def ensure_parts(parts: Sequence[Part], *, source: PartSource, cache: Path, report: Report) -> dict[str, Path]:
    """Paths of the parts' executables by name, made one after the other where missing; `report` gets their progress.

    Raises TerminalError, UnreachableError or NotFoundError from the source; parts made before the failure stay.
    """
    paths: dict[str, Path] = {}
    missing = [part for part in parts if not part_path(part, source=source, cache=cache).is_file()]
    for part in parts:
        path = part_path(part, source=source, cache=cache)
        if part in missing:
            label = f"[{missing.index(part) + 1}/{len(missing)}] {part.name} {part.version}"
            await _ensure_part(part, path, source=source, cache=cache, report=report, label=label)
        paths[part.name] = path
    return paths


async def _ensure_part(  # noqa: PLR0913 - one private step of ensure_parts
    part: Part, path: Path, *, source: PartSource, cache: Path, report: Report, label: str
) -> None:
    if not source.supports(part):
        raise NotFoundError(f"{part.name} {part.version}: the chosen source does not have it")
    lock = cache / "locks" / f"part-{part.name}-{path.parent.name}.lock"
    async with file_lock(lock, on_wait=lambda: report(f"{label}: waiting for another capn that makes it")):
        if _size_mib(path) is not None:
            return
        started = time.monotonic()
        report(f"{label}: started")
        await _make(part, path, source)
        report(f"{label}: done in {time.monotonic() - started:.0f} s ({_size_mib(path) or 0:.0f} MiB)")


def _size_mib(path: Path) -> float | None:
    return path.stat().st_size / 2**20 if path.is_file() else None


async def _make(part: Part, path: Path, source: PartSource) -> None:
    """Make the part in a directory beside its final one and rename: a part that is there is whole."""
    unfinished = path.parent.with_name(f".{path.parent.name}.{secrets.token_hex(4)}")
    unfinished.mkdir(parents=True)
    try:
        await source.fetch(part, unfinished / part.name)
        if not os.access(unfinished / part.name, os.X_OK):
            raise NotFoundError(f"{part.name}: the source ended well but left no executable")
        unfinished.rename(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
