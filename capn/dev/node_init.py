"""First process of a node: gives its namespaces a machine of their own, then keeps the node's programs alive.

Role: runs as pid 1 of new mount, pid, network, host-name and IPC namespaces (started by `capn.dev.node`), so its end is
the end of every pod. Input: the node's directory as the only argument; `init.json` in it says the rest. Output there:
`init.pid` (our pid as the host sees it), a log a program, and a line in `log/exits` whenever a program ended. SIGTERM
ends everything. Standard library only, since it is run by its path. Must not: write to the host outside the directory.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

# Everything of ours is below here once the namespaces are set up; the directory's own path may be hidden by then.
_HOME = Path("/run/capn")
_STATE = _HOME / "state"
_CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
# Writable and private: what pods put there by hostPath never reaches the host.
_OVERLAYS = ("etc", "opt", "srv", "var")
_PRIVATE = {"lib": "/var/lib", "log": "/var/log", "tmp": "/tmp"}  # noqa: S108 - mount points in our own namespace
# What the kubelet would set on the whole machine: it finds these values in files of ours and leaves the host alone.
_KERNEL_VALUES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_LINK_LIMIT_S = 30.0
_SOCKET_LIMIT_S = 30.0
_RESTART_DELAY_S = 0.5
_SETTLED_S = 60.0
_MAX_DELAY_S = 10.0
_ENVIRONMENT = {"PATH": f"{_HOME}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, env=_ENVIRONMENT)


def _mount(*arguments: str) -> None:
    _run("mount", *arguments)


def _enter_cgroup(name: str) -> None:
    """Move to the node's `system` group in every hierarchy that has one; what we start follows."""
    root = Path("/sys/fs/cgroup")
    for group in (root / name / "system", *(path / name / "system" for path in root.iterdir())):
        if group.is_dir():
            (group / "cgroup.procs").write_text("0")


def _mount_run(directory: Path, programs: dict[str, str]) -> None:
    """A new /run in which our directory and programs are found, whatever path of the host is hidden later."""
    stage = directory / "run"
    _mount("-t", "tmpfs", "-o", "mode=0755", "capn-run", str(stage))
    state = stage / "capn" / "state"
    state.mkdir(parents=True)
    for made in (stage / "lock", stage / "netns", stage / "capn" / "bin"):
        made.mkdir(parents=True)
    _mount("--bind", str(directory), str(state))
    for name, path in programs.items():
        # Its directory, not the file alone: runc puts an overlay over the one that it is in, to protect itself.
        place = stage / "capn" / "parts" / name
        place.mkdir(parents=True)
        _mount("--bind", str(Path(path).parent), str(place))
        (stage / "capn" / "bin" / name).symlink_to(f"../parts/{name}/{Path(path).name}")
    _mount("--rbind", str(stage), "/run")
    _run("umount", "--recursive", "--lazy", str(stage))


def _mount_private() -> None:
    """Our own /etc, /opt, /srv and /var over the host's, and directories of ours inside."""
    for name in _OVERLAYS:
        if not Path("/", name).is_dir():
            continue
        upper, work = _HOME / "overlay" / name / "upper", _HOME / "overlay" / name / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        _mount("-t", "overlay", f"capn-{name}", "-o", f"lowerdir=/{name},upperdir={upper},workdir={work}", f"/{name}")
    for name, target in _PRIVATE.items():
        Path(target).mkdir(exist_ok=True)
        _mount("--bind", str(_STATE / name), target)
    run = Path("/var/run")  # relative: who follows it through /proc/1/root must not end up in a /run of its own
    if run.is_symlink() or not run.exists():
        run.unlink(missing_ok=True)
        run.symlink_to("../run")


def _mount_kernel() -> None:
    """/proc and /sys of the new namespaces, the cgroups as they were, and kernel values that only we see."""
    _mount("-t", "proc", "proc", "/proc")
    cgroups = _HOME / "cgroup"
    cgroups.mkdir()
    _mount("--rbind", "/sys/fs/cgroup", str(cgroups))
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("--rbind", str(cgroups), "/sys/fs/cgroup")
    _run("umount", "--recursive", "--lazy", str(cgroups))
    for name, value in _KERNEL_VALUES.items():
        target = Path("/proc/sys", name)
        if target.exists():
            file = _HOME / "kernel" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value + "\n")
            _mount("--bind", str(file), str(target))


def _write_etc(config: dict[str, Any]) -> None:
    for name, text in config["etc"].items():
        path = Path("/etc", name)
        path.unlink(missing_ok=True)  # a link into the host's /run, often
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _configure_network(config: dict[str, Any]) -> None:
    """The link to the host, when it has been handed to us, and the bridge of the pods.

    Ports of the bridge are isolated from each other (CNI configuration), so that pods reach each other by way of this
    machine's routing, where Services are translated; the bridge answers for all of them (RFC 3069).
    """
    deadline = time.monotonic() + _LINK_LIMIT_S
    while not Path("/proc/sys/net/ipv4/conf", config["peer"]).exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"the link {config['peer']} was not handed over")
        time.sleep(0.02)
    for name, value in (("ip_forward", "1"), ("conf/all/send_redirects", "0"), ("conf/default/send_redirects", "0")):
        Path("/proc/sys/net/ipv4", name).write_text(value)
    # With these on, a translated packet would be bridged from port to port, which isolation forbids.
    for switch in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        switch.write_text("0")
    bridge = config["bridge"]
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "set", config["peer"], "name", "eth0"),
        ("address", "add", config["address"], "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("route", "add", "default", "via", config["gateway"]),
        ("link", "add", bridge, "type", "bridge"),
        ("link", "set", bridge, "up"),
    ):
        _run("ip", *words)
    for name, value in (("proxy_arp_pvlan", "1"), ("send_redirects", "0")):
        Path("/proc/sys/net/ipv4/conf", bridge, name).write_text(value)


def enter(directory: Path, config: dict[str, Any]) -> None:
    """Make the namespaces that we are in a machine of its own."""
    # The host's /proc is still mounted, so this is our pid as the host sees it.
    (directory / "init.pid").write_text(str(Path("/proc/self").readlink()))
    _enter_cgroup(config["cgroup"])
    socket.sethostname(config["name"])
    _mount_run(directory, config["programs"])
    _mount_private()
    _mount_kernel()
    _write_etc(config)
    _configure_network(config)
    _mount("--make-rshared", "/")


@dataclass
class Program:
    """One program that shall always run."""

    name: str
    argv: list[str]
    pid: int = 0
    started: float = 0.0
    due: float = 0.0
    failures: int = field(default=0)


class Supervisor:
    """Keeps the programs running and reaps everything else, as pid 1 must."""

    def __init__(self, programs: list[Program]) -> None:
        self._programs = programs

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """End at once: the kernel kills the whole pid namespace with its first process."""
        os._exit(0)

    def run(self) -> None:
        """Start what is due, notice what has ended."""
        while True:
            for program in self._programs:
                if not program.pid and time.monotonic() >= program.due:
                    self._start(program)
            self._reap()
            time.sleep(0.1)

    def _start(self, program: Program) -> None:
        with (_STATE / "log" / f"{program.name}.log").open("ab") as log:
            child = subprocess.Popen(
                program.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **_ENVIRONMENT}
            )
        program.pid, program.started = child.pid, time.monotonic()
        child.returncode = 0  # reaped below, not by the object
        if program.name == "containerd":
            _await_socket(child.pid)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for program in self._programs:
                if program.pid == pid:
                    self._ended(program, status)

    def _ended(self, program: Program, status: int) -> None:
        """Note it, and start it again: at once when it ran for a while, later and later when it keeps ending."""
        now = time.monotonic()
        program.failures = 1 if now - program.started > _SETTLED_S else program.failures + 1
        program.pid, program.due = 0, now + min(_RESTART_DELAY_S * 2 ** (program.failures - 1), _MAX_DELAY_S)
        with (_STATE / "log" / "exits").open("a") as file:
            file.write(f"{program.name} {os.waitstatus_to_exitcode(status)}\n")


def _await_socket(pid: int) -> None:
    """Wait until containerd listens, so that the kubelet does not start in vain; its end is noticed by `_reap`."""
    deadline = time.monotonic() + _SOCKET_LIMIT_S
    while time.monotonic() < deadline and Path("/proc", str(pid), "root").exists():
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(_CONTAINERD_SOCKET))
        except OSError:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.05)
        else:
            return


def main(directory: Path) -> None:
    """Enter the namespaces and supervise the node's programs until SIGTERM."""
    config = json.loads((directory / "init.json").read_text())
    supervisor = Supervisor([Program(name, argv) for name, argv in config["run"].items()])
    signal.signal(signal.SIGTERM, supervisor.stop)
    try:
        enter(directory, config)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SystemExit(f"cannot make a machine of the namespaces: {error}") from error
    supervisor.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
