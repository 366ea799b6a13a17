"""How long each machine's child has been silent while the machine is being deleted.

Role: tells an API server that is being restarted from one that is dead, so that a drain of minutes is not given up for
a moment's silence. In memory only: a controller that restarts is patient anew, and the drain has its own time limit.
Must not: be the only limit of anything.
"""

from __future__ import annotations

from datetime import datetime, timedelta

# A child that stays silent so long is taken for dead.
PATIENCE = timedelta(minutes=1)


class Patience:
    """Since when the child of each machine (by the machine's UID) has not answered."""

    def __init__(self, limit: timedelta = PATIENCE) -> None:
        self._limit = limit
        self._since: dict[str, datetime] = {}

    def lasts(self, uid: str, now: datetime, limit: timedelta | None = None) -> bool:
        """Note that there was no answer; False once there has been none for too long."""
        return now - self._since.setdefault(uid, now) < (limit or self._limit)

    def renew(self, uid: str) -> None:
        """Note an answer, or that nobody asks any more."""
        self._since.pop(uid, None)
