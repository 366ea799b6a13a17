"""Downloads release binaries, checked against their published SHA-256, from a server that the user's setting names.

Role: a `PartSource`. Layout: `<base>/release/<version>/bin/linux/<arch>/<name>` with `<name>.sha256` beside it, as the
Kubernetes project publishes its own. Must not: have a default address, or leave a file whose checksum did not match.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from capn.errors import NotFoundError, TerminalError, UnreachableError
from capn.parts.catalogue import Part

CHECKSUM_REASON = "ChecksumMismatch"
_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HTTP_NOT_FOUND = 404
_HTTP_SERVER_ERROR = 500
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def host_architecture() -> str:
    """This machine's architecture in Go's words (`amd64`, `arm64`), or the kernel's word if it is another one."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


@dataclass(frozen=True)
class DownloadSource:
    """Takes parts from `base_url`; only `published` ones unless `everything` says that the server holds all of them."""

    base_url: str
    everything: bool = False
    architecture: str = field(default_factory=host_architecture)
    stall_timeout_s: float = 60.0
    attempts: int = 3
    retry_delay_s: float = 2.0

    def supports(self, part: Part) -> bool:
        """Whether the server is expected to hold the part."""
        return part.published or self.everything

    def url(self, part: Part) -> str:
        """Where the part's binary is."""
        base = self.base_url.rstrip("/")
        return f"{base}/release/{part.version}/bin/linux/{self.architecture}/{part.name}"

    def digest(self, part: Part) -> str:
        """Hash of the part's address."""
        return hashlib.sha256(self.url(part).encode()).hexdigest()

    async def fetch(self, part: Part, target: Path) -> None:
        """Download to `target` and make it executable.

        Raises NotFoundError (404), UnreachableError (a broken answer or none, each time), TerminalError (checksum).
        """
        for attempt in range(1, self.attempts + 1):
            try:
                await self._fetch_once(part, target)
            except UnreachableError:
                if attempt == self.attempts:
                    raise
                await asyncio.sleep(self.retry_delay_s * attempt)
            else:
                return

    async def _fetch_once(self, part: Part, target: Path) -> None:
        url = self.url(part)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.stall_timeout_s, sock_read=self.stall_timeout_s)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
                expected = await _fetch_checksum(session, f"{url}.sha256")
                actual = await _fetch_file(session, url, target)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnreachableError(f"{url}: {error or type(error).__name__}", reason="DownloadFailed") from error
        _finish(target, url=url, actual=actual, expected=expected)


def _finish(target: Path, *, url: str, actual: str, expected: str) -> None:
    """Make the file executable if its checksum is right, else remove it."""
    if actual != expected:
        target.unlink(missing_ok=True)
        message = f"{url}: SHA-256 is {actual}, but {expected} is published; check the server named in the setting"
        raise TerminalError(message, reason=CHECKSUM_REASON)
    target.chmod(0o755)


@asynccontextmanager
async def _get(session: aiohttp.ClientSession, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
    async with session.get(url) as response:
        if response.status == _HTTP_NOT_FOUND:
            raise NotFoundError(f"{url}: not found (404); check the download address and the version")
        if response.status >= _HTTP_SERVER_ERROR:
            raise UnreachableError(f"{url}: the server answered {response.status}", reason="DownloadFailed")
        if not response.ok:
            raise TerminalError(f"{url}: the server answered {response.status}", reason="DownloadFailed")
        yield response


async def _fetch_checksum(session: aiohttp.ClientSession, url: str) -> str:
    async with _get(session, url) as response:
        words = (await response.text(errors="replace")).split()
    if not words or not _SHA256.fullmatch(words[0]):
        raise TerminalError(f"{url}: does not hold a SHA-256 checksum", reason=CHECKSUM_REASON)
    return words[0]


async def _fetch_file(session: aiohttp.ClientSession, url: str, target: Path) -> str:
    """Stream the body to `target`; returns its SHA-256. aiohttp itself raises when the body ends early."""
    digest = hashlib.sha256()
    async with _get(session, url) as response:
        with target.open("wb") as file:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
    return digest.hexdigest()
