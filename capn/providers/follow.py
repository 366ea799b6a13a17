"""Hears a provider's changes for ever: a stream that breaks is opened again.

Role: the one loop for whoever listens to a provider. Must not: decide what a change means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from capn.errors import CapnError
from capn.providers.base import ClusterRef, MachineRef, Provider

log = structlog.get_logger(__name__)

# How soon a provider's stream of changes is opened again after it broke.
REOPEN_S = 5.0


async def follow_changes(provider: Provider, tell: Callable[[MachineRef | ClusterRef], None], **about: str) -> None:
    """Tell of each change until cancelled; `about` goes into the log."""
    while True:
        try:
            async for ref in provider.changes():
                tell(ref)
        except CapnError as error:
            log.info("the hypervisor's events broke off; listening again", **about, error=str(error))
        except Exception:
            # Whatever one stream ran into, a VM that dies later must still be noticed.
            log.exception("listening to the hypervisor failed; listening again", **about)
        await asyncio.sleep(REOPEN_S)
