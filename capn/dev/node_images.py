"""The images that every node has from the start: the sandbox, CoreDNS and a toolbox for people and tests.

Role: one OCI archive in the cache, made when missing, named by what is in it. Inputs: programs, busybox from the Debian
layer that node images use as well. Must not: need a registry, or a running containerd.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from capn.dev.node_files import PAUSE_IMAGE
from capn.errors import NotFoundError
from capn.image.debian import DebianBase, ensure_base
from capn.image.images import TOOLBOX_APPLETS, TOOLBOX_IMAGE, build_toolbox
from capn.image.oci import Layer, LayerEntry, OciImage, write_archive, write_layer
from capn.image.recipe import NETWORK_PACKAGES
from capn.parts.download import host_architecture
from capn.parts.locks import file_lock
from capn.parts.source import Report
from capn.settings import cache_dir, debian_mirror

COREDNS_IMAGE = "capn.dev/coredns:1"
_FORMAT = 1
_BUSYBOX = "./usr/bin/busybox"


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """An OCI archive and the names of the images in it."""

    path: Path
    images: tuple[str, ...]


async def ensure_base_images(programs: Mapping[str, Path], report: Report) -> ImageArchive:
    """The archive with sandbox, CoreDNS and toolbox; made when the cache does not hold it."""
    cache = cache_dir()
    base = DebianBase("network", NETWORK_PACKAGES, configured=False)
    inputs = (_FORMAT, str(programs["pause"].parent.name), programs["coredns"].parent.name, base.digest())
    digest = hashlib.sha256(repr((*inputs, TOOLBOX_APPLETS)).encode()).hexdigest()
    target = cache / "images" / "base" / f"parent-node-{digest[:12]}.tar"
    archive = ImageArchive(target, (PAUSE_IMAGE, COREDNS_IMAGE, TOOLBOX_IMAGE))
    lock = cache / "locks" / "image-parent-node.lock"
    async with file_lock(lock, on_wait=lambda: report("node's images: waiting for another capn")):
        if not target.is_file():
            tar = await ensure_base(base, cache=cache, mirror=debian_mirror(), report=report)
            report("writing the node's own images")
            _write(programs, tar, target)
    return archive


def _write(programs: Mapping[str, Path], base: Path, target: Path) -> None:
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    work.mkdir()
    try:
        busybox = _extract(base, work / "busybox")
        images = (
            OciImage(PAUSE_IMAGE, (_layer(programs["pause"], work),), entrypoint=("/pause",)),
            OciImage(COREDNS_IMAGE, (_layer(programs["coredns"], work),), entrypoint=("/coredns",)),
            build_toolbox(busybox, work / "toolbox.tar"),
        )
        write_archive(images, work / "images.tar", architecture=host_architecture())
        (work / "images.tar").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _layer(program: Path, work: Path) -> Layer:
    return write_layer([LayerEntry(program.name, source=program)], work / f"{program.name}.tar")


def _extract(base: Path, target: Path) -> Path:
    with tarfile.open(base) as archive:
        for member in archive:
            if member.name == _BUSYBOX and (file := archive.extractfile(member)):
                with target.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
                return target
    raise NotFoundError(f"{base} holds no {_BUSYBOX}: delete it, it is made anew")
