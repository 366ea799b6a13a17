"""What the machine itself must have: the apt packages of `hack/apt-packages.txt`, and installing those missing.

Role: the first step of `make demo` and `make test`, so it runs on a plain python3 (standard library only):
`python3 -m capn.parts.host [check|install] [purpose...]`. Must not: start services, or change anything else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from capn.errors import CapnError, InvalidSpecError, NotFoundError, TerminalError
from capn.parts.hack import hack_dir

PURPOSES = ("build", "image", "hypervisor", "node", "test")
_TAIL_LINES = 20
_LOCK_TIMEOUT_S = 300
_COLUMNS = 2


@dataclass(frozen=True)
class HostPackage:
    """An apt package and what it is for (one of PURPOSES)."""

    name: str
    purpose: str


def list_packages(purposes: Sequence[str] = (), *, hack: Path | None = None) -> tuple[HostPackage, ...]:
    """Packages for the purposes, all if none is given. Raises InvalidSpecError for an unknown purpose or a bad line."""
    unknown = [purpose for purpose in purposes if purpose not in PURPOSES]
    if unknown:
        raise InvalidSpecError("purpose", f"unknown: {', '.join(unknown)}; use some of: {', '.join(PURPOSES)}")
    path = (hack or hack_dir()) / "apt-packages.txt"
    packages = [_parse_line(line, path) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return tuple(package for package in packages if not purposes or package.purpose in purposes)


def _parse_line(line: str, path: Path) -> HostPackage:
    words = line.split()
    if len(words) != _COLUMNS or words[1] not in PURPOSES:
        raise InvalidSpecError(path.name, f"bad line {line!r}: expected a package and one of {', '.join(PURPOSES)}")
    return HostPackage(*words)


def find_missing(packages: Sequence[HostPackage]) -> list[str]:
    """Names of those that dpkg does not hold as installed. Raises NotFoundError on a machine without dpkg."""
    if shutil.which("dpkg-query") is None:
        names = " ".join(package.name for package in packages)
        raise NotFoundError(f"this machine has no dpkg: install what corresponds to these Debian packages: {names}")
    argv = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n"]
    # Status 1 only means that some are unknown to dpkg.
    listed = subprocess.run([*argv, *(p.name for p in packages)], capture_output=True, text=True, check=False)
    installed = {line.split()[1] for line in listed.stdout.splitlines() if line.startswith("installed ")}
    return [package.name for package in packages if package.name not in installed]


def install_packages(names: Sequence[str], *, report: Callable[[str], None]) -> None:
    """Install the packages with apt-get, by sudo if we are not root. Raises TerminalError with apt's last lines."""
    if not names:
        return
    report(f"installing {len(names)} apt packages: {' '.join(names)}")
    started = time.monotonic()
    locked = ["-o", f"DPkg::Lock::Timeout={_LOCK_TIMEOUT_S}"]
    _apt_get(["update", *locked], report)
    _apt_get(["install", "--yes", "--no-install-recommends", *locked, *names], report)
    report(f"apt packages installed in {time.monotonic() - started:.0f} s")


def _apt_get(arguments: Sequence[str], report: Callable[[str], None]) -> None:
    """Run apt-get and report when it starts to unpack or set up a package."""
    argv = [*_become_root(), "apt-get", *arguments]
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None  # noqa: S101 - we asked for a pipe
        for line in process.stdout:
            tail.append(line.rstrip())
            if line.startswith("Setting up "):
                report(f"  {line.split(' ...')[0].strip()}")
    if process.returncode != 0:
        lines = "\n  ".join(tail)
        message = f"apt-get {arguments[0]} ended with status {process.returncode}:\n  {lines}"
        raise TerminalError(message, reason="PackagesNotInstalled")


def _become_root() -> list[str]:
    """Words to put before a command that needs root. Raises TerminalError if there is no way to become root."""
    # env and not our own environment: sudo would drop it
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    if os.geteuid() == 0:
        return environment
    if shutil.which("sudo") is None:
        raise TerminalError("apt packages are missing, and this is neither root nor is sudo there: run it as root")
    return ["sudo", *environment]


def main(arguments: Sequence[str]) -> int:
    """`check` prints what is missing (status 1 if anything is); `install` installs it."""
    command = arguments[0] if arguments else "check"
    try:
        if command not in {"check", "install"}:
            raise InvalidSpecError("command", f"unknown: {command}; use check or install")
        missing = find_missing(list_packages(arguments[1:]))
        if command == "install":
            install_packages(missing, report=_print)
            return 0
    except CapnError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    for name in missing:
        _print(name)
    return 1 if missing else 0


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is the command's output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
