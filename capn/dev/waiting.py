"""Waiting for a condition with a limit.

Role: the only polling loop of `capn.dev`. Must not: swallow errors of what it polls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from capn.errors import TransientError


class WaitTimeoutError(TransientError):
    """Something did not come true within its limit; the message says what was seen last."""

    default_reason = "Timeout"


async def wait_until(
    what: str, check: Callable[[], Awaitable[str | None]], *, limit_s: float, interval_s: float = 1.0
) -> None:
    """Call `check` until it returns None; what it returns before is why not yet. WaitTimeoutError after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while (missing := await check()) is not None:
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"{what}: not after {limit_s:.0f} s; still missing: {missing}")
        await asyncio.sleep(interval_s)
