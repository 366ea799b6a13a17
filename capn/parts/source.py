"""The seam between 'which program' and 'where its binary comes from'.

Role: the Protocol that the Go build and the download both fulfil, and the choice between them for each part.
Must not: know the cache's layout (that is `ensure`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from capn.parts.catalogue import Part

Report = Callable[[str], None]
"""Takes one line of progress for people."""


class PartSource(Protocol):
    """A way to get the binary of a part."""

    def supports(self, part: Part) -> bool:
        """Whether this source can deliver the part at all."""
        ...

    def digest(self, part: Part) -> str:
        """Hex digest of everything that decides the binary's content; a change means the cached one is not used."""
        ...

    async def fetch(self, part: Part, target: Path) -> None:
        """Write the executable to `target`, which does not exist yet. Raises TerminalError or UnreachableError."""
        ...


@dataclass(frozen=True)
class PreferredSource:
    """Takes each part from `first` where that supports it, otherwise from `other`."""

    first: PartSource
    other: PartSource

    def _source_of(self, part: Part) -> PartSource:
        return self.first if self.first.supports(part) else self.other

    def supports(self, part: Part) -> bool:
        """Whether either source has the part."""
        return self._source_of(part).supports(part)

    def digest(self, part: Part) -> str:
        """The digest by the source that delivers the part."""
        return self._source_of(part).digest(part)

    async def fetch(self, part: Part, target: Path) -> None:
        """Fetch from the source that delivers the part."""
        await self._source_of(part).fetch(part, target)
