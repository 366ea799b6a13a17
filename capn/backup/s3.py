"""An S3-compatible store as backup store: four requests, signed by ourselves.

Role: put, get, list and delete with path-style addresses; an object appears whole or not at all, which S3 guarantees.
Credentials are read from Secrets at each use, so that a rotated key works at once. Must not: follow redirects, or trust
the environment's proxies and credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from capn.backup.sigv4 import EMPTY_SHA256, Keys, encode_path, encode_query, sign
from capn.errors import ApiStatusError, CapnError, InvalidSpecError, NotFoundError, TransientError, UnreachableError
from capn.kube.client import KubeClient
from capn.kube.secret_keys import read_secret_key
from capn.settings import S3Store as S3Settings

_PIECE = 1 << 20
_ANSWER_BYTES = 4 << 20
_MAX_PAGES = 64
_CONNECT_S, _SILENCE_S = 10.0, 60.0
_PUT_BYTES = 5 << 30  # what S3 takes in one request
# Our own names only: they need no escaping in XML.
_KEY = re.compile(r"<Key>([A-Za-z0-9/._-]+)</Key>")
_NEXT = re.compile(r"<NextContinuationToken>([^<]+)</NextContinuationToken>")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")


class S3Store:
    """The objects below the settings' prefix in its bucket."""

    def __init__(self, settings: S3Settings, client: KubeClient, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._client = client
        self._now = now
        self._base = f"/{settings.bucket}/"
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""

    async def put(self, name: str, source: Path) -> None:
        """One PUT with the body's SHA-256, which the store checks."""
        size, digest = await asyncio.to_thread(_measure, source)
        if size > _PUT_BYTES:
            raise TransientError(f"{size} bytes are more than S3 takes in one request", reason="BackupTooLarge")
        with await asyncio.to_thread(source.open, "rb") as body:
            async with self._request("PUT", self._key(name), body=body, size=size, payload_sha256=digest):
                pass

    async def read(self, name: str) -> AsyncGenerator[bytes, None]:
        """One GET."""
        async with self._request("GET", self._key(name)) as response:
            async for piece in response.content.iter_chunked(_PIECE):
                yield piece

    async def list(self, directory: str) -> list[str]:
        """All objects in the directory, by pages."""
        prefix = self._prefix + directory
        query = {"list-type": "2", "prefix": prefix, "delimiter": "/"}
        found: list[str] = []
        for _page in range(_MAX_PAGES):
            async with self._request("GET", self._base.removesuffix("/"), query=query) as response:
                text = (await _read_capped(response)).decode("utf-8", "replace")
            found += [key.removeprefix(self._prefix) for key in _KEY.findall(text) if key.startswith(prefix)]
            following = _NEXT.search(text)
            if following is None:
                return sorted(found)
            query["continuation-token"] = following[1]
        raise TransientError(f"the backup store has too many objects below {prefix}", reason="BackupStoreUnavailable")

    async def delete(self, name: str) -> None:
        """One DELETE; S3 says yes for what is not there."""
        with contextlib.suppress(NotFoundError):
            async with self._request("DELETE", self._key(name)):
                pass

    def _key(self, name: str) -> str:
        return f"{self._base}{self._prefix}{name}"

    @contextlib.asynccontextmanager
    async def _request(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        size: int = 0,
        payload_sha256: str = EMPTY_SHA256,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A signed request that was answered with success."""
        keys = await self._keys()
        host = urlsplit(self._settings.endpoint).netloc
        headers = sign(
            keys, self._now(), method=method, host=host, path=path, query=query or {}, payload_sha256=payload_sha256
        )
        if body is not None:
            headers["Content-Length"] = str(size)
        address = self._settings.endpoint.rstrip("/") + encode_path(path)
        if query:
            address += f"?{encode_query(query)}"
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=_build_ssl(self._settings.ca_file)),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                ) as session,
                session.request(
                    method,
                    URL(address, encoded=True),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    skip_auto_headers=("Content-Type",),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S),
                ) as response,
            ):
                if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                    raise _explain(response.status, await _read_capped(response))
                yield response
        except (aiohttp.ClientError, OSError) as error:
            message = f"the backup store at {self._settings.endpoint} does not answer: {error or type(error).__name__}"
            raise UnreachableError(message, reason="BackupStoreUnavailable") from error

    async def _keys(self) -> Keys:
        settings = self._settings
        access = await read_secret_key(
            self._client, settings.access_key, what="the backup store's access key", setting="backup_stores.access_key"
        )
        secret = await read_secret_key(
            self._client, settings.secret_key, what="the backup store's secret key", setting="backup_stores.secret_key"
        )
        return Keys(access.decode().strip(), secret.decode().strip(), settings.region)


def _measure(source: Path) -> tuple[int, str]:
    with source.open("rb") as file:
        return source.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _build_ssl(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSpecError("backup_stores.ca_file", f"cannot read {ca_file}: {error}") from error


async def _read_capped(response: aiohttp.ClientResponse) -> bytes:
    data = b""
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > _ANSWER_BYTES:
            raise UnreachableError("the backup store's answer is too long", reason="BackupStoreUnavailable")
    return data


def _explain(status: int, body: bytes) -> CapnError:
    """The error of a refusal, by S3's own code."""
    code = found[1] if (found := _CODE.search(body.decode("utf-8", "replace"))) else f"HTTP {status}"
    if code == "NoSuchKey":
        return NotFoundError("the backup store has no such object")
    message = f"the backup store refuses: {code}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
        return TransientError(message, reason="BackupStoreUnavailable")
    return ApiStatusError(status, message, reason="BackupStoreRefused")
