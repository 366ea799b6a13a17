"""Tenacity's only place in kube: the blips of one call (a reset connection, 429 or 503), at most three tries.

Role: keeps a passing blip from costing a reconcile its backoff. The caller bounds the whole by a deadline. Must not:
retry what may have happened already and is not idempotent, or anything that the work queue should retry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from capn.errors import UnreachableError
from capn.kube.errors import OverloadedError

T = TypeVar("T")

ATTEMPTS = 3
_jitter = wait_random_exponential(multiplier=0.1, max=2.0)


def _is_blip(error: BaseException, *, idempotent: bool) -> bool:
    if isinstance(error, OverloadedError):
        # 429: the server did nothing. A 503 may come from a proxy after the server did it.
        return idempotent or error.code == HTTPStatus.TOO_MANY_REQUESTS
    return idempotent and isinstance(error, UnreachableError)


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, OverloadedError) and error.retry_after_s is not None:
        return error.retry_after_s
    return _jitter(state)


async def retry_blips(call: Callable[[], Awaitable[T]], *, idempotent: bool) -> T:
    """`call()`, again when it met a blip; the last error is raised as it is."""
    try:
        return await call()  # nearly always enough, and tenacity costs more than the rest of the client
    except (OverloadedError, UnreachableError) as error:
        if not _is_blip(error, idempotent=idempotent):
            raise
        first: Exception | None = error

    async def again() -> T:
        nonlocal first
        if first is not None:
            met, first = first, None
            raise met  # counts as the first attempt
        return await call()

    retrying = AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=_wait_s,
        retry=retry_if_exception(lambda error: _is_blip(error, idempotent=idempotent)),
        reraise=True,
    )
    return await retrying(again)
