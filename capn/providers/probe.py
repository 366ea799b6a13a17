"""Finds out whether virtual machines really run here, with KVM and by software emulation.

Role: boots a stock kernel without a root disk, under a time limit, and looks for the panic that every such boot ends
in. /dev/kvm can exist and be unusable (QEMU aborts, or the kernel hangs half way), and a boot sector can run where a
kernel does not: only a kernel that gets to its end is proof. Inputs: a kernel, such as a node image's. Outputs:
`ProbeResult`s. Must not: need libvirt, write a file, or leave a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Accel = Literal["kvm", "emulate"]

# A kernel is at its end after 1 s with KVM and 5 to 10 s by emulation on an idle machine.
TIMEOUT_S: dict[Accel, float] = {"kvm": 15.0, "emulate": 90.0}
_CPU: dict[Accel, str] = {"kvm": "host", "emulate": "max"}  # what the domains get too
_MEMORY_MIB = 192
_COMMAND_LINE = "console=ttyS0 panic=-1 root=/dev/none"
_REACHED = b"Kernel panic - not syncing: VFS"
_BEGAN = b"Linux version"
_DEVICE = Path("/dev/kvm")
_NOISE = re.compile(r"^qemu-system-\w+: (?:error: |warning: )?")
_DETAIL_LIMIT = 160


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether `accel` works, after how many seconds that was known, and why not."""

    accel: Accel
    works: bool
    seconds: float
    detail: str

    def __str__(self) -> str:
        """One line for people."""
        name = "KVM" if self.accel == "kvm" else "software emulation"
        verdict = "works" if self.works else "does not work"
        return f"{name} {verdict} ({self.seconds:.1f} s): {self.detail}"


def find_kernel(candidates: Sequence[Path] = ()) -> Path | None:
    """The first kernel of `candidates` that can be read, or else the host's own newest."""
    for path in (*candidates, *sorted(Path("/boot").glob("vmlinuz*"), reverse=True)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if file.read(1):
                return path
    return None


def choose_accel(results: Sequence[ProbeResult]) -> Accel | None:
    """KVM if it works, else emulation if that works, else None."""
    working = {result.accel for result in results if result.works}
    if "kvm" in working:
        return "kvm"
    return "emulate" if "emulate" in working else None


async def probe_all(kernel: Path | None, *, qemu: str = "qemu-system-x86_64") -> list[ProbeResult]:
    """Probe KVM, then emulation; one after the other, so that neither slows the other down."""
    return [await probe("kvm", kernel, qemu=qemu), await probe("emulate", kernel, qemu=qemu)]


async def probe(
    accel: Accel, kernel: Path | None, *, qemu: str = "qemu-system-x86_64", timeout_s: float | None = None
) -> ProbeResult:
    """Boot `kernel` and say what came of it. Never raises for what the host lacks: that is the answer."""
    limit_s = TIMEOUT_S[accel] if timeout_s is None else timeout_s
    started = time.monotonic()

    def result(detail: str, *, works: bool = False) -> ProbeResult:
        return ProbeResult(accel, works, time.monotonic() - started, detail)

    if accel == "kvm" and not _DEVICE.exists():  # noqa: ASYNC240 - one look at a device file
        return result("there is no /dev/kvm: the processor or the hosting hypervisor does not offer it")
    if kernel is None:
        return result("there is no kernel to boot: build a node image first")
    try:
        process = await asyncio.create_subprocess_exec(
            *build_argv(qemu, accel, kernel),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return result(f"cannot run {qemu} ({error.strerror}): install qemu-system-x86")
    output, in_time = await _read(process, limit_s)
    if _REACHED in output:
        return result("a kernel booted to its end", works=True)
    if in_time:
        return result(_explain(output))
    where = "half way" if _BEGAN in output else "before its first word"
    return result(f"a kernel hung {where}; it was given {limit_s:.0f} s")


def build_argv(qemu: str, accel: Accel, kernel: Path) -> list[str]:
    """QEMU's command line; it ends when the kernel panics and wants to reboot."""
    machine = f"q35,accel={'kvm' if accel == 'kvm' else 'tcg'}"
    return [
        *(qemu, "-machine", machine, "-cpu", _CPU[accel], "-m", str(_MEMORY_MIB), "-nodefaults", "-no-reboot"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio"),
        *("-kernel", str(kernel), "-append", _COMMAND_LINE),
    ]


async def _read(process: asyncio.subprocess.Process, limit_s: float) -> tuple[bytes, bool]:
    """All output, and whether the process ended (or the panic was seen) in time; kills it in any case."""
    output = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            while process.stdout is not None and (chunk := await process.stdout.read(4096)):
                output += chunk
                if _REACHED in output:
                    break
    except TimeoutError:
        return bytes(output), False
    else:
        return bytes(output), True
    finally:
        # The whole group: a wrapper around QEMU may have children that would keep the pipe open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def _explain(output: bytes) -> str:
    """QEMU's own first complaint."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    complaint = next((line for line in lines if line.startswith("qemu-system") and "warning" not in line), None)
    if complaint is None:
        return "QEMU ended before the kernel did"
    return "QEMU gave up: " + _NOISE.sub("", complaint)[:_DETAIL_LIMIT]
