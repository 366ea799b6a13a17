"""First process of a private hypervisor: mounts its own directories, then keeps libvirtd alive.

Role: runs as pid 1 of new mount and pid namespaces (started by `capn.dev.hypervisor`), so its end is the end of every
dnsmasq and QEMU below it. Input: the state directory as the only argument. Output: `init.pid` there (our pid as the
host sees it). SIGTERM ends everything; SIGUSR1 restarts libvirtd and leaves the machines running. Standard library
only, because it is run by its path. Must not: write to the host outside the state directory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

# libvirt's unprivileged QEMU user; it is looked up even when qemu.conf names another one.
_QEMU_USER = "libvirt-qemu:x:64055:64055:capn:/nonexistent:/usr/sbin/nologin\n"
_QEMU_GROUP = "libvirt-qemu:x:64055:\n"
# Parts of the host's /run that must stay visible below our own: the resolver that dnsmasq forwards to.
_KEEP_OF_RUN = ("systemd/resolve", "resolvconf", "xtables.lock")
_RESTART_DELAY_S = 0.5


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _bind_kept(source: Path, target: Path) -> None:
    """Keep one part of the host's /run below the private one."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    else:
        return
    _mount("--bind", str(source), str(target))


def _bind_accounts(state: Path) -> None:
    """A copy of the account files that has libvirt's QEMU user, where the host has none."""
    for name, line in (("passwd", _QEMU_USER), ("group", _QEMU_GROUP)):
        text = Path("/etc", name).read_text()
        if "\nlibvirt-qemu:" in text:
            continue
        copy = state / name
        copy.write_text(text if text.endswith("\n") else text + "\n")
        with copy.open("a") as file:
            file.write(line)
        _mount("--bind", str(copy), f"/etc/{name}")


def _enter(state: Path) -> None:
    """Give this mount namespace its own /proc, /run, /var, /etc/libvirt and accounts."""
    # The host's /proc is still mounted, so this is our pid as the host sees it.
    (state / "init.pid").write_text(str(Path("/proc/self").readlink()))
    _mount("-t", "proc", "proc", "/proc")
    for kept in _KEEP_OF_RUN:
        _bind_kept(Path("/run", kept), state / "run" / kept)
    _mount("--rbind", str(state / "run"), "/run")
    _mount("--bind", str(state / "var"), "/var")
    _mount("--bind", str(state / "etc"), "/etc/libvirt")
    _bind_accounts(state)


class Supervisor:
    """Keeps one libvirtd running and reaps everything else, as pid 1 must."""

    def __init__(self, libvirtd: str) -> None:
        self._libvirtd = libvirtd
        self._child: subprocess.Popen[bytes] | None = None

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """End at once: the kernel kills the whole pid namespace with its first process."""
        os._exit(0)

    def restart(self, _signal: int, _frame: FrameType | None) -> None:
        """Kill libvirtd only; `run` starts it again."""
        if self._child is not None:
            self._child.kill()

    def run(self) -> None:
        """Start libvirtd, wait for any child, start it again when it was libvirtd that ended."""
        while True:
            self._child = subprocess.Popen([self._libvirtd], stdin=subprocess.DEVNULL)
            while True:
                pid, _status = os.wait()
                if pid == self._child.pid:
                    break
            time.sleep(_RESTART_DELAY_S)


def main(state: Path, libvirtd: str) -> None:
    """Enter the namespaces' private tree and supervise libvirtd until SIGTERM."""
    supervisor = Supervisor(libvirtd)
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGUSR1, supervisor.restart)
    _enter(state)
    supervisor.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
