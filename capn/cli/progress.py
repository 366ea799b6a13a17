"""Draws steps for people: a spinner and ticks on a terminal, plain lines with times otherwise.

Role: the implementations of `capn.dev.progress.Progress`. Inputs: a stream, NO_COLOR. Must not: decide anything.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from capn.dev.progress import Progress, Timing, format_elapsed

if TYPE_CHECKING:
    from rich.console import Console

    from capn.parts.source import Report


class PlainProgress:
    """One ` * step ...` line at the start and one with the time at the end; details indented, with the elapsed time."""

    def __init__(self, stream: TextIO) -> None:
        self.timings: list[Timing] = []
        self._stream = stream

    @contextmanager
    def step(self, title: str) -> Iterator[Report]:
        """One step."""
        started = time.monotonic()
        self.line(f" * {title} ...")

        def report(text: str) -> None:
            self.line(f"   {format_elapsed(time.monotonic() - started):>5}  {text}")

        try:
            yield report
        except BaseException:
            self.line(f" * {title} ... FAILED ({time.monotonic() - started:.0f} s)")
            raise
        seconds = time.monotonic() - started
        self.timings.append(Timing(title, seconds))
        self.line(f" * {title} ... done ({seconds:.0f} s)")

    def line(self, text: str) -> None:
        """Print at once, so that a pipe shows it too."""
        print(text, file=self._stream, flush=True)


class TerminalProgress:
    """A spinner with the elapsed time while a step runs, then a tick; details stay as dim lines above the spinner."""

    def __init__(self, console: Console) -> None:
        self.timings: list[Timing] = []
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Report]:
        """One step."""
        from rich.progress import Progress as Bar  # noqa: PLC0415 - `capn --help` shall be fast
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        started = time.monotonic()

        def report(text: str) -> None:
            elapsed = format_elapsed(time.monotonic() - started)
            self._console.print(f"   {elapsed:>5}  {text}", style="dim", markup=False, highlight=False)

        bar = Bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=self._console,
                  transient=True)  # fmt: skip
        try:
            with bar:
                bar.add_task(title, total=None)
                yield report
        except BaseException:
            self._end("✗", "red", title, time.monotonic() - started)
            raise
        seconds = time.monotonic() - started
        self.timings.append(Timing(title, seconds))
        self._end("✓", "green", title, seconds)

    def _end(self, mark: str, colour: str, title: str, seconds: float) -> None:
        from rich.text import Text  # noqa: PLC0415

        self._console.print(Text.assemble(" ", (mark, colour), f" {title} ", (f"({seconds:.0f} s)", "dim")))

    def line(self, text: str) -> None:
        """Print without interpreting markup."""
        self._console.print(text, markup=False, highlight=False)


def make_progress(stream: TextIO | None = None) -> Progress:
    """The form that fits the stream: a terminal gets the spinner. NO_COLOR and TERM=dumb are respected."""
    out = sys.stdout if stream is None else stream
    if not out.isatty() or os.environ.get("TERM") == "dumb":
        return PlainProgress(out)
    from rich.console import Console  # noqa: PLC0415

    return TerminalProgress(Console(file=out))
