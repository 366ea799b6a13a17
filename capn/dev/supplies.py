"""What a development environment needs before it can start: third-party programs and the node image.

Role: chooses the source by the administrator's environment (`CAPN_DOWNLOAD_URL`, `CAPN_DEBIAN_MIRROR`) and puts things
into the cache. Must not: build what is there already.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from capn.errors import NotFoundError
from capn.image.build import ensure_image
from capn.image.containerdisk import build_containerdisk
from capn.image.kubevirt import ensure_kubevirt_images
from capn.parts.catalogue import CONTROL_PLANE_NAMES, DEFAULT_VERSION, select_parts
from capn.parts.download import DownloadSource
from capn.parts.ensure import ensure_parts, find_parts
from capn.parts.gobuild import GoBuildSource
from capn.parts.source import PartSource, PreferredSource, Report
from capn.providers.images import NodeImage
from capn.settings import IMAGE_GIB, cache_dir, debian_mirror

DOWNLOAD_VARIABLE = "CAPN_DOWNLOAD_URL"


def choose_source() -> PartSource:
    """Builds with Go; with a download address set, release binaries are taken from there where it has them."""
    built = GoBuildSource()
    base = os.environ.get(DOWNLOAD_VARIABLE)
    return PreferredSource(DownloadSource(base), built) if base else built


async def ensure_programs(
    report: Report, names: Sequence[str] = CONTROL_PLANE_NAMES, *, version: str = DEFAULT_VERSION
) -> dict[str, Path]:
    """Paths of these programs (empty: of all), made where missing."""
    parts = select_parts(names, version)
    return await ensure_parts(parts, source=choose_source(), cache=cache_dir(), report=report)


def find_programs(names: Sequence[str] = CONTROL_PLANE_NAMES, *, version: str = DEFAULT_VERSION) -> dict[str, Path]:
    """Paths of these programs. NotFoundError with the command that makes them when one is missing."""
    parts = select_parts(names, version)
    paths = find_parts(parts, source=choose_source(), cache=cache_dir())
    if missing := [part.name for part in parts if part.name not in paths]:
        raise NotFoundError(f"not in the cache: {', '.join(missing)}; run `capn parts build {' '.join(missing)}`")
    return paths


async def ensure_node_image(version: str, report: Report) -> NodeImage:
    """The node image for the version, built where missing (root)."""
    mirror = debian_mirror()
    image = await ensure_image(version, source=choose_source(), cache=cache_dir(), report=report, mirror=mirror)
    return NodeImage(
        version=image.version,
        digest=image.digest,
        disk=image.disk,
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.cmdline,
        minimum_disk_bytes=image.minimum_disk_bytes,
    )


async def ensure_kubevirt(report: Report) -> tuple[Path, Mapping[str, Path]]:
    """The archive with KubeVirt's images and its programs by name, made where missing (minutes, root)."""
    mirror = debian_mirror()
    return await ensure_kubevirt_images(source=choose_source(), cache=cache_dir(), report=report, mirror=mirror)


async def ensure_containerdisk(version: str, report: Report, *, disk_gib: int = IMAGE_GIB) -> Path:
    """The archive with the node image for the version as a container image, both made where missing (root)."""
    image = await ensure_node_image(version, report)
    return await build_containerdisk(image, cache=cache_dir(), report=report, disk_gib=disk_gib)
