"""Packs a node image as a container image that KubeVirt boots: the disk, and its kernel and initial RAM disk.

Role: one OCI archive, for a containerDisk and for kernelBoot alike. Inputs: a `NodeImage`, the cache. Output:
`<cache>/images/containerdisk/<version>-<digest>.tar`. Needs no root. Must not: change the node image.
Format: https://kubevirt.io/user-guide/storage/disks_and_volumes/#containerdisk - the one file in /disk, owner qemu.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
from pathlib import Path

from capn.build.kubevirt_objects import INITRD_PATH, KERNEL_PATH
from capn.errors import InvalidSpecError
from capn.image import oci
from capn.image.catalogue import DISK_NAME, KEPT
from capn.image.debian import REASON
from capn.image.kubevirt_recipe import QEMU_ID
from capn.image.rootfs import remove_path
from capn.parts.download import host_architecture
from capn.parts.locks import file_lock
from capn.parts.process import run
from capn.parts.source import Report
from capn.providers.images import NodeImage
from capn.settings import IMAGE_GIB

REPOSITORY = "capn.dev/node"
_FILE_MODE = 0o440


def containerdisk_name(version: str) -> str:
    """The container image's name for a Kubernetes version, such as `v1.37.2`."""
    return f"{REPOSITORY}:{version}"


async def build_containerdisk(image: NodeImage, *, cache: Path, report: Report, disk_gib: int = IMAGE_GIB) -> Path:
    """The archive for this node image, made if missing (it copies the disk twice: seconds).

    InvalidSpecError when the node image does not fit on a disk of that size.
    """
    if disk_gib << 30 < image.minimum_disk_bytes:
        least = -(-image.minimum_disk_bytes >> 30)
        raise InvalidSpecError("--disk-gib", f"the node image needs {least} GiB at least")
    target = cache / "images" / "containerdisk" / f"{image.version}-{_digest(image, disk_gib)[:12]}.tar"
    lock = cache / "locks" / f"containerdisk-{target.stem}.lock"
    async with file_lock(lock, on_wait=lambda: report("containerDisk: waiting for another capn")):
        if not target.is_file():
            report(f"containerDisk {containerdisk_name(image.version)} of the node image {image.digest[:12]}")
            await _write(image, target, disk_gib)
            report(f"containerDisk: {target.stat().st_size / 2**30:.2f} GiB")
            _prune(target.parent, image.version)
    return target


def _prune(directory: Path, version: str) -> None:
    """Keep as many archives as there are node images (and as many again for the other size)."""
    archives = sorted(directory.glob(f"{version}-*.tar"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in archives[2 * KEPT :]:
        path.unlink(missing_ok=True)


def _digest(image: NodeImage, disk_gib: int) -> str:
    """Hex digest of the node image and of the code that packs it."""
    digest = hashlib.sha256(f"{image.digest} {KERNEL_PATH} {INITRD_PATH} {disk_gib}".encode())
    for module in (__file__, str(oci.__file__)):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


async def _write(image: NodeImage, target: Path, disk_gib: int) -> None:
    work = target.parent / f".work-{secrets.token_hex(4)}"
    work.mkdir(parents=True)
    try:
        disk = work / DISK_NAME
        await asyncio.to_thread(shutil.copyfile, image.disk, disk)
        grown = await run(["qemu-img", "resize", "-q", "-f", "qcow2", str(disk), f"{disk_gib}G"])
        grown.require_success("enlarging the disk of the node image", reason=REASON)
        await asyncio.to_thread(_pack, image, disk, work)
        (work / "archive.tar").rename(target)
    finally:
        remove_path(work)


def _pack(image: NodeImage, disk: Path, work: Path) -> None:
    boot = {KERNEL_PATH: image.kernel, INITRD_PATH: image.initrd}
    entries = [_entry(f"/disk/{DISK_NAME}", disk), *(_entry(path, file) for path, file in boot.items())]
    layer = oci.write_layer(entries, work / "layer.tar")
    packed = oci.OciImage(containerdisk_name(image.version), (layer,))
    oci.write_archive([packed], work / "archive.tar", architecture=host_architecture())


def _entry(path: str, source: Path) -> oci.LayerEntry:
    return oci.LayerEntry(path.removeprefix("/"), source=source, mode=_FILE_MODE, owner=QEMU_ID)
