"""`capn run` as a real process, for tests: start, wait, SIGKILL, SIGTERM, log."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parent.parent.parent


@dataclass
class ControllerProcess:
    """One controller. `settings` is what the administrator would write."""

    directory: Path
    kubeconfig: Path
    settings: Mapping[str, Any]
    port: int = field(default=0, init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.directory / "controller.log"

    def start(self, *, limit_s: float = 180.0) -> None:
        """Start and wait until /readyz says so (it may still wait for the lease)."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = self.directory / "settings.yaml"
        settings.write_text(yaml.safe_dump({**self.settings, "port": self.port}))
        words = [sys.executable, "-m", "capn", "run", f"--kubeconfig={self.kubeconfig}", f"--settings={settings}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *words],
                cwd=REPO,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(REPO)},
            )
        deadline = time.monotonic() + limit_s
        while not self.ready():
            assert self.process.poll() is None, f"the controller ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"the controller is not ready:\n{self.tail()}"
            time.sleep(0.1)

    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> str:
        """The text of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, *, limit_s: float = 40.0) -> int:
        """SIGTERM; the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(limit_s)
        finally:
            if self.process.returncode is None:
                self.kill()

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
