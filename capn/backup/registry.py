"""The administrator's backup stores by name, made from the settings.

Role: `Stores` for production. Must not: connect to anything before a store is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from capn.backup.base import Store
from capn.backup.directory import DirectoryStore
from capn.backup.s3 import S3Store
from capn.errors import InvalidSpecError
from capn.kube.client import KubeClient
from capn.settings import BackupStore
from capn.settings import DirectoryStore as DirectorySettings


class StoreRegistry:
    """Stores by the names that users give."""

    def __init__(self, stores: Mapping[str, BackupStore], client: KubeClient, now: Callable[[], datetime]) -> None:
        self._stores = {name: _build(settings, client, now) for name, settings in stores.items()}

    def get(self, name: str, field: str = "spec.backup.store") -> Store:
        """The store. InvalidSpecError (of `field`) names those that there are."""
        store = self._stores.get(name)
        if store is None:
            known = ", ".join(sorted(self._stores)) or "none"
            message = f"{name!r} is no backup store of the settings (backup_stores); known: {known}"
            raise InvalidSpecError(field, message, reason="BackupStoreNotFound")
        return store


def _build(settings: BackupStore, client: KubeClient, now: Callable[[], datetime]) -> Store:
    if isinstance(settings, DirectorySettings):
        return DirectoryStore(settings.path)
    return S3Store(settings, client, now)
