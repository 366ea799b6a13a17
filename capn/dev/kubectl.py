"""kubectl as a program, for what a person would do with it.

Role: argv in, output out. Inputs: the binary and a kubeconfig. Must not: be used by the controller.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capn.errors import TerminalError


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl for one cluster."""

    binary: Path
    kubeconfig: Path

    async def run(self, *args: str, stdin: str | None = None, limit_s: float = 120.0) -> str:
        """Standard output. TerminalError with what kubectl said when it fails or does not end within `limit_s`."""
        process = await asyncio.create_subprocess_exec(
            str(self.binary),
            f"--kubeconfig={self.kubeconfig}",
            *args,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # kubectl's discovery cache is keyed by address, and loopback ports are reused by other parents.
            env={**os.environ, "KUBECACHEDIR": str(self.kubeconfig.parent / "kubectl-cache")},
        )
        words = " ".join(args[:4])
        try:
            data = None if stdin is None else stdin.encode()
            async with asyncio.timeout(limit_s):
                out, err = await process.communicate(data)
        except TimeoutError as error:
            raise TerminalError(f"kubectl {words}: no end after {limit_s:.0f} s", reason="KubectlFailed") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            said = (err or out).decode(errors="replace").strip()
            raise TerminalError(f"kubectl {words}: {said}", reason="KubectlFailed")
        return out.decode(errors="replace")

    async def apply(self, *manifests: Mapping[str, Any]) -> str:
        """`kubectl apply` of these manifests.

        Without kubectl's own validation: for that it fetches the whole OpenAPI document, which an API server under
        software emulation takes longer to write than kubectl waits.
        """
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        return await self.run("apply", "--validate=false", "-f", "-", stdin=json.dumps(listed))

    async def json(self, *args: str) -> Any:  # noqa: ANN401 - JSON
        """The parsed answer of a command with `-o json`."""
        return json.loads(await self.run(*args, "-o", "json"))
