"""Tells when a machine's VM changes without our doing.

Role: libvirt's lifecycle events, from its event thread to an asynchronous iterator; survives a daemon that restarts,
after which every known machine is reported, since events may have been missed. Must not: decide anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import libvirt
import structlog

from capn.errors import CapnError
from capn.providers.base import MachineRef
from capn.providers.libvirt.connection import LibvirtConnection, Session
from capn.providers.libvirt.domains import list_owned

log = structlog.get_logger(__name__)

_RETRY_S = 2.0
_ALIVE_EVERY_S = 5.0
_REPORTED = frozenset(
    {
        libvirt.VIR_DOMAIN_EVENT_STOPPED,
        libvirt.VIR_DOMAIN_EVENT_CRASHED,
        libvirt.VIR_DOMAIN_EVENT_UNDEFINED,
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED,
        libvirt.VIR_DOMAIN_EVENT_RESUMED,
        libvirt.VIR_DOMAIN_EVENT_STARTED,
    }
)


class ChangeFeed:
    """The stream of changed machines. `known` maps VM UUIDs to machines: an undefined domain has no stamp to read."""

    def __init__(self, connection: LibvirtConnection, known: dict[str, MachineRef]) -> None:
        self._connection = connection
        self._known = known

    async def changes(self) -> AsyncIterator[MachineRef]:
        """Yield machines as their VMs change; never ends by itself."""
        first = True
        while True:
            subscription = _Subscription(asyncio.get_running_loop())
            try:
                present = await self._connection.run(subscription.open)
                for ref in [] if first else [*self._known.values(), *present]:
                    yield ref
                first = False
                async for uuid in subscription.uuids():
                    changed = self._known.get(uuid)
                    if changed is not None:
                        yield changed
            except CapnError as error:
                log.debug("no events from libvirt", error=str(error))
                first = False
            finally:
                self._connection.run_detached(subscription.close)
            await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret


class _Subscription:
    """Events of one connection, until that connection ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._conn: libvirt.virConnect | None = None
        self._callback: int | None = None

    def open(self, session: Session) -> list[MachineRef]:
        """Subscribe, then list what is there. Blocking."""
        self._conn = session.conn
        kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        self._callback = session.conn.domainEventRegisterAny(None, kind, self._on_event, None)
        return list_owned(session, None)

    def close(self) -> None:
        """Unsubscribe. Blocking."""
        conn, callback, self._conn, self._callback = self._conn, self._callback, None, None
        if conn is not None and callback is not None:
            with contextlib.suppress(libvirt.libvirtError):
                conn.domainEventDeregisterAny(callback)

    async def uuids(self) -> AsyncIterator[str]:
        """Yield UUIDs of changed domains, until the connection is dead."""
        while True:
            try:
                async with asyncio.timeout(_ALIVE_EVERY_S):
                    uuid = await self._queue.get()
            except TimeoutError:
                # No RPC: this asks our own end of the connection, which keep-alive watches.
                if self._conn is None or not self._conn.isAlive():
                    return
                continue
            yield uuid

    def _on_event(
        self, _conn: libvirt.virConnect, domain: libvirt.virDomain, event: int, _detail: int, _opaque: object
    ) -> None:
        """Pass on the domain's UUID; called in libvirt's event thread."""
        if event in _REPORTED:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._queue.put_nowait, domain.UUIDString())
