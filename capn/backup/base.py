"""The Protocol of a backup store: whole files by name, nothing half-written ever seen.

Role: the seam between the backup phase and storage; names are relative paths of plain characters
(`capn.build.snapshots`). Must not: know what the files hold.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """One store. Every call raises TransientError when it does not work now, TerminalError when a person must act."""

    async def put(self, name: str, source: Path) -> None:
        """Store the file's content: all of it or nothing."""
        ...

    def read(self, name: str) -> AsyncGenerator[bytes, None]:
        """The content, as it comes. NotFoundError when there is none. To be closed by the caller."""
        ...

    async def list(self, directory: str) -> list[str]:
        """Names of the files in that directory (which ends with `/`), sorted; empty when there is none."""
        ...

    async def delete(self, name: str) -> None:
        """Remove a file; gone already is fine."""
        ...


class Stores(Protocol):
    """Finds a store by the name that users give."""

    def get(self, name: str, field: str = "spec.backup.store") -> Store:
        """InvalidSpecError (of `field`, reason BackupStoreNotFound) when the administrator defined none."""
        ...
