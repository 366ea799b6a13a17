"""KVM or software emulation for a development environment.

Role: turns the user's wish and the probe's answer into one setting, and says why. Must not: choose KVM because a device
file exists.
"""

from __future__ import annotations

from typing import Literal

from capn.parts.source import Report


async def choose_accel(wish: Literal["auto", "kvm", "emulate"], report: Report) -> Literal["kvm", "emulate"]:
    """The wish, or (auto) KVM only if a probe booted something with it."""
    if wish != "auto":
        report(f"machines run by {wish}, as asked")
        return wish
    raise NotImplementedError
