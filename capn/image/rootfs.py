"""Turns a Debian base into a node's root file system: programs, configuration, units; nothing that a login could use.

Role: file operations below one directory, as root. Inputs: the unpacked base, paths of programs, the sandbox image's
name. Output: the directory, changed, and the kernel's release. Must not: run anything from inside the directory.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from capn.errors import NotFoundError, TerminalError
from capn.image import recipe
from capn.image.debian import REASON

_UNIT_DIRECTORY = "etc/systemd/system"
_NO_LOGIN = ("*", "!", "!*", "!!")


def install_node(root: Path, *, programs: Mapping[str, Path], sandbox: str) -> None:
    """Put programs, configuration and units into the unpacked base at `root`."""
    for pattern in recipe.REMOVED_PATHS:
        # Path.glob passes over links whose target is missing, so a plain path is taken as it is.
        for path in root.glob(pattern) if "*" in pattern else [root / pattern]:
            remove_path(path)
    for directory in recipe.EMPTY_DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
    for name in recipe.NODE_PROGRAMS:
        _install(programs[name], root / recipe.PROGRAM_DIRECTORIES.get(name, "usr/bin") / name)
    for name in recipe.CNI_PROGRAMS:
        _install(programs[name], root / recipe.CNI_DIRECTORY / name)
    _copy_files(root, sandbox)
    _set_units(root)
    (root / "etc/machine-id").write_text("")  # systemd gives each machine one of its own at first boot
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/resolv.conf")
    require_no_login(root)


def _install(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _copy_files(root: Path, sandbox: str) -> None:
    for source in sorted(path for path in recipe.ROOTFS_DIR.rglob("*") if path.is_file()):
        target = root / source.relative_to(recipe.ROOTFS_DIR)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        target.write_text(text.replace(recipe.SANDBOX_PLACEHOLDER, sandbox))
        target.chmod(0o755 if text.startswith("#!") else 0o644)


def _set_units(root: Path) -> None:
    units = root / _UNIT_DIRECTORY
    for unit in recipe.MASKED_UNITS:
        remove_path(units / unit)
        (units / unit).symlink_to("/dev/null")
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for unit in recipe.ENABLED_UNITS:
        location = _UNIT_DIRECTORY if (units / unit).is_file() else "lib/systemd/system"
        if not (root / location / unit).is_file():
            raise NotFoundError(f"the Debian base has no unit {unit}")
        remove_path(wants / unit)
        (wants / unit).symlink_to(f"/{location}/{unit}")


def require_no_login(root: Path) -> None:
    """Check that no account has a password, no key is authorised and no SSH server is there. Raises TerminalError."""
    for line in (root / "etc/shadow").read_text().splitlines():
        account, password = line.split(":")[:2]
        if password not in _NO_LOGIN:
            raise TerminalError(f"the node image would let {account} log in with a password", reason=REASON)
    forbidden = [path for pattern in ("root/.ssh", "home/*/.ssh", "usr/sbin/sshd") for path in root.glob(pattern)]
    if forbidden:
        raise TerminalError(f"the node image would hold {forbidden[0].relative_to(root)}", reason=REASON)


def find_kernel(root: Path) -> tuple[Path, Path]:
    """The kernel and its directory of modules. Raises NotFoundError unless there is exactly one."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise NotFoundError(f"expected one kernel in the Debian base, found {[kernel.name for kernel in kernels]}")
    release = kernels[0].name.removeprefix("vmlinuz-")
    return kernels[0], root / "usr/lib/modules" / release


def remove_path(path: Path) -> None:
    """Remove a file, link or directory tree; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
