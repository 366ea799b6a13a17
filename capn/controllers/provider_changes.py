"""Listens to each provider that is in use and wakes what changed there without our doing.

Role: hands providers to reconcilers and begins to listen to one when it is first asked for, so that an endpoint that
nobody uses is never connected to. Must not: decide what a change means.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from capn.api.machine_template import Infrastructure
from capn.controllers.deps import Providers
from capn.providers.base import ClusterRef, MachineRef, Provider
from capn.providers.follow import follow_changes


class ProviderChanges:
    """`Providers` with ears."""

    def __init__(self, providers: Providers, wake: Callable[[MachineRef | ClusterRef], None]) -> None:
        self._providers = providers
        self._wake = wake
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def get(self, infrastructure: Infrastructure) -> Provider:
        """The provider; InvalidSpecError when there is none of that name."""
        provider = self._providers.get(infrastructure)
        if id(provider) not in self._tasks:
            self._tasks[id(provider)] = asyncio.create_task(
                follow_changes(provider, self._wake, kind=provider.kind),
                name=f"changes/{provider.kind}",
                context=contextvars.Context(),
            )
        return provider

    async def close(self) -> None:
        """Stop listening."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
