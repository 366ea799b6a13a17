"""A client that asks one thing again and again, each time by a new connection, and counts what went wrong.

Runs in a thread of its own while a story changes the cluster beneath it.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

INTERVAL_S = 1.0
# An emulated machine is at times silent for seconds without being gone: a slow answer is silence, not an error.
# (kubectl waits for as long as it takes, and the API server gives a request a minute.)
TIMEOUT_S = 30.0


@dataclass
class Count:
    """What a client met between two looks. `silence_s` is the longest time without an answer."""

    answers: int = 0
    errors: int = 0
    silence_s: float = 0.0
    said: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        said = "".join(f"; {number} x {text}" for text, number in self.said.items())
        return f"{self.answers} answers, {self.errors} errors, longest silence {self.silence_s:.1f} s{said}"


class SteadyClient:
    """Calls `ask` until it is closed; what `ask` raises is an error."""

    def __init__(self, name: str, ask: Callable[[], None], *, interval_s: float = INTERVAL_S) -> None:
        self.name = name
        self._ask = ask
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._count = Count()
        self._answered = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._answered = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join(timeout=TIMEOUT_S * 2)

    def take(self) -> Count:
        """What was met since the last time."""
        with self._lock:
            self._note_silence()
            taken, self._count = self._count, Count()
            self._answered = time.monotonic()
            return taken

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            said = ""
            try:
                self._ask()
            except (OSError, http.client.HTTPException) as error:
                said = f"{type(error).__name__}: {error}"[:120]
            with self._lock:
                self._note(said)

    def _note(self, said: str) -> None:
        if said:
            self._count.errors += 1
            self._count.said[said] = self._count.said.get(said, 0) + 1
            return
        self._note_silence()
        self._count.answers += 1
        self._answered = time.monotonic()

    def _note_silence(self) -> None:
        self._count.silence_s = max(self._count.silence_s, time.monotonic() - self._answered)


def get(host: str, port: int, path: str, *, tls: ssl.SSLContext | None = None) -> bytes:
    """GET by a new connection. OSError or HTTPException for anything but 200."""
    if tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=tls)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{response.status} {body[:60]!r}")
        return body
    finally:
        connection.close()
