"""A WebSocket to an API server, on the connections of a `Transport` and as strict as its requests.

Role: the opening handshake with the transport's TLS, server name, proxy and credentials. aiohttp's own would follow
redirects, which a hostile child could send anywhere, and drops the body of a refusal: both are handled here. Must not:
know what is said over it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace

import aiohttp
from yarl import URL

from capn.errors import UnreachableError
from capn.kube.errors import build_error, decode_status
from capn.kube.transport import MIB, Transport, build_session, keep_alive, read_capped

_SWITCHED = 101
_CLOSE_S = 1.0
_MESSAGE_BYTES = MIB  # an API server sends pieces of 32 KiB


class _RefusedError(Exception):
    """The server answered the handshake with something else than 'Switching Protocols'."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


@contextlib.asynccontextmanager
async def open_websocket(
    transport: Transport, path: str, *, protocols: Sequence[str], what: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket that speaks one of `protocols` (`.protocol` says which). The caller bounds the time that this takes.

    The error of the server's refusal, as for any request; UnreachableError when there is no answer.
    """
    if transport.session.closed:
        raise UnreachableError(f"{what}: the client is closed")
    headers = {"User-Agent": "capn", **await transport.authorize()}
    session = build_session(transport.session.connector, owner=False, traces=[_build_trace(transport.limits.raw_bytes)])
    try:
        async with session:
            socket = await session.ws_connect(
                URL(transport.base_url + path, encoded=True),
                protocols=protocols,
                headers=headers,
                max_msg_size=_MESSAGE_BYTES,
                **transport.request_args,
            )
            try:
                keep_alive(socket.get_extra_info("socket"))
                yield socket
            finally:
                await _close(socket)
    except _RefusedError as refused:
        raise build_error(refused.status, decode_status(refused.body), what=what) from refused
    except (aiohttp.ClientError, OSError) as error:
        raise UnreachableError(f"{what}: no answer from the API server: {error or type(error).__name__}") from error


async def _close(socket: aiohttp.ClientWebSocketResponse) -> None:
    # aiohttp waits for the other side's farewell with a limit for each message: one that goes on talking has no end.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await socket.close()


def _build_trace(limit: int) -> aiohttp.TraceConfig:
    """What sees the answer to the handshake before aiohttp acts on it."""

    async def refuse_redirect(
        _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        params.response.close()
        raise _RefusedError(params.response.status, b"")

    async def refuse_others(
        _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        if params.response.status != _SWITCHED:
            try:
                body = await read_capped(params.response, limit)
            finally:
                params.response.close()
            raise _RefusedError(params.response.status, body)

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse_redirect)
    trace.on_request_end.append(refuse_others)
    return trace
