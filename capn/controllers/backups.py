"""What backups need over reconciles: the stores, and when a cluster whose backup failed may try again.

Role: in memory only; a controller that starts anew tries at once. Must not: know what is stored.
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta

from capn.backup.base import Store, Stores


class Backups:
    """The administrator's stores, and pauses by the cluster's UID."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._pauses: dict[str, tuple[Hashable, datetime]] = {}

    def get(self, name: str, field: str = "spec.backup.store") -> Store:
        """InvalidSpecError (of `field`, reason BackupStoreNotFound) when the administrator defined none."""
        return self._stores.get(name, field)

    def pause_s(self, uid: str, cause: Hashable, now: datetime) -> float:
        """Seconds until the next attempt; 0 when it may be made now, as for another cause than the one that failed."""
        failed, until = self._pauses.get(uid, (None, now))
        return max(0.0, (until - now).total_seconds()) if failed == cause else 0.0

    def postpone(self, uid: str, cause: Hashable, now: datetime, seconds: float) -> None:
        """No attempt for that cause for that long."""
        self._pauses[uid] = (cause, now + timedelta(seconds=seconds))

    def forget(self, uid: str) -> None:
        """The cluster is fine, or gone."""
        self._pauses.pop(uid, None)
