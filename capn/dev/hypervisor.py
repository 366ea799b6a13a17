"""A private libvirtd for `capn dev` and for tests, apart from the host's own.

Role: starts and stops libvirtd in mount and pid namespaces of its own, so that its sockets, pools, logs and settings
lie in one state directory and its end takes every QEMU and dnsmasq with it. Only its socket is visible outside: for a
controller on this host it is a remote hypervisor whose files cannot be seen. It shares the host's network, because
the controller must reach the machines; `stop` removes the bridges and packet-filter rules that libvirt leaves behind.
Or it has a network namespace that the caller made, as another host has; what it leaves there ends with that.
Inputs: a state directory. Outputs: a libvirt URI. Must not: import libvirt, or touch another libvirtd's objects.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from capn.dev import hypervisor_init
from capn.dev.hypervisor_net import Footprint, find_footprint, list_leftovers, remove_footprint
from capn.errors import InvalidSpecError, TerminalError
from capn.settings import LibvirtEndpoint

_QEMU_CONF = """\
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
remember_owner = 0
namespaces = []
max_core = 0
"""
_LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
"""
_DIRECTORIES = (
    "run/libvirt",
    "run/lock",
    "var/lib/libvirt",
    "var/cache/libvirt",
    "var/log/libvirt",
    "var/tmp",
    "etc",
)
_SOCKET_PATH_LIMIT = 107  # sun_path without its closing NUL
_TOOLS = {
    "unshare": "util-linux",
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "dnsmasq": "dnsmasq-base",
    "qemu-img": "qemu-utils",
    "iptables": "iptables",
    "ip": "iproute2",
}


class Hypervisor:
    """One private libvirtd. Needs root. The object holds no state: another process may stop what this one started.

    `namespace`: name of the network namespace (ip-netns(8)) that it runs in; none: the host's.
    """

    pool_path = "/var/lib/libvirt/capn"

    def __init__(self, state: Path, *, namespace: str | None = None) -> None:
        self.state = state.resolve()
        self.namespace = namespace
        self.socket = self.state / "run" / "libvirt" / "libvirt-sock"
        self.log = self.state / "libvirtd.log"

    @property
    def uri(self) -> str:
        """What a libvirt client connects to."""
        return f"qemu:///system?socket={self.socket}"

    def endpoint(
        self, *, accel: Literal["kvm", "emulate"] = "emulate", unsafe_disk_cache: bool = True
    ) -> LibvirtEndpoint:
        """Settings of an endpoint that is this hypervisor."""
        return LibvirtEndpoint(uri=self.uri, accel=accel, pool_path=self.pool_path, unsafe_disk_cache=unsafe_disk_cache)

    def running(self) -> bool:
        """Whether its first process lives."""
        return self._init_pid() is not None

    def start(self, *, timeout_s: float = 30.0) -> None:
        """Start it (nothing happens when it runs) and wait until it answers.

        It goes on when this process ends. Raises TerminalError with the end of its log when it does not come up.
        """
        self._check_host()
        spawned = None
        if not self.running():
            self._prepare()
            spawned = self._spawn()
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if time.monotonic() > deadline or (spawned is not None and _ended(spawned)):
                tail = self._log_tail()
                self.stop()
                raise TerminalError(f"the private libvirtd did not start: {tail}", reason="HypervisorFailed")
            time.sleep(0.1)

    def stop(self, *, timeout_s: float = 20.0) -> None:
        """End it with everything that runs in it, and take its bridges and rules off the host.

        Volumes and definitions stay in the state directory until `purge`. Fine when it is half dead or not there.
        """
        for pid in reversed(self._processes()):  # the first process inside; unshare ignores SIGTERM and follows it
            _terminate(pid, timeout_s=timeout_s)
        remove_footprint(self._footprint())
        self._restore_forwarding()
        for runtime in (self.state / "init.pid", self.state / "run"):
            _remove(runtime)

    def purge(self) -> None:
        """`stop`, then remove the state directory with every volume in it."""
        self.stop()
        _remove(self.state)

    def restart_daemon(self, *, timeout_s: float = 60.0) -> None:
        """Kill libvirtd alone and wait until its successor answers; machines go on running."""
        pid = self._init_pid()
        if pid is None:
            raise TerminalError("the private libvirtd does not run: start it first", reason="HypervisorFailed")
        before = self._daemon_pids(pid)
        os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + timeout_s
        while self._daemon_pids(pid) & before or not self._answers():
            if time.monotonic() > deadline:
                raise TerminalError(f"libvirtd did not come back: {self._log_tail()}", reason="HypervisorFailed")
            time.sleep(0.1)

    def leaks(self) -> list[str]:
        """What is left on the host after `stop`: processes, mounts, bridges, rules; empty when nothing is."""
        processes = [f"process {pid}" for pid in self._processes()]
        mounts = [
            f"mount {line.split()[4]}"
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(self.state) in line
        ]
        return processes + mounts + list_leftovers(self._footprint())

    def _check_host(self) -> None:
        if os.geteuid() != 0:
            raise TerminalError("the private hypervisor needs root: run with sudo", reason="NotRoot")
        missing = [package for tool, package in _TOOLS.items() if _which(tool) is None]
        if missing:
            raise TerminalError(f"install the packages {', '.join(missing)}", reason="PackagesMissing")
        if len(str(self.socket)) > _SOCKET_PATH_LIMIT:
            raise InvalidSpecError(
                "state directory", f"{self.state} is too long for a socket below it: take a shorter path"
            )

    def _prepare(self) -> None:
        """Directories and settings of the private tree."""
        for directory in _DIRECTORIES:
            (self.state / directory).mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o700)
        for link, target in (("run", "/run"), ("lock", "/run/lock")):
            _remove(self.state / "var" / link)
            (self.state / "var" / link).symlink_to(target)
        (self.state / "etc" / "qemu.conf").write_text(_QEMU_CONF)
        (self.state / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF)
        before = self.state / "ip_forward.before"
        if self.namespace is None and not before.exists():
            before.write_text(_IP_FORWARD.read_text())

    def _spawn(self) -> int:
        """Start the namespaces' first process in a session of its own; the pid of `unshare`."""
        inside = [] if self.namespace is None else [_which("ip") or "ip", "netns", "exec", self.namespace]
        argv = [
            *inside,
            _which("unshare") or "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
            sys.executable, "-I", hypervisor_init.__file__, str(self.state), _which("libvirtd") or "libvirtd",
        ]  # fmt: skip
        Path("/etc/libvirt").mkdir(exist_ok=True)  # a mount point; the packages bring it as well
        files = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # Not subprocess.Popen: that object complains when its process outlives it, which is what we want here.
        return os.posix_spawn(argv[0], argv, _environment(), file_actions=files, setsid=True)

    def _answers(self) -> bool:
        if not self.socket.is_socket():
            return False
        argv = ["virsh", "--quiet", "--connect", self.uri, "pool-list", "--all"]
        try:
            return subprocess.run(argv, capture_output=True, timeout=10, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _init_pid(self) -> int | None:
        """The first process inside, by its command line: a pid file alone can name a reused pid."""
        pids = self._processes()
        return pids[-1] if pids else None

    def _processes(self) -> list[int]:
        """List unshare and the first process inside, oldest first; both have our state directory as an argument.

        Whichever copy of capn started them: its script has the same name, in another place.
        """
        own, script = str(self.state).encode(), Path(hypervisor_init.__file__).name.encode()
        found = [
            pid for pid, argv in _command_lines() if own in argv and any(word.endswith(b"/" + script) for word in argv)
        ]
        return sorted(found, key=_start_time)

    def _daemon_pids(self, init_pid: int) -> set[int]:
        return {pid for pid, argv in _command_lines() if argv[0].endswith(b"libvirtd") and _parent(pid) == init_pid}

    def _footprint(self) -> Footprint:
        """Bridges and subnets of this hypervisor, remembered in a file: definitions can be gone before `stop`.

        None of one that has a namespace: on the host they are another's.
        """
        if self.namespace is not None:
            return Footprint()
        memory = self.state / "footprint.json"
        remembered = Footprint()
        with contextlib.suppress(OSError, ValueError, TypeError):
            remembered = Footprint.from_json(json.loads(memory.read_text()))
        directories = (self.state / "etc" / "qemu" / "networks", self.state / "run" / "libvirt" / "network")
        footprint = find_footprint(directories) | remembered
        with contextlib.suppress(OSError):
            memory.write_text(json.dumps(footprint.to_json()))
        return footprint

    def _restore_forwarding(self) -> None:
        """Put net.ipv4.ip_forward back, unless somebody else may rely on it by now."""
        before = self.state / "ip_forward.before"
        if not before.exists():
            return
        others = any(argv[0].endswith((b"libvirtd", b"virtnetworkd", b"dockerd")) for _pid, argv in _command_lines())
        bridges = any(Path("/sys/class/net").glob("*/bridge"))
        if not others and not bridges:
            _IP_FORWARD.write_text(before.read_text())
        before.unlink()

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        errors = [line for line in lines if "error" in line.lower()] or lines
        return " | ".join(errors[-3:])


_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def _environment() -> dict[str, str]:
    """Only what libvirtd needs; /usr/sbin is not on every user's PATH."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=_environment()["PATH"])


def _command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Every process with its arguments; kernel threads and zombies have none and are left out."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
            if argv:
                yield int(entry.name), argv


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (proc(5)); the second may hold blanks."""
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(_stat_fields(pid)[1])
    return None


def _start_time(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(_stat_fields(pid)[19])
    return 0


def _ended(child: int) -> bool:
    """Whether the process that we started has ended; it is left for `_terminate` to reap."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _terminate(pid: int, *, timeout_s: float) -> None:
    """SIGTERM, then SIGKILL; waits for the end. A pid that names another process by now is left alone."""
    started = _start_time(pid)

    def lives() -> bool:
        with contextlib.suppress(OSError):
            fields = _stat_fields(pid)
            return int(fields[19]) == started and fields[0] not in "ZX"
        return False

    for number, wait_s in ((signal.SIGTERM, timeout_s / 2), (signal.SIGKILL, timeout_s / 2)):
        if not lives():
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + wait_s
        while lives() and time.monotonic() < deadline:
            time.sleep(0.05)
    with contextlib.suppress(ChildProcessError):  # ours when this process started it
        os.waitpid(pid, os.WNOHANG)


def _remove(path: Path) -> None:
    """Remove a file, link or directory tree; fine when it is not there."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
