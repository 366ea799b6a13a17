"""The gate: passes TLS connections on to the API server that they name, unread.

Role: accepts, learns the server name, asks `find_target` where that is, and copies bytes both ways until either side
ends. TLS is between client and API server: the gate has no key, and an API server asks every client who it is. Must
not: connect to anything that `find_target` did not name, or let a slow side fill the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import structlog

from capn.errors import TerminalError
from capn.gate.client_hello import ClientHello

FindTarget = Callable[[str], tuple[str, int] | None]
"""From a TLS server name to host and port, or None."""

_HELLO_LIMIT_S = 10.0
_CONNECT_LIMIT_S = 10.0
_CHUNK = 64 * 1024
# A watch may say nothing for minutes; a peer that is gone must be noticed all the same.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))

_log = structlog.get_logger(__name__)


class Gate:
    """Listens on `bind`:`port` while `run` runs (0 takes a free one, then `port` is that); at most `connections`."""

    def __init__(self, find_target: FindTarget, *, bind: str, port: int, connections: int = 2048) -> None:
        self._find_target = find_target
        self._bind, self.port = bind, port
        self._limit = connections
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def run(self) -> None:
        """Serve until cancelled, then end every connection. TerminalError (AddressInUse) when it cannot listen."""
        await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def start(self) -> None:
        """Begin to listen."""
        try:
            self._server = await asyncio.start_server(self._accept, self._bind, self.port, limit=_CHUNK)
            self.port = int(self._server.sockets[0].getsockname()[1])
        except OSError as error:
            raise TerminalError(
                f"the gate cannot listen on {self._bind}:{self.port}: {error.strerror}; set `gate.bind` or"
                " `gate.bind_port` in the settings",
                reason="AddressInUse",
            ) from error

    async def close(self) -> None:
        """Stop listening and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A task of our own for each connection: one that asyncio makes logs an error when it is cancelled."""
        if len(self._open) >= self._limit:
            _log.warning("too many connections at the gate; one is refused", limit=self._limit)
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="gate connection")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._pass_on(reader, writer)
        except (OSError, TimeoutError) as error:
            _log.debug("connection ended", error=str(error))
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await _read_hello(reader)
        target = None if hello.name is None else self._find_target(hello.name)
        if target is None:
            peer = writer.get_extra_info("peername")
            _log.info("the gate knows no such cluster", server_name=(hello.name or "")[:253], peer=peer and peer[0])
            return
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            upstream_reader, upstream = await asyncio.open_connection(*target, limit=_CHUNK)
        try:
            _keep_alive(writer)
            _keep_alive(upstream)
            upstream.write(hello.received)
            await _copy_both(reader, writer, upstream_reader, upstream)
        finally:
            upstream.transport.abort()


async def _read_hello(reader: asyncio.StreamReader) -> ClientHello:
    hello = ClientHello()
    async with asyncio.timeout(_HELLO_LIMIT_S):
        while data := await reader.read(_CHUNK):
            if hello.feed(data):
                break
    return hello


async def _copy_both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream: asyncio.StreamWriter,
) -> None:
    """Copy until both directions have ended, or one has failed."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, upstream))
            group.create_task(_copy(upstream_reader, writer))
    except* OSError as broken:
        raise broken.exceptions[0] from None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
