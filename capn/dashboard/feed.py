"""The tree as it is now, for any number of onlookers.

Role: one reader asks the API every so often, whoever looks; onlookers wait for the next state that differs from the one
that they have, so a slow one misses states and piles up nothing. Inputs: a function that reads. Outputs: numbered JSON
texts. Must not: end because the API does not answer: it says so and keeps what it had.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from capn.errors import CapnError

ReadTree = Callable[[], Awaitable[list[dict[str, Any]]]]
"""Clusters with those below them, JSON-shaped, as `capn tree -o json` has them."""


@dataclass(frozen=True, slots=True)
class State:
    """What onlookers are shown: a number that grows, and the page's data."""

    number: int
    text: str


class TreeFeed:
    """Reads while `run` runs. `parent` is what the page calls the root."""

    def __init__(self, read: ReadTree, *, parent: str, interval_s: float = 1.0) -> None:
        self._read = read
        self._parent = parent
        self._interval_s = interval_s
        self._clusters: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self.state = State(0, self._encode(error="nothing was read yet"))

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval_s)

    async def look(self) -> None:
        """Read once; onlookers hear of it if anything differs."""
        error = ""
        try:
            self._clusters = await self._read()
        except CapnError as trouble:
            error = str(trouble)
        text = self._encode(error=error)
        if text != self.state.text:
            self.state = State(self.state.number + 1, text)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def next(self, after: int, *, limit_s: float) -> State | None:
        """The newest state whose number is not `after`; None when there was none within `limit_s`."""
        if self.state.number == after:
            try:
                async with asyncio.timeout(limit_s):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return self.state

    def _encode(self, *, error: str) -> str:
        data = {"parent": self._parent, "error": error, "clusters": self._clusters}
        return json.dumps(data, separators=(",", ":"))
