"""Node images in the hypervisor's pool: found there, or uploaded once.

Role: an image is three volumes (disk, kernel, initrd) and a last small one that describes them. That one is written
when the others are complete, so an upload that was cut off has none and is done again. Every upload has volumes of its
own names, so two at once (a controller and `capn image push`) cannot write into one another's. Must not: change a
complete image.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import libvirt

from capn.build.libvirt_xml import build_volume_xml
from capn.providers.images import NodeImage
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.volumes import download_bytes, find_volume, upload_bytes, upload_file

_PREFIX = "capn-node-"
_SUFFIXES = (".qcow2", ".vmlinuz", ".initrd")
_DESCRIPTION = ".json"
_DESCRIPTION_LIMIT = 16 * 1024
_DIGEST_DIGITS = 12
# Readable by every QEMU of the hypervisor, since many machines share them; they hold no secret.
_MODE = "0644"
_TIME_DIGITS = 8
# An upload without a description that began longer ago than this was cut off: the largest takes minutes.
_CUT_OFF_AFTER_S = 2 * 60 * 60

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A complete image in the pool; paths are the hypervisor's."""

    name: str
    version: str
    cmdline: str
    minimum_disk_bytes: int
    disk_path: str
    kernel_path: str
    initrd_path: str


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload of an image. `mark`: when it began, in seconds since 1970, and chance, in hexadecimal digits.

    Earlier releases had no mark.
    """

    image: str
    mark: str = ""

    @classmethod
    def begin(cls, image: str) -> Upload:
        """A new one, that nobody else has."""
        return cls(image, f"{int(time.time()):0{_TIME_DIGITS}x}{secrets.token_hex(3)}")

    @classmethod
    def parse(cls, volume: str) -> Upload | None:
        """The upload that a volume belongs to, by its name; None if it is no image's."""
        suffix = next((end for end in (*_SUFFIXES, _DESCRIPTION) if volume.endswith(end)), None)
        if suffix is None or not volume.startswith(_PREFIX):
            return None
        version, dash, tail = volume[len(_PREFIX) : -len(suffix)].rpartition("-")  # versions have dots themselves
        digest, _, mark = tail.partition(".")
        return cls(f"{version}{dash}{digest}", mark)

    @property
    def began_at(self) -> int:
        """In seconds since 1970; 0 for one of an earlier release."""
        try:
            return int(self.mark[:_TIME_DIGITS], 16)
        except ValueError:
            return 0

    def volume(self, suffix: str) -> str:
        """Name of one of its volumes."""
        return f"{_PREFIX}{self.image}{f'.{self.mark}' if self.mark else ''}{suffix}"


def stored_name(image: NodeImage) -> str:
    """Name of an image in the pool, such as v1.37.2-0123456789ab."""
    return f"{image.version}-{image.digest[:_DIGEST_DIGITS]}"


def list_images(pool: libvirt.virStoragePool) -> list[str]:
    """Names of the complete images in the pool."""
    return sorted({upload.image for upload in _list_described(pool)})


def find_stored(session: Session, pool: libvirt.virStoragePool, name: str) -> StoredImage | None:
    """The complete image whose name, or whose version, is `name`; of several the one that was uploaded last."""
    for upload in sorted(_list_described(pool), key=lambda upload: (upload.began_at, upload.image), reverse=True):
        if upload.image == name or upload.image.startswith(f"{name}-"):
            stored = read_stored(session, pool, upload)
            if stored is not None and name in {stored.name, stored.version}:
                return stored
    return None


def read_stored(session: Session, pool: libvirt.virStoragePool, upload: Upload) -> StoredImage | None:
    """What an upload came to, if its description can be read and all of its volumes are there."""
    description = find_volume(pool, upload.volume(_DESCRIPTION))
    volumes = [find_volume(pool, upload.volume(suffix)) for suffix in _SUFFIXES]
    if description is None or not all(volumes):
        return None
    try:
        data = json.loads(download_bytes(session, description, _DESCRIPTION_LIMIT).rstrip(b"\0 \n"))
        version, cmdline, minimum = str(data["version"]), str(data["cmdline"]), int(data["minimumDiskBytes"])
    except (ValueError, KeyError, TypeError):
        return None  # cut off while it was written
    disk, kernel, initrd = (volume.path() for volume in volumes if volume is not None)
    return StoredImage(upload.image, version, cmdline, minimum, disk, kernel, initrd)


def upload_image(
    session: Session, pool: libvirt.virStoragePool, image: NodeImage, progress: Progress | None = None
) -> StoredImage:
    """Upload the image, unless it is there. `progress` gets bytes sent and bytes in all."""
    name = stored_name(image)
    _sweep(session, pool, name, before=time.time() - _CUT_OFF_AFTER_S)
    stored = find_stored(session, pool, name)
    if stored is not None:
        return stored
    upload = Upload.begin(name)
    try:
        _send(session, pool, upload, image, progress)
        stored = find_stored(session, pool, name)
        if stored is not None:
            _discard(pool, upload)  # somebody else was done first
            return stored
        _write_description(session, pool, upload, image)
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):  # what counts is why it failed; what is left is swept later
            _discard(pool, upload)
        raise
    stored = read_stored(session, pool, upload)
    if stored is None:  # pragma: no cover - somebody deletes volumes while we write them
        raise libvirt.libvirtError(f"image {name} vanished while it was uploaded")
    return stored


def _list_described(pool: libvirt.virStoragePool) -> list[Upload]:
    names = (volume.name() for volume in pool.listAllVolumes(0))
    found = (Upload.parse(name) for name in names if name.endswith(_DESCRIPTION))
    return [upload for upload in found if upload is not None]


def _sweep(session: Session, pool: libvirt.virStoragePool, name: str, *, before: float) -> None:
    """Delete what uploads of this image left that were cut off."""
    found = {Upload.parse(volume.name()) for volume in pool.listAllVolumes(0)}
    for upload in found:
        if upload is None or upload.image != name or upload.began_at >= before:
            continue
        if read_stored(session, pool, upload) is None:
            session.checkpoint()
            _discard(pool, upload)


def _discard(pool: libvirt.virStoragePool, upload: Upload) -> None:
    """Delete the volumes of an upload that came to nothing; by one who gave up as well, since nobody else has them."""
    for suffix in (_DESCRIPTION, *_SUFFIXES):
        volume = find_volume(pool, upload.volume(suffix))
        if volume is not None:
            volume.delete(0)


def _send(
    session: Session, pool: libvirt.virStoragePool, upload: Upload, image: NodeImage, progress: Progress | None
) -> None:
    files = dict(zip(_SUFFIXES, (image.disk, image.kernel, image.initrd), strict=True))
    total, sent = sum(path.stat().st_size for path in files.values()), 0

    def count(step: int) -> None:
        nonlocal sent
        sent += step
        if progress is not None:
            progress(sent, total)

    for suffix, path in files.items():
        session.checkpoint()
        xml = build_volume_xml(
            upload.volume(suffix), capacity_bytes=path.stat().st_size, volume_format="raw", mode=_MODE
        )
        upload_file(session, pool.createXML(xml, 0), path, count)


def _write_description(session: Session, pool: libvirt.virStoragePool, upload: Upload, image: NodeImage) -> None:
    text = json.dumps(
        {
            "version": image.version,
            "digest": image.digest,
            "cmdline": image.cmdline,
            "minimumDiskBytes": image.minimum_disk_bytes,
        }
    ).encode()
    session.checkpoint()
    xml = build_volume_xml(upload.volume(_DESCRIPTION), capacity_bytes=len(text), volume_format="raw", mode=_MODE)
    upload_bytes(session, pool.createXML(xml, 0), text)
