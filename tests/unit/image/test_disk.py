from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from capn.image.disk import compute_disk_bytes, measure_tree, write_disk

MIB = 1 << 20


def output(*argv: str | Path) -> bytes:
    return subprocess.run(argv, check=True, capture_output=True).stdout


def test_the_tree_is_measured_in_blocks_and_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(b"x" * 5000)
    os.link(tmp_path / "large", tmp_path / "same")
    (tmp_path / "link").symlink_to("nowhere")
    size, inodes = measure_tree(tmp_path)
    directory = max(1, -(-tmp_path.stat().st_size // 4096)) * 4096
    assert size == directory + 4096 + 8192
    assert inodes == 4


@pytest.mark.parametrize("content_mib", [0, 1, 1000, 1900])
def test_the_disk_has_room_for_content_and_headroom(content_mib: int) -> None:
    size = compute_disk_bytes(content_mib * MIB, 1024 * MIB)
    assert size % (64 * MIB) == 0
    assert size >= (content_mib + 1024 + 64) * MIB
    assert size <= (content_mib * 1.06 + 1024 + 64 + 64) * MIB


@pytest.mark.skipif(not (shutil.which("mke2fs") and shutil.which("qemu-img")), reason="needs e2fsprogs and qemu-utils")
async def test_a_tree_becomes_a_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "hello").write_text("hello\n")
    target = tmp_path / "disk.qcow2"
    size = await write_disk(root, target, headroom_bytes=64 * MIB, work=tmp_path)
    info = json.loads(output("qemu-img", "info", "--output=json", target))
    assert (info["format"], info["virtual-size"]) == ("qcow2", size)
    assert info["actual-size"] < size / 2  # holes stay holes
    assert not (tmp_path / "disk.raw").exists()
    output("qemu-img", "convert", "-O", "raw", target, tmp_path / "raw")
    assert output("debugfs", "-R", "cat /hello", tmp_path / "raw") == b"hello\n"
    output("e2fsck", "-fn", tmp_path / "raw")  # status 0: nothing to repair
