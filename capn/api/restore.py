"""What a cluster is restored from (`spec.restoreFrom`), and how that stands (`status.restore`).

Role: pure models. A snapshot is always of a cluster in the same namespace: it holds that cluster's Secrets. Must not:
do I/O.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from capn.api import crd_rules as rules
from capn.api.meta import Model


class RestorePhase(StrEnum):
    """How far a restore is."""

    PREPARING = "Preparing"  # control planes are removed, a new one boots, the snapshot goes to it
    STARTING = "Starting"  # it has the snapshot and runs kubeadm
    COMPLETED = "Completed"


class RestoreFrom(Model):
    """The snapshot that a new cluster begins with. The old cluster's PKI Secrets are to be copied first."""

    store: Annotated[str, Field(max_length=63), rules.LABEL_NAME] = Field(
        description="Where it is: one of the administrator's stores (backup_stores)."
    )
    cluster: Annotated[str, Field(max_length=40), rules.LABEL_NAME] | None = Field(
        default=None, description="The cluster in this namespace that it was taken of; by default one of this name."
    )
    snapshot: Annotated[str, Field(max_length=32), rules.SNAPSHOT_NAME] | None = Field(
        default=None, description="Its name without ending, such as 20261127T030000Z-0a1b2c3d; by default the newest."
    )


class RestoreStatus(Model):
    """The last restore, or the one that goes on."""

    phase: RestorePhase = Field(description="Preparing, Starting or Completed.")
    reason: str = Field(max_length=64, description="Why: RestoreFrom, ControlPlaneLost or QuorumLost.")
    store: str = Field(max_length=63, description="The store that the snapshot is in.")
    snapshot: str = Field(max_length=512, description="The snapshot's name in the store, without ending.")
    taken: str = Field(max_length=32, description="When it was taken (RFC 3339, UTC); what came later is lost.")
    sha256: str = Field(max_length=64, description="SHA-256 of the file, in hex.")
    size: int = Field(description="Bytes.")
    started_at: str = Field(max_length=32, description="When the restore was decided; the machine made for it has it.")
    uploaded_at: str | None = Field(default=None, max_length=32, description="When the machine had the snapshot.")
    completed_at: str | None = Field(default=None, max_length=32, description="When the cluster was there again.")

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.phase is not RestorePhase.COMPLETED
