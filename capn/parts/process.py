"""Runs one program to its end without blocking the event loop.

Role: argv in, exit status and the last lines of its output out. Must not: use a shell, keep unbounded output, or leave
a child behind when the caller is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capn.errors import NotFoundError, TerminalError

TAIL_LINES = 30
_GRACE_S = 5.0
_LINE_LIMIT = 1 << 20


@dataclass(frozen=True)
class Finished:
    """How a program ended: its exit status (negative: killed by that signal) and its last lines of output."""

    argv: tuple[str, ...]
    status: int
    tail: tuple[str, ...]

    def require_success(self, what: str, *, reason: str) -> Finished:
        """Return self if the status is 0; else raise TerminalError with the last lines of the output."""
        if self.status == 0:
            return self
        lines = "\n  ".join(self.tail) or "(no output)"
        raise TerminalError(f"{what}: {self.argv[0]} ended with status {self.status}:\n  {lines}", reason=reason)


async def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    tail_lines: int = TAIL_LINES,
) -> Finished:
    """Run a program with `env` added to ours and no standard input. Raises NotFoundError when it is not installed."""
    words = tuple(str(word) for word in argv)
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        # The same error stands for a missing program and for a missing working directory. A program that is nowhere is
        # not permitted when PATH has a directory that this user may not read.
        raise NotFoundError(f"{error.filename or words[0]} is not installed or does not exist") from error
    try:
        tail = await _read_tail(process, tail_lines)
        return Finished(words, await process.wait(), tail)
    except BaseException:
        await asyncio.shield(stop_group(process))
        raise


async def _read_tail(process: asyncio.subprocess.Process, tail_lines: int) -> tuple[str, ...]:
    assert process.stdout is not None  # noqa: S101 - we asked for a pipe
    tail: deque[str] = deque(maxlen=tail_lines)
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:  # one line longer than the limit: its bytes are dropped, the program goes on
            continue
        if not line:
            return tuple(tail)
        tail.append(line.decode(errors="replace").rstrip())


async def stop_group(process: asyncio.subprocess.Process) -> None:
    """End the process and its children: SIGTERM, then SIGKILL after five seconds. Does nothing if it has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
