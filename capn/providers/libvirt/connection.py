"""One libvirt connection shared by threads; libvirt's calls block, so none is made in the event loop.

Role: a bounded pool of threads, reconnecting once a call finds the connection broken, a time limit for the caller,
and one lock a key so that a call that outlived its caller ends before the next for the same object begins. Inputs:
functions that take a `Session`. Must not: know domains, networks or volumes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import libvirt
import structlog

from capn.errors import TransientError
from capn.providers.libvirt.errors import is_disconnect, translate, unreachable
from capn.providers.libvirt.eventloop import start_event_loop

log = structlog.get_logger(__name__)
T = TypeVar("T")

_WORKERS = 8
# A dead peer is noticed after interval * (count + 1) seconds: blocked calls then fail instead of waiting for ever.
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_COUNT = 5
DEFAULT_TIMEOUT_S = 60.0
# A host that is off holds each attempt to connect up for minutes. After one that took so long nobody tries for a while,
# so that the calls for its machines do not keep those for other hosts waiting.
_SLOW_S = 5.0
_REST_S = 15.0


class Session:
    """What one call works with. `checkpoint` goes before every write."""

    def __init__(self, conn: libvirt.virConnect, abandoned: threading.Event) -> None:
        self.conn = conn
        self._abandoned = abandoned

    def checkpoint(self) -> None:
        """Raise TransientError when the caller has given up, so that a late call does not go on writing."""
        if self._abandoned.is_set():
            raise TransientError("the caller gave up before this was done")


class KeyedLocks:
    """One lock a key, made when needed and dropped when nobody holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def hold(self, key: str | None, timeout_s: float) -> Iterator[None]:
        """Hold the key's lock; UnreachableError when an earlier call keeps it for longer than `timeout_s`."""
        if key is None:
            yield
            return
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            if not lock.acquire(timeout=timeout_s):
                raise unreachable()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, users = self._locks[key]
                self._locks[key] = (lock, users - 1)
                if users == 1:
                    del self._locks[key]


class LibvirtConnection:
    """The connection to one libvirtd, opened when first used."""

    def __init__(self, uri: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._uri = uri
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="capn-libvirt")
        self._opening = threading.Lock()
        self._conn: libvirt.virConnect | None = None
        self._rests_until = 0.0
        self._locks = KeyedLocks()
        self._closed = False

    async def run(self, work: Callable[[Session], T], *, key: str | None = None, timeout_s: float | None = None) -> T:
        """Call `work` in a thread, alone for its key. CapnErrors as they are, libvirt's translated.

        UnreachableError after `timeout_s`; `work` is then abandoned: it stops at its next checkpoint. `work` may be
        called twice, when the first call found the connection broken, so it is idempotent.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        abandoned = threading.Event()
        try:
            future = self._threads.submit(self._execute, work, abandoned, key, limit_s)
        except RuntimeError:  # closed
            raise unreachable() from None
        future.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            raise unreachable() from None
        finally:
            abandoned.set()

    def _execute(self, work: Callable[[Session], T], abandoned: threading.Event, key: str | None, limit_s: float) -> T:
        with self._locks.hold(key, limit_s):
            try:
                conn = self._connect(abandoned)
                try:
                    return work(Session(conn, abandoned))
                except libvirt.libvirtError as error:
                    if not is_disconnect(error):
                        raise
                    self._drop(conn, error)
                return work(Session(self._connect(abandoned), abandoned))
            except libvirt.libvirtError as error:
                raise translate(error) from error

    def _connect(self, abandoned: threading.Event) -> libvirt.virConnect:
        """Take the open connection, or open one; only one thread opens at a time."""
        with self._opening:
            if abandoned.is_set() or self._closed:
                raise unreachable()
            if self._conn is not None and _alive(self._conn):
                return self._conn
            began = time.monotonic()
            if began < self._rests_until:
                raise unreachable()
            start_event_loop()
            try:
                conn = libvirt.open(self._uri)
                _keep_alive(conn)
            except libvirt.libvirtError as error:
                log.info("cannot connect to libvirt", uri=self._uri, error=error.get_error_message())
                if (now := time.monotonic()) - began > _SLOW_S:
                    self._rests_until = now + _REST_S
                raise unreachable() from error
            self._conn = conn
            return conn

    def _drop(self, conn: libvirt.virConnect, error: libvirt.libvirtError) -> None:
        log.info("libvirt connection lost", uri=self._uri, error=error.get_error_message())
        with self._opening:
            if self._conn is conn:
                self._conn = None

    def run_detached(self, work: Callable[[], None]) -> None:
        """Call `work` in a thread and do not wait: for clean-up by a caller that may be cancelled."""
        with contextlib.suppress(RuntimeError):  # closed already, and everything with it
            self._threads.submit(work).add_done_callback(_retrieve)

    async def close(self) -> None:
        """Close the connection and let the threads end; one that is stuck in a call is not waited for."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(libvirt.libvirtError):
                await asyncio.to_thread(conn.close)


def _keep_alive(conn: libvirt.virConnect) -> None:
    try:
        conn.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # a driver without a peer has nothing to keep alive
            raise


def _alive(conn: libvirt.virConnect) -> bool:
    with contextlib.suppress(libvirt.libvirtError):
        return bool(conn.isAlive())
    return False


def _retrieve(future: Future[T]) -> None:
    """Look at the outcome of a call whose caller may be gone, so that it is not reported as never retrieved."""
    if not future.cancelled():
        future.exception()
