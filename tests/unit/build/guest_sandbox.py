"""Runs the guest's programs for real, below a directory, with stand-ins for the programs that only a node has."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from capn.build.cloudinit import read_guest_program
from capn.build.report import Report, ReportParser

TOKEN = "abcdef.0123456789abcdef"
_DEFAULTS = {
    "ip": "echo '2: eth0 inet 10.89.0.10/24'",
    "systemctl": "exit 0",
    "ctr": "exit 0",
    "journalctl": "exit 0",
    "kubeadm": "exit 0",
}


@dataclass
class GuestSandbox:
    root: Path
    mode: str = "init"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for directory in ("bin", "lib", "etc/capn", "var/lib/cloud/instances/uid"):
            (self.root / directory).mkdir(parents=True)
        for name, script in _DEFAULTS.items():
            self.program(name, script)
        for name in ("bootstrap.sh", "report.sh", "certificates.sh"):
            (self.root / "lib" / name).write_text(read_guest_program(name))
        (self.root / "etc/capn/kubeadm.yaml").write_text(f"token: {TOKEN}\n")
        (self.root / "var/lib/cloud/instance").symlink_to("instances/uid")
        for name in ("user-data.txt", "user-data.txt.i", "cloud-config.txt", "obj.pkl"):
            (self.root / "var/lib/cloud/instance" / name).write_text(TOKEN)
        self.console.touch()

    @property
    def console(self) -> Path:
        return self.root / "console"

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, program: str = "bootstrap.sh", *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "CAPN_ROOT": str(self.root),
            "CAPN_LIB": str(self.root / "lib"),
            "CAPN_CONSOLE": str(self.console),
            "CAPN_MODE": self.mode,
            "CAPN_ENDPOINT_HOST": "127.0.0.1",
            "CAPN_ENDPOINT_PORT": "6443",
            "CAPN_WAIT_S": "0",
            "CAPN_PAUSE_S": "0.2",
            "CAPN_INTERVAL": "0.1",
            "CAPN_INTERVAL_DONE": "0.5",
            **self.environment,
        }
        return subprocess.Popen(
            ["/bin/sh", str(self.root / "lib" / program), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, program: str = "bootstrap.sh", *arguments: str, timeout_s: float = 60) -> int:
        process = self.start(program, *arguments)
        try:
            return process.wait(timeout_s)
        finally:
            end_session(process)

    def console_bytes(self) -> bytes:
        return self.console.read_bytes()

    def reports(self) -> list[Report]:
        return ReportParser().feed(self.console_bytes())

    def stages(self) -> list[str]:
        return list(dict.fromkeys(report.stage for report in self.reports()))

    def log(self) -> str:
        return (self.root / "var/log/capn-bootstrap.log").read_text()


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End the program with whatever it started (a sleep may outlive it)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
