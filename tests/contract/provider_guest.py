"""A guest of a few hundred bytes: a 'kernel' that says the same report on its serial port, for ever.

Real-mode code in the form that QEMU's direct kernel boot takes (Documentation/arch/x86/boot.rst, protocol 2.02). It
boots in a second even under emulation, so the contract can be checked with VMs that are real and yet cost nothing.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from capn.build.report import Report, ReportState, encode_report
from capn.providers.images import NodeImage

_SECTOR = 512
_SETUP_SECTORS = 8
_CODE_AT = 0x280
_MESSAGE_AT = 0x300
REPORT = Report(stage="kubeadm/etcd", state=ReportState.RUNNING, seq=7)

_CODE = bytes.fromhex(
    "fb"  # sti: the BIOS timer wakes the waits below
    "be0003"  # mov si, message
    "ac"  # next: lodsb
    "84c0"  # test al, al
    "7412"  # jz done
    "88c4"  # mov ah, al
    "bafd03"  # wait: mov dx, line status register
    "ec"  # in al, dx
    "a820"  # test al, transmitter empty
    "74f8"  # jz wait
    "baf803"  # mov dx, transmit register
    "88e0"  # mov al, ah
    "ee"  # out dx, al
    "ebe9"  # jmp next
    "b90900"  # done: mov cx, 9 ticks of 55 ms
    "f4"  # tick: hlt
    "e2fd"  # loop tick
    "ebde"  # jmp message
)


def build_kernel(message: bytes) -> bytes:
    """The 'kernel' that repeats `message` twice a second."""
    setup = bytearray(_SECTOR * (1 + _SETUP_SECTORS))
    setup[0x1F1] = _SETUP_SECTORS
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = bytes([0xEB, _CODE_AT - 0x202])  # jmp over the header
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x0202)
    setup[0x211] = 1  # loaded high
    setup[_CODE_AT : _CODE_AT + len(_CODE)] = _CODE
    setup[_MESSAGE_AT : _MESSAGE_AT + len(message) + 1] = message + b"\0"
    return bytes(setup) + bytes(_SECTOR)


def build_image(directory: Path, *, version: str = "v1.99.0", digest: str = "ab" * 32) -> NodeImage:
    """A complete node image around that guest: an empty disk and an initial RAM disk that nobody reads."""
    directory.mkdir(parents=True, exist_ok=True)
    disk, kernel, initrd = directory / "disk.qcow2", directory / "vmlinuz", directory / "initrd.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True)
    kernel.write_bytes(build_kernel(encode_report(REPORT)))
    initrd.write_bytes(bytes(_SECTOR))
    return NodeImage(
        version=version, digest=digest, disk=disk, kernel=kernel, initrd=initrd, cmdline="console=ttyS0",
        minimum_disk_bytes=1 << 30,
    )  # fmt: skip
