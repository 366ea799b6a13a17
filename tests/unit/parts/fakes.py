"""Programs and sources that the tests put in the place of slow ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from capn.errors import TerminalError
from capn.parts.catalogue import Part

TOOL = Part("tool", "v1.2.3", "parts/tool", "example.test/tool")


def write_program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@dataclass
class FakeSource:
    """Writes a one-line program; counts what it was asked for."""

    digest_text: str = "a" * 64
    supported: bool = True
    failure: str = ""
    executable: bool = True
    delay_s: float = 0.0
    fetched: list[str] = field(default_factory=list)

    def supports(self, part: Part) -> bool:  # noqa: ARG002 - the Protocol's signature
        return self.supported

    def digest(self, part: Part) -> str:  # noqa: ARG002
        return self.digest_text

    async def fetch(self, part: Part, target: Path) -> None:
        self.fetched.append(part.name)
        await asyncio.sleep(self.delay_s)
        self._write(target)

    def _write(self, target: Path) -> None:
        target.write_text("half")
        if self.failure:
            raise TerminalError(self.failure)
        target.write_text("#!/bin/sh\nexit 0\n")
        if self.executable:
            target.chmod(0o755)
