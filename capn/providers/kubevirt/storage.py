"""Where a machine's root disk comes from: what the cluster that runs the VMs offers, and a volume that is cloned.

Role: the choice behind `root_disk`, and the claim of a disk that the storage driver clones. Asked once a machine, when
its VM is made; what exists is never changed. Must not: guess: a refusal by RBAC is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capn.api.resources import DATA_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS
from capn.build.kubevirt_objects import RootDisk, build_volume_claim
from capn.errors import NotFoundError, TransientError
from capn.kube.client import KubeClient
from capn.providers.adopt import create_or_adopt
from capn.providers.base import MachineRequest
from capn.providers.checks import image_name
from capn.providers.kubevirt.place import Place
from capn.providers.stamps import build_stamp
from capn.settings import KubeVirtEndpoint

# Sources: KEP-1845 and https://github.com/kubevirt/containerized-data-importer/blob/main/doc/datavolumes.md
_DEFAULT_CLASS = ("storageclass.kubevirt.io/is-default-virt-class", "storageclass.kubernetes.io/is-default-class")


@dataclass(frozen=True, slots=True)
class Storage:
    """What a cluster has: CDI or not, the names of its StorageClasses, the one that is used when none is named."""

    imports: bool
    classes: tuple[str, ...]
    default: str | None

    def offers(self, wanted: str | None) -> bool:
        """Whether a DataVolume of this class (None: the default) can be made."""
        return self.imports and (self.default is not None if wanted is None else wanted in self.classes)


async def find_storage(client: KubeClient, namespace: str | None = None) -> Storage:
    """Ask the cluster. ApiStatusError when it will not say; `namespace`: where DataVolumes may be listed."""
    classes = (await client.list(STORAGE_CLASS)).items
    default = next((name for mark in _DEFAULT_CLASS for name in _find_marked(classes, mark)), None)
    names = tuple(item["metadata"]["name"] for item in classes)
    return Storage(imports=await _has_importer(client, namespace), classes=names, default=default)


async def choose_root_disk(client: KubeClient, endpoint: KubeVirtEndpoint, namespace: str) -> RootDisk:
    """What a new machine's disk is; `auto` persists where that is possible."""
    if endpoint.root_disk != "auto":
        return endpoint.root_disk
    storage = await find_storage(client, namespace)
    return "dataVolume" if storage.offers(endpoint.storage_class) else "containerDisk"


async def ensure_volume(client: KubeClient, place: Place, endpoint: KubeVirtEndpoint, request: MachineRequest) -> None:
    """The claim of a machine's disk, a clone of the endpoint's `volume_source`."""
    ref, namespace = request.ref, place.of(request.ref.cluster)
    name = (endpoint.volume_source or "").replace("{name}", image_name(request))
    source = await client.get(PERSISTENT_VOLUME_CLAIM, name, namespace)
    if source is None:
        raise TransientError(
            f"there is no PersistentVolumeClaim {namespace}/{name} to clone the node's disk from: make one that holds"
            " the node image, or correct volume_source in the endpoint's settings",
            reason="VolumeSourceMissing",
        )
    claim = build_volume_claim(namespace, place.volume(ref), build_stamp(ref), source, disk_gib=request.disk_gib)
    await create_or_adopt(client, PERSISTENT_VOLUME_CLAIM, claim, ref.uid)


async def _has_importer(client: KubeClient, namespace: str | None) -> bool:
    try:
        await client.list(DATA_VOLUME, namespace=namespace)
    except NotFoundError:
        return False
    return True


def _find_marked(classes: list[dict[str, Any]], mark: str) -> list[str]:
    def annotations(item: Mapping[str, Any]) -> Mapping[str, str]:
        return item["metadata"].get("annotations") or {}

    return [item["metadata"]["name"] for item in classes if annotations(item).get(mark) == "true"]
