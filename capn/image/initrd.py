"""Builds the initial RAM disk: busybox, the drivers of the root disk and a script that hands over to systemd.

Role: a cpio archive of about 2 MiB ("newc": early-userspace/buffer-format.rst in the kernel documentation).
Debian's own would be ten times as large, run udev, and take seconds to unpack where the processor is emulated.
Must not: be compressed (unpacking costs more than reading), or differ between two runs on the same inputs.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from capn.errors import NotFoundError

# What the root disk needs; modules that the kernel has built in are skipped.
ROOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
_DIRECTORIES = ("bin", "dev", "modules", "proc", "root", "sys")
_ALIGNMENT = 4


@dataclass(frozen=True)
class CpioEntry:
    """One path of the archive; `mode` includes the file type."""

    path: str
    mode: int
    content: bytes = b""


def build_initrd(*, busybox: Path, init: Path, modules_dir: Path) -> bytes:
    """Build the archive from a static busybox, the script for PID 1 and `/lib/modules/<release>` of the kernel."""
    entries = [CpioEntry(path, stat.S_IFDIR | 0o755) for path in _DIRECTORIES]
    entries.append(CpioEntry("init", stat.S_IFREG | 0o755, init.read_bytes()))
    entries.append(CpioEntry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    for number, module in enumerate(resolve_modules(ROOT_MODULES, modules_dir)):
        # The script loads them in the order of their names: dependencies first.
        path = f"modules/{number:02d}-{module.name}"
        entries.append(CpioEntry(path, stat.S_IFREG | 0o644, module.read_bytes()))
    return encode_cpio(entries)


def resolve_modules(names: tuple[str, ...], modules_dir: Path) -> list[Path]:
    """Files of the modules and all that they depend on, in loading order. Raises NotFoundError for an unknown name."""
    dependencies = _read_dependencies(modules_dir / "modules.dep")
    built_in = {_module_name(line) for line in (modules_dir / "modules.builtin").read_text().splitlines()}
    ordered: list[str] = []
    for name in names:
        if name in built_in:
            continue
        path = next((path for path in dependencies if _module_name(path) == name), None)
        if path is None:
            raise NotFoundError(f"the kernel in {modules_dir} has no module {name}")
        # modules.dep lists a module's dependencies nearest first, so loading goes from the last to the first.
        ordered.extend(item for item in (*reversed(dependencies[path]), path) if item not in ordered)
    return [modules_dir / path for path in ordered]


def _read_dependencies(path: Path) -> dict[str, list[str]]:
    rows = (line.partition(":") for line in path.read_text().splitlines() if line)
    return {module: dependencies.split() for module, _, dependencies in rows}


def _module_name(path: str) -> str:
    return Path(path).name.split(".ko")[0].replace("-", "_")


def encode_cpio(entries: list[CpioEntry]) -> bytes:
    """Encode entries in the newc format: owner root, time zero."""
    parts = [_encode_entry(number, entry) for number, entry in enumerate(entries, start=1)]
    return b"".join([*parts, _encode_entry(0, CpioEntry("TRAILER!!!", 0))])


def _encode_entry(inode: int, entry: CpioEntry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, check sum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(f"{value:08x}".encode() for value in fields)
    return _pad(header + name) + _pad(entry.content)


def _pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
