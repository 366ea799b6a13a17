from __future__ import annotations

import stat
from pathlib import Path

import pytest

from capn.errors import NotFoundError
from capn.image import recipe
from capn.image.initrd import CpioEntry, build_initrd, encode_cpio, resolve_modules


def decode_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read the format back, from its description rather than from the encoder."""
    entries: dict[str, tuple[int, bytes]] = {}
    offset = 0
    while True:
        assert data[offset : offset + 6] == b"070701"
        fields = [int(data[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[offset + 110 : offset + 110 + name_size - 1].decode()
        start = (offset + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, data[start : start + size])
        offset = (start + size + 3) // 4 * 4


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    directory = tmp_path / "modules"
    directory.mkdir()
    (directory / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n")
    (directory / "modules.dep").write_text(
        "kernel/virtio/virtio_blk.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko\n"
        "kernel/virtio/virtio_pci.ko: kernel/virtio/virtio-modern.ko "
        "kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko\n"
        "kernel/virtio/virtio-modern.ko:\n"
        "kernel/virtio/virtio_ring.ko: kernel/virtio/virtio.ko\n"
        "kernel/virtio/virtio.ko:\n"
    )
    (directory / "kernel/virtio").mkdir(parents=True)
    for name in ("virtio_blk", "virtio_pci", "virtio-modern", "virtio_ring", "virtio"):
        (directory / f"kernel/virtio/{name}.ko").write_bytes(name.encode())
    return directory


def test_dependencies_are_loaded_first_and_once(modules: Path) -> None:
    files = resolve_modules(("virtio_pci", "virtio_blk", "ext4"), modules)
    assert [file.stem for file in files] == ["virtio", "virtio_ring", "virtio-modern", "virtio_pci", "virtio_blk"]


def test_dashes_and_underscores_are_the_same(modules: Path) -> None:
    assert [file.name for file in resolve_modules(("virtio_modern",), modules)] == ["virtio-modern.ko"]


def test_an_unknown_module_is_an_error(modules: Path) -> None:
    with pytest.raises(NotFoundError, match="has no module zfs"):
        resolve_modules(("zfs",), modules)


def test_the_archive_holds_what_the_script_needs(modules: Path, tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"ELF")
    archive = build_initrd(busybox=busybox, init=recipe.INITRD_SCRIPT, modules_dir=modules)
    entries = decode_cpio(archive)
    assert entries["bin/busybox"] == (stat.S_IFREG | 0o755, b"ELF")
    assert entries["init"] == (stat.S_IFREG | 0o755, recipe.INITRD_SCRIPT.read_bytes())
    loaded = sorted(name for name in entries if name.startswith("modules/"))
    assert loaded[0] == "modules/00-virtio.ko"
    assert loaded[-1] == "modules/04-virtio_blk.ko"
    directories = {name for name, (mode, _) in entries.items() if stat.S_ISDIR(mode)}
    assert {"dev", "proc", "sys", "root"} <= directories  # where the script mounts
    assert archive == build_initrd(busybox=busybox, init=recipe.INITRD_SCRIPT, modules_dir=modules)


@pytest.mark.parametrize("size", range(6))
def test_contents_of_any_length_are_aligned(size: int) -> None:
    entries = [CpioEntry("a" * (size + 1), stat.S_IFREG | 0o644, b"x" * size), CpioEntry("b", stat.S_IFREG, b"last")]
    assert decode_cpio(encode_cpio(entries)) == {entry.path: (entry.mode, entry.content) for entry in entries}
