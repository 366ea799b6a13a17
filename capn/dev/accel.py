"""KVM or software emulation for a development environment.

Role: turns the user's wish and the probe's answers into one setting, and says why. Must not: choose KVM because a
device file exists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from capn.errors import TerminalError
from capn.image.catalogue import ImageCatalogue
from capn.parts.source import Report
from capn.providers.probe import ProbeResult, find_kernel, probe, probe_all
from capn.providers.probe import choose_accel as choose
from capn.settings import cache_dir

_KVM_DEVICE = Path("/dev/kvm")
# Emulation needs nothing but QEMU: it is what remains, so it is not probed before every start.
_FALLBACK: Literal["emulate"] = "emulate"


def _kernel() -> Path | None:
    catalogue = ImageCatalogue(cache_dir() / "images" / "node")
    images = [image for version in catalogue.versions() if (image := catalogue.find(version)) is not None]
    return find_kernel([image.kernel for image in images])


async def choose_accel(wish: Literal["auto", "kvm", "emulate"], report: Report) -> Literal["kvm", "emulate"]:
    """The wish, or (auto) KVM only if a stock kernel boots with it within some seconds."""
    if wish != "auto":
        report(f"machines run by {wish}, as asked")
        return wish
    if not _KVM_DEVICE.exists():  # noqa: ASYNC240 - one look at a device file
        report("machines run by software emulation: there is no /dev/kvm")
        return _FALLBACK
    report("/dev/kvm is there; trying whether a kernel boots with it")
    result = await probe("kvm", _kernel())
    report(str(result))
    return "kvm" if result.works else _FALLBACK


async def probe_both() -> list[ProbeResult]:
    """What works here, for `capn doctor`. TerminalError when nothing does."""
    results = await probe_all(_kernel())
    if choose(results) is None:
        raise TerminalError("; ".join(map(str, results)), reason="NoAcceleration")
    return results
