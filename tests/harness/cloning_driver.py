"""A double of a storage driver that clones claims: each claim with a source gets a directory of the node's disk.

Real drivers need hosts with storage of their own. Here the claim, its binding, the launcher pod's mount and the disk's
file are real; only the copying of the source's content is not done.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from capn.api.resources import PERSISTENT_VOLUME_CLAIM, Resource
from capn.errors import ConflictError
from capn.kube.client import KubeClient

PERSISTENT_VOLUME = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
SOURCE = "golden"
_NAMESPACE = "tenant"
_MODES = ["ReadWriteOnce"]


def build_source(namespace: str) -> dict[str, Any]:
    """The claim that is cloned; it is never bound here."""
    spec = {"accessModes": _MODES, "storageClassName": "", "resources": {"requests": {"storage": "64Mi"}}}
    return {"metadata": {"name": SOURCE, "namespace": namespace}, "spec": spec}


class CloningDriver:
    """Runs until it is stopped; then its volumes are gone."""

    def __init__(self, admin: KubeClient, directory: Path) -> None:
        self._admin = admin
        self._directory = directory
        self._volumes: set[str] = set()
        self._task = asyncio.ensure_future(self._serve())

    @classmethod
    async def start(cls, admin: KubeClient, directory: Path) -> CloningDriver:
        """Offer the source, and clone it."""
        with contextlib.suppress(ConflictError):  # from the test before
            await admin.create(PERSISTENT_VOLUME_CLAIM, build_source(_NAMESPACE))
        return cls(admin, directory)

    async def stop(self) -> None:
        """Remove what was made."""
        self._task.cancel()
        for name in self._volumes:
            await self._admin.delete(PERSISTENT_VOLUME, name)

    async def _serve(self) -> None:
        while True:
            for claim in (await self._admin.list(PERSISTENT_VOLUME_CLAIM, namespace=_NAMESPACE)).items:
                name = f"clone-{claim['metadata']['uid']}"
                if claim["spec"].get("dataSource", {}).get("name") == SOURCE and name not in self._volumes:
                    await self._make(name, claim)
            await asyncio.sleep(0.3)

    async def _make(self, name: str, claim: dict[str, Any]) -> None:
        path = self._directory / name
        path.mkdir(parents=True)
        path.chmod(0o777)
        meta, wanted = claim["metadata"], claim["spec"]
        spec = {
            "capacity": wanted["resources"]["requests"],
            "accessModes": wanted["accessModes"],
            "storageClassName": wanted.get("storageClassName", ""),
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(path)},
            "claimRef": {"namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
        }
        await self._admin.create(PERSISTENT_VOLUME, {"metadata": {"name": name}, "spec": spec})
        self._volumes.add(name)
