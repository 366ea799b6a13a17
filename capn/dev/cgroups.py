"""A node's part of the host's cgroups: one directory in every hierarchy, on version 1, hybrid and version 2 hosts.

Role: creates the part with a share of the processors that lets machines in pods live, and removes it. `system` in it
holds the node's programs; the kubelet adds its pods beside that. Must not: touch another group.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from capn.errors import TerminalError

# A process in the root group weighs 1024: with only that, whatever else runs on the host starves a QEMU in a pod.
CPU_SHARES = 8192
SYSTEM = "system"
_MOUNT = Path("/sys/fs/cgroup")
_REASON = "CgroupFailed"
_NEEDED = ("cpu", "memory", "pids")
_WANTED_V2 = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")
_REMOVE_LIMIT_S = 15.0


def is_unified(mount: Path = _MOUNT) -> bool:
    """Whether this is a version 2 host."""
    return (mount / "cgroup.controllers").exists()


def create_group(name: str, *, cpu_shares: int = CPU_SHARES, mount: Path = _MOUNT) -> None:
    """Make the group; fine when it is there. TerminalError says what the host does not allow."""
    try:
        if is_unified(mount):
            _create_unified(mount, name, cpu_shares)
        else:
            _create_legacy(mount, name, cpu_shares)
    except OSError as error:
        raise TerminalError(f"cannot make the cgroup {name} below {mount}: {error}", reason=_REASON) from error


def _create_unified(mount: Path, name: str, cpu_shares: int) -> None:
    available = (mount / "cgroup.controllers").read_text().split()
    if missing := [controller for controller in _NEEDED if controller not in available]:
        raise TerminalError(f"{mount} does not offer the controllers {', '.join(missing)}", reason=_REASON)
    group = mount / name
    (group / SYSTEM).mkdir(parents=True, exist_ok=True)
    for directory in (mount, group):
        for controller in _WANTED_V2:
            if controller in available:
                (directory / "cgroup.subtree_control").write_text(f"+{controller}")
    weight = 1 + (cpu_shares - 2) * 9999 // 262142  # as the kubelet and runc convert
    (group / "cpu.weight").write_text(str(weight))


def _create_legacy(mount: Path, name: str, cpu_shares: int) -> None:
    hierarchies = _hierarchies(mount)
    names = {hierarchy.name for hierarchy in hierarchies}
    if missing := [one for one in _NEEDED if not any(one in joined.split(",") for joined in names)]:
        raise TerminalError(f"no cgroup hierarchy for {', '.join(missing)} below {mount}", reason=_REASON)
    for hierarchy in hierarchies:
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, and then nothing can run in it
            if (group / file).exists():
                (group / file).write_text((hierarchy / file).read_text())
        if (group / "cpu.shares").exists():
            (group / "cpu.shares").write_text(str(cpu_shares))
        if not (group / "cpuset.cpus").exists():
            (group / SYSTEM).mkdir(exist_ok=True)


def _hierarchies(mount: Path) -> list[Path]:
    """Version 1 hierarchies (symbolic links such as `cpu` to `cpu,cpuacct` left out)."""
    if not mount.is_dir():
        return []
    found = [path for path in mount.iterdir() if path.is_dir() and not path.is_symlink()]
    return [path for path in sorted(found) if (path / "tasks").exists()]


def find_groups(name: str, *, mount: Path = _MOUNT) -> list[Path]:
    """The group's directory in every hierarchy where it is."""
    places = [mount] if is_unified(mount) else sorted(path for path in mount.glob("*") if not path.is_symlink())
    return [place / name for place in places if (place / name).is_dir()]


async def remove_group(name: str, *, mount: Path = _MOUNT) -> None:
    """Remove the group with all below it; the kernel may take a moment to let go of what just died."""
    deadline = time.monotonic() + _REMOVE_LIMIT_S
    while groups := find_groups(name, mount=mount):
        for group in groups:
            _remove_tree(group)
        if time.monotonic() > deadline:
            return  # `find_groups` tells
        await asyncio.sleep(0.05)


def _remove_tree(group: Path) -> None:
    with contextlib.suppress(OSError):
        for child in group.iterdir():
            if child.is_dir():
                _remove_tree(child)
        group.rmdir()
