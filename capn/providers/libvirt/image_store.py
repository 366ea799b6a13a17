"""Node images in the hypervisor's pool: found there, or uploaded once.

Role: an image is three volumes (disk, kernel, initrd) and a last small one that describes them. That one is written
when the others are complete, so an upload that was cut off has none and is done again. Must not: change a complete
image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt

from capn.build.libvirt_xml import build_volume_xml
from capn.providers.images import NodeImage
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.volumes import delete_volume, download_bytes, find_volume, upload_bytes, upload_file

_PREFIX = "capn-node-"
_DESCRIPTION = ".json"
_DESCRIPTION_LIMIT = 16 * 1024
_DIGEST_DIGITS = 12
# Readable by every QEMU of the hypervisor, since many machines share them; they hold no secret.
_MODE = "0644"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A complete image in the pool; paths are the hypervisor's."""

    name: str
    cmdline: str
    minimum_disk_bytes: int
    disk_path: str
    kernel_path: str
    initrd_path: str


def image_stem(image: NodeImage) -> str:
    """Common part of the names of an image's volumes."""
    return f"{_PREFIX}{image.version}-{image.digest[:_DIGEST_DIGITS]}"


def list_images(pool: libvirt.virStoragePool) -> list[str]:
    """Names of the complete images in the pool, such as v1.37.2-0123456789ab."""
    volumes = [volume.name() for volume in pool.listAllVolumes(0)]
    return sorted(
        name[len(_PREFIX) : -len(_DESCRIPTION)]
        for name in volumes
        if name.startswith(_PREFIX) and name.endswith(_DESCRIPTION)
    )


def find_stored(session: Session, pool: libvirt.virStoragePool, name: str) -> StoredImage | None:
    """The complete image whose name, or whose version, is `name`; of several versions the last by name."""
    matching = [entry for entry in list_images(pool) if entry == name or entry.startswith(f"{name}-")]
    for entry in reversed(matching):
        if (stored := read_stored(session, pool, _PREFIX + entry)) is not None:
            return stored
    return None


def read_stored(session: Session, pool: libvirt.virStoragePool, stem: str) -> StoredImage | None:
    """The image of that stem if its description can be read and all of its volumes are there."""
    description = find_volume(pool, stem + _DESCRIPTION)
    volumes = [find_volume(pool, stem + suffix) for suffix in _SUFFIXES]
    if description is None or not all(volumes):
        return None
    try:
        data = json.loads(download_bytes(session, description, _DESCRIPTION_LIMIT).rstrip(b"\0 \n"))
        cmdline, minimum = str(data["cmdline"]), int(data["minimumDiskBytes"])
    except (ValueError, KeyError, TypeError):
        return None  # cut off while it was written
    disk, kernel, initrd = (volume.path() for volume in volumes if volume is not None)
    return StoredImage(stem.removeprefix(_PREFIX), cmdline, minimum, disk, kernel, initrd)


_SUFFIXES = (".qcow2", ".vmlinuz", ".initrd")


def upload_image(
    session: Session, pool: libvirt.virStoragePool, image: NodeImage, progress: Progress | None = None
) -> StoredImage:
    """Upload the image, unless it is there. `progress` gets bytes sent and bytes in all."""
    stem = image_stem(image)
    stored = read_stored(session, pool, stem)
    if stored is not None:
        return stored
    files = dict(zip(_SUFFIXES, (image.disk, image.kernel, image.initrd), strict=True))
    total, sent = sum(path.stat().st_size for path in files.values()), 0

    def count(step: int) -> None:
        nonlocal sent
        sent += step
        if progress is not None:
            progress(sent, total)

    delete_volume(session, pool, stem + _DESCRIPTION)
    for suffix, path in files.items():
        _upload(session, pool, stem + suffix, path, count)
    _write_description(session, pool, stem, image)
    stored = read_stored(session, pool, stem)
    if stored is None:  # pragma: no cover - somebody deletes volumes while we write them
        raise libvirt.libvirtError(f"image {stem} vanished while it was uploaded")
    return stored


def _upload(
    session: Session, pool: libvirt.virStoragePool, name: str, path: Path, count: Callable[[int], None]
) -> None:
    delete_volume(session, pool, name)
    session.checkpoint()
    xml = build_volume_xml(name, capacity_bytes=path.stat().st_size, volume_format="raw", mode=_MODE)
    pool.createXML(xml, 0)
    upload_file(session, pool.storageVolLookupByName(name), path, count)


def _write_description(session: Session, pool: libvirt.virStoragePool, stem: str, image: NodeImage) -> None:
    text = json.dumps(
        {
            "version": image.version,
            "digest": image.digest,
            "cmdline": image.cmdline,
            "minimumDiskBytes": image.minimum_disk_bytes,
        }
    ).encode()
    name = stem + _DESCRIPTION
    session.checkpoint()
    pool.createXML(build_volume_xml(name, capacity_bytes=len(text), volume_format="raw", mode=_MODE), 0)
    upload_bytes(session, pool.storageVolLookupByName(name), text)
