"""libvirt's own event loop: one thread a process that serves keep-alives, events and console streams.

Role: started once, before the first connection (libvirt's rule). Must not: end, or print libvirt's errors to stderr.
"""

from __future__ import annotations

import functools
import threading

import libvirt
import structlog

log = structlog.get_logger(__name__)


@functools.cache
def start_event_loop() -> None:
    """Register libvirt's default event loop and run it in a daemon thread; only the first call does anything."""
    libvirt.registerErrorHandler(_be_silent, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run, name="capn-libvirt-events", daemon=True).start()


def _be_silent(_context: object, _error: object) -> None:
    """Drop what libvirt would print: every error comes as an exception as well."""


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:  # pragma: no cover - poll(2) failed; nothing better than to go on
            log.warning("libvirt's event loop stumbled", error=error.get_error_message())
