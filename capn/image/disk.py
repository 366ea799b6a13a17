"""Makes the disk of a node image: an ext4 file system on the whole disk, as qcow2.

Role: sizes and the calls of mke2fs and qemu-img. Input: the root file system's directory. Output: a qcow2 file.
Must not: need loop devices or mounts.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from capn.image.debian import REASON
from capn.parts.process import run

_BLOCK_BYTES = 4096
_ROUND_BYTES = 64 << 20
_INODES_PER_EXTRA = 65536
# Fixed, so that two builds of the same content give the same disk; machines are told apart by their machine-id.
_UUID = "3b7c1d52-6c1e-4a53-9f55-0c6e7c61706e"


def measure_tree(root: Path) -> tuple[int, int]:
    """Bytes in whole blocks and number of inodes that the tree takes on a file system; hard links count once."""
    seen: set[int] = set()
    size = 0
    for directory, _, names in os.walk(root):
        for path in (Path(directory), *(Path(directory, name) for name in names)):
            status = path.lstat()
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                size += max(1, -(-status.st_size // _BLOCK_BYTES)) * _BLOCK_BYTES
    return size, len(seen)


def compute_disk_bytes(content_bytes: int, headroom_bytes: int) -> int:
    """Size of the disk: the content, 6 % and 64 MiB for the file system itself, and the headroom; whole 64 MiB."""
    needed = content_bytes + content_bytes * 6 // 100 + _ROUND_BYTES + headroom_bytes
    return -(-needed // _ROUND_BYTES) * _ROUND_BYTES


async def write_disk(root: Path, target: Path, *, headroom_bytes: int, work: Path) -> int:
    """Write the tree at `root` to the qcow2 `target`; returns the disk's size in bytes. Raises TerminalError."""
    content_bytes, inodes = measure_tree(root)
    disk_bytes = compute_disk_bytes(content_bytes, headroom_bytes)
    raw = work / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(disk_bytes)
    options = ["-t", "ext4", "-q", "-F", "-m", "0", "-L", "capn-root", "-U", _UUID, "-b", str(_BLOCK_BYTES)]
    extended = f"lazy_itable_init=1,lazy_journal_init=1,hash_seed={_UUID},root_owner=0:0"
    counts = ["-N", str(2 * inodes + _INODES_PER_EXTRA), "-E", extended]
    made = await run(["mke2fs", *options, *counts, "-d", str(root), str(raw)], env={"E2FSPROGS_FAKE_TIME": "1"})
    made.require_success("making the node's file system", reason=REASON)
    converted = await run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-W", str(raw), str(target)])
    converted.require_success("writing the node's disk", reason=REASON)
    raw.unlink()
    return disk_bytes
