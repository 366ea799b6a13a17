"""HTTP to one API server: one aiohttp session, bodies capped, failures as `UnreachableError`.

Role: below `HttpKubeClient`, above aiohttp. Inputs are paths and bytes, outputs statuses and bytes. Redirects are never
followed. Must not: know Kubernetes objects, decide about retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import aiohttp
from yarl import URL

from capn.errors import UnreachableError

MIB = 1 << 20
_MAX_DIGITS = 5
CONNECT_TIMEOUT_S = 10.0
_READ_BYTES = 1 << 16  # aiohttp's own
# Text of every failure to connect; the address is in aiohttp's own text.
_NO_ANSWER = "no answer from the API server"


@dataclass(frozen=True, slots=True)
class Limits:
    """Most bytes of an answer: a single object (also a watch line), a list, anything else."""

    object_bytes: int = 16 * MIB
    list_bytes: int = 256 * MIB
    raw_bytes: int = MIB


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    body: bytes
    retry_after_s: float | None = None


class Response(aiohttp.ClientResponse):
    """An answer whose connection, when it cannot serve another request, is dropped and not taken leave of.

    aiohttp ends such a TLS connection by a farewell that a busy or dead server answers late or never, and forgets it:
    what is cancelled (watches, calls past their deadline) would keep a descriptor for half a minute after `close()`.
    """

    def close(self) -> None:
        """End it at once."""
        self._drop()
        super().close()

    def release(self) -> Any:  # noqa: ANN401 - as aiohttp declares it
        """Give the connection back to the session, or end it when the answer was not read to its end."""
        protocol = self.connection.protocol if self.connection is not None else None
        if protocol is not None and protocol.should_close:
            self._drop()
        return super().release()

    def _drop(self) -> None:
        if self.connection is not None and (transport := self.connection.transport) is not None:
            transport.abort()


def build_session(
    connector: aiohttp.BaseConnector | None,
    *,
    owner: bool = True,
    read_bytes: int = _READ_BYTES,
    auto_decompress: bool = True,
    traces: Sequence[aiohttp.TraceConfig] = (),
) -> aiohttp.ClientSession:
    """A session that keeps no cookies and asks the environment (proxies, ~/.netrc) nothing.

    `owner`: its end is that of the connections; `read_bytes` of an answer come in at once; `auto_decompress`: whether a
    compressed one is opened.
    """
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=owner,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=auto_decompress,
        read_bufsize=read_bytes,
        response_class=Response,
        trace_configs=list(traces),
    )


async def _no_headers() -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A session with an API server. `authorize` gives the headers of a request (it may refresh a token)."""

    base_url: str
    session: aiohttp.ClientSession = field(repr=False)
    authorize: Callable[[], Awaitable[dict[str, str]]] = field(default=_no_headers, repr=False)
    request_args: Mapping[str, Any] = field(default_factory=dict, repr=False)
    limits: Limits = field(default_factory=Limits)

    async def send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        limit: int,
        body: bytes | BinaryIO | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, answered in full; a file as body is streamed.

        UnreachableError when there is no answer or it is larger than `limit`.
        """
        async with self._open(method, path, body=body, content_type=content_type, more=headers) as response:
            data = await _read(response, limit)
            return Answer(response.status, data, _retry_after(response))

    @contextlib.asynccontextmanager
    async def stream(self, path: str, *, silence_s: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """A GET whose body is read as it comes; UnreachableError when nothing comes for `silence_s` seconds."""
        async with self._open("GET", path, silence_s=silence_s) as response:
            keep_alive(_socket_of(response))
            yield response

    async def close(self) -> None:
        """End all connections."""
        await self.session.close()

    @contextlib.asynccontextmanager
    async def _open(  # noqa: PLR0913 - as of send
        self,
        method: str,
        path: str,
        *,
        body: bytes | BinaryIO | None = None,
        content_type: str | None = None,
        more: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "capn", **(more or {})}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            headers.update(await self.authorize())
            async with self.session.request(
                method,
                URL(self.base_url + path, encoded=True),
                data=body,
                headers=headers,
                expect100=not isinstance(body, bytes | None),  # a file may be refused before it is sent
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s),
                **self.request_args,
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError) as error:
            # TimeoutError is an OSError: aiohttp's own timeouts land here too, the caller's deadline does not.
            raise UnreachableError(f"{_NO_ANSWER}: {_describe(error)}") from error
        except RuntimeError as error:
            if self.session.closed:  # aiohttp says 'Session is closed' by a bare RuntimeError
                raise UnreachableError(f"{_NO_ANSWER}: the client is closed") from error
            raise


async def read_lines(response: aiohttp.ClientResponse, limit: int) -> AsyncGenerator[bytes, None]:
    """The lines of a body as they come, none longer than `limit` bytes (UnreachableError)."""
    # aiohttp's readline has a fixed limit of its own; objects are larger.
    pending: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            pending.append(part)
            line = b"".join(pending)
            pending, size = [], 0
            if line:
                yield line
        if rest:
            pending.append(rest)
            size += len(rest)
            if size > limit:
                raise UnreachableError(f"a watch line is longer than {limit} bytes")


async def read_capped(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body; UnreachableError when it is longer than `limit` bytes."""
    return await _read(response, limit)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            response.close()  # or the session would go on reading what nobody wants
            raise UnreachableError(f"the answer is longer than {limit} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    # Kubernetes sends seconds only; a date or nonsense of a hostile server counts as not told.
    return float(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _socket_of(response: aiohttp.ClientResponse) -> socket.socket | None:
    transport = response.connection.transport if response.connection else None
    return transport.get_extra_info("socket") if transport else None


def keep_alive(sock: socket.socket | None) -> None:
    """Let the kernel notice a dead peer of a long-lived, mostly silent connection in about 30 s."""
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):  # not on every system
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _describe(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__
