"""Debian root file systems by mmdebstrap, kept in the cache as tar files.

Role: one function. Inputs: packages and a variant. Output: a tar in `<cache>/images/base/`, made when missing.
Must not: run as part of a test; the later steps of the build remove what mmdebstrap copies from the host.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capn.image.recipe import EXCLUDED_PATHS, SUITE
from capn.parts.locks import file_lock
from capn.parts.process import run
from capn.parts.source import Report

REASON = "ImageBuildFailed"
_MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
_REPRODUCIBLE = {
    "SOURCE_DATE_EPOCH": "0",
    "INITRD": "No",  # the kernel's package would build Debian's initial RAM disk; we have our own
}


@dataclass(frozen=True)
class DebianBase:
    """Some packages. `configured` runs their maintainer scripts (a bootable system), else they are only unpacked."""

    name: str
    packages: tuple[str, ...]
    configured: bool
    suite: str = SUITE

    def argv(self, target: Path, mirror: str | None) -> list[str]:
        """The mmdebstrap command; without a mirror it takes Debian's own."""
        variant = ["--variant=minbase"] if self.configured else ["--variant=extract", f"--hook-dir={_MERGED_USR}"]
        excluded = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED_PATHS]
        options = ["--mode=root", "--quiet", f"--include={','.join(self.packages)}"]
        return ["mmdebstrap", *variant, *options, *excluded, self.suite, str(target), *([mirror] if mirror else [])]

    def digest(self) -> str:
        """Hex digest of what decides the content (not of the day: packages are as new as the build)."""
        return hashlib.sha256(repr((self, EXCLUDED_PATHS)).encode()).hexdigest()


async def ensure_base(base: DebianBase, *, cache: Path, mirror: str | None, report: Report) -> Path:
    """Path of the base's tar, made if missing. Raises TerminalError with mmdebstrap's last lines."""
    target = cache / "images" / "base" / f"{base.name}-{base.digest()[:12]}.tar"
    lock = cache / "locks" / f"image-base-{target.stem}.lock"
    async with file_lock(lock, on_wait=lambda: report(f"debian base {base.name}: waiting for another capn")):
        if not target.is_file():
            report(f"debian base {base.name}: {len(base.packages)} packages and what they need")
            await _make(base, target, mirror)
    return target


async def _make(base: DebianBase, target: Path, mirror: str | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        finished = await run(base.argv(unfinished, mirror), env=_REPRODUCIBLE)
        finished.require_success(f"Debian base {base.name}", reason=REASON)
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)


def package_list(architecture: str, packages: Sequence[str]) -> tuple[str, ...]:
    """The packages and the small kernel for virtual machines of this architecture."""
    return (*packages, f"linux-image-cloud-{architecture}")
