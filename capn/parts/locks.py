"""A lock between processes on one machine, so that two runs do not make the same thing at the same time.

Role: an async context manager over flock(2), which the kernel releases when the holder dies. Must not: delete the lock
file (another process may be waiting on that very inode).
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_POLL_S = 0.2


@asynccontextmanager
async def file_lock(path: Path, *, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Hold an exclusive lock on `path`, created if missing; `on_wait` is called once if somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        waited = False
        while not _try_lock(file.fileno()):
            if not waited:
                on_wait()
            waited = True
            await asyncio.sleep(_POLL_S)
        yield  # closing the file releases the lock


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
