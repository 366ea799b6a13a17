"""The node images that are in the cache, by Kubernetes version.

Role: reads `<dir>/<version>-<digest>/manifest.json`. Output: `NodeImage` values. Must not: build or change anything, or
trust a directory without a manifest (the build writes it last).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capn.providers.images import NodeImage

MANIFEST_NAME = "manifest.json"
DISK_NAME = "disk.qcow2"
KERNEL_NAME = "vmlinuz"
INITRD_NAME = "initrd.img"
# The newest, and the one before it: somebody may be reading it.
KEPT = 2


class LoadedImage(BaseModel):
    """A container image inside the node image; `bytes` are those of its layers, shared ones included."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int


class ImageManifest(BaseModel):
    """What `manifest.json` says of a node image. `digest` is of the three files' content."""

    model_config = ConfigDict(frozen=True)

    format: int = Field(default=1, ge=1, le=1)
    version: str
    architecture: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    cmdline: str
    minimum_disk_bytes: int = Field(gt=0)
    kernel_release: str
    images: tuple[LoadedImage, ...]
    tools: dict[str, str]


@dataclass(frozen=True)
class ImageCatalogue:
    """The node images below `directory`, usually `<cache>/images/node`."""

    directory: Path

    def versions(self) -> list[str]:
        """Kubernetes versions for which there is an image, sorted as text."""
        return sorted({manifest.version for manifest, _ in self._read_all()})

    def find(self, version: str) -> NodeImage | None:
        """The image for exactly this version (`v1.37.2`), the one built last if there are several; None without any."""
        matching = [(path.stat().st_mtime_ns, manifest, path) for manifest, path in self._read_all(version)]
        if not matching:
            return None
        _, manifest, path = max(matching, key=lambda item: item[0])
        return build_node_image(manifest, path.parent)

    def _read_all(self, version: str = "*") -> list[tuple[ImageManifest, Path]]:
        found = []
        for path in sorted(self.directory.glob(f"{version}-*/{MANIFEST_NAME}")):
            manifest = read_manifest(path)
            if manifest is not None and version in {"*", manifest.version}:
                found.append((manifest, path))
        return found


def prune(directory: Path, version: str) -> list[str]:
    """Remove all images of a version but the newest `KEPT`; their names. capn's every change makes another image."""
    manifests = sorted(
        directory.glob(f"{version}-*/{MANIFEST_NAME}"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    removed = [path.parent for path in manifests[KEPT:]]
    for path in removed:
        shutil.rmtree(path)
    return [path.name for path in removed]


def read_manifest(path: Path) -> ImageManifest | None:
    """The manifest at `path`, or None if it is missing, damaged or of a format that this release does not know."""
    try:
        return ImageManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def build_node_image(manifest: ImageManifest, directory: Path) -> NodeImage:
    """Join a manifest with the files beside it."""
    return NodeImage(
        version=manifest.version,
        digest=manifest.digest,
        disk=directory / DISK_NAME,
        kernel=directory / KERNEL_NAME,
        initrd=directory / INITRD_NAME,
        cmdline=manifest.cmdline,
        minimum_disk_bytes=manifest.minimum_disk_bytes,
    )
