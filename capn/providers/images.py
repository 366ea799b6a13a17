"""What a provider needs to know of node images, without knowing how they are built.

Role: the seam to `capn.image.catalogue`, which is a layer above. Must not: do I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NodeImage:
    """One node image on this machine's disk; `digest` in hex, `minimum_disk_bytes` the smallest disk it fits on."""

    version: str
    digest: str
    disk: Path
    kernel: Path
    initrd: Path
    cmdline: str
    minimum_disk_bytes: int


class ImageSource(Protocol):
    """Where a provider finds images that it may have to upload."""

    def find(self, name: str, /) -> NodeImage | None:
        """The image for a Kubernetes version (v1.37.2) or of that name; None when there is none here."""
        ...


class NoImages:
    """A source without images: what is in the hypervisor's pool already must do."""

    def find(self, name: str, /) -> NodeImage | None:  # noqa: ARG002 - the Protocol's signature
        """None, always."""
        return None
