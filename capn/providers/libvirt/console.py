"""Serial consoles as streams of bytes.

Role: opens a domain's console through libvirt (so a remote hypervisor works like a local one) and hands chunks from
libvirt's event thread to the event loop. Memory is bounded: a reader that is too slow loses the oldest bytes, which is
harmless because guests repeat their reports. Must not: interpret what the guest prints.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

import libvirt

from capn.errors import NotFoundError, TransientError
from capn.providers.base import MachineRef
from capn.providers.libvirt.connection import LibvirtConnection, Session
from capn.providers.libvirt.domains import find_domain

_CHUNK = 16 * 1024
_BACKLOG_BYTES = 512 * 1024
_WOULD_BLOCK = -2
_READ = libvirt.VIR_STREAM_EVENT_READABLE
_END = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class ConsoleStream:
    """One open console: filled by libvirt's thread, drained by the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready = asyncio.Event()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._stream: libvirt.virStream | None = None

    def open(self, session: Session, ref: MachineRef) -> None:
        """Attach to the domain's console, taking it from any other reader. Blocking; in a thread."""
        domain = find_domain(session, ref)
        if domain is None:
            raise NotFoundError(f"{ref.name} has no VM")
        if not domain.handle.isActive():
            raise TransientError(f"the VM of {ref.name} does not run")
        stream = session.conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        domain.handle.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        self._stream = stream
        stream.eventAddCallback(_READ | _END, self._on_event, None)

    def close(self) -> None:
        """Detach. Blocking; in a thread."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with contextlib.suppress(libvirt.libvirtError):
            stream.eventRemoveCallback()
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield bytes as they come, until the console ends."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._size -= len(chunk)
                yield chunk
            if self._ended:
                return
            self._ready.clear()
            await self._ready.wait()

    def _on_event(self, stream: libvirt.virStream, events: int, _opaque: object) -> None:
        """Read all that is there; called in libvirt's event thread, so nothing may be raised."""
        ended = bool(events & _END)
        try:
            while True:
                data = stream.recv(_CHUNK)
                if data == _WOULD_BLOCK:
                    break
                if not data:
                    ended = True
                    break
                self._post(data)
        except libvirt.libvirtError:
            ended = True
        if ended:
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
            self._post(None)

    def _post(self, data: bytes | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._accept, data)

    def _accept(self, data: bytes | None) -> None:
        if data is None:
            self._ended = True
        else:
            self._chunks.append(data)
            self._size += len(data)
            while self._size > _BACKLOG_BYTES:
                self._size -= len(self._chunks.popleft())
        self._ready.set()


async def read_console(connection: LibvirtConnection, ref: MachineRef) -> AsyncIterator[bytes]:
    """Yield the console's bytes from now on. NotFoundError without a VM; ends when the VM or the stream does."""
    stream = ConsoleStream(asyncio.get_running_loop())
    try:
        await connection.run(lambda session: stream.open(session, ref), key=f"console/{ref.uid}")
        async for chunk in stream.chunks():
            yield chunk
    finally:
        # Shielded by its own thread: the reader may be cancelled right here.
        connection.run_detached(stream.close)
