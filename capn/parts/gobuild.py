"""Builds parts from the pinned Go modules below `hack/`.

Role: a `PartSource`. Inputs: a `Part` and the modules; Go's own environment (GOPROXY, GOCACHE ...) is respected.
Output: a stripped executable. Must not: change `go.mod` or `go.sum`, or run more than `jobs` compilers.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from capn.errors import NotFoundError
from capn.parts.catalogue import CPart, Part
from capn.parts.gomodule import REASON, find_module
from capn.parts.hack import hack_dir
from capn.parts.process import Finished, run

_ATTEMPTS = 3
# What Go prints when the module proxy stumbles; anything else is a real failure and is not tried again.
_BLIPS = (
    "i/o timeout",
    "connection reset",
    "TLS handshake timeout",
    "unexpected EOF",
    "502 Bad",
    "503 Serv",
    "504 Gate",
)


@dataclass(frozen=True)
class GoBuildSource:
    """Compiles with the `go` on PATH, `jobs` packages at a time."""

    hack: Path = field(default_factory=hack_dir)
    jobs: int = 2
    retry_delay_s: float = 5.0

    def supports(self, part: Part) -> bool:
        """Whether a pinned module for the part is there."""
        return (self.hack / part.module / "go.mod").is_file()

    def digest(self, part: Part) -> str:
        """Hash of the part's build options and of every file of its module."""
        digest = hashlib.sha256(repr(part).encode())
        module = self.hack / part.module
        for path in sorted(module.glob("*")):
            if path.suffix in {".go", ".mod", ".sum"}:
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    async def fetch(self, part: Part, target: Path) -> None:
        """Compile the part. Raises TerminalError with the compiler's last lines, NotFoundError without Go."""
        for attempt in range(1, _ATTEMPTS + 1):
            finished = await self._build(part, target)
            if finished.status == 0:
                return
            if attempt == _ATTEMPTS or not _is_blip(finished):
                finished.require_success(f"building {part.name} {part.version}", reason=REASON)
            await asyncio.sleep(self.retry_delay_s * attempt)

    async def _build(self, part: Part, target: Path) -> Finished:
        environment = {
            "CGO_ENABLED": "1" if part.cgo else "0",
            "GOOS": "linux",
            "GOWORK": "off",
            "GOFLAGS": "",  # a user's own flags would make two builds of the same inputs differ
        }
        try:
            if isinstance(part, CPart):
                module = await find_module(part.package, pinned_by=self.hack / part.module)
                return await run(_c_argv(module / part.source, target))
            return await run(self.argv(part, target), cwd=self.hack / part.module, env=environment)
        except NotFoundError as error:
            if not self.supports(part):
                raise NotFoundError(f"no pinned module for {part.name} in {self.hack / part.module}") from error
            raise NotFoundError("go is not installed: install Go 1.26 or newer, or set a download address") from error

    def argv(self, part: Part, target: Path) -> list[str]:
        """The `go build` command for the part."""
        tags = [f"-tags={','.join(part.tags)}"] if part.tags else []
        options = ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-p={self.jobs}", *tags]
        return ["go", "build", *options, f"-ldflags={' '.join(part.ldflags)}", f"-o={target}", part.package]


def _c_argv(source: Path, target: Path) -> list[str]:
    return ["gcc", "-O2", "-static", "-s", "-o", str(target), str(source)]


def _is_blip(finished: Finished) -> bool:
    return any(sign in line for line in finished.tail for sign in _BLIPS)
