"""Spec parts that clusters and machines share: size of a machine, infrastructure, labels and taints.

Role: pure models. Must not: do I/O.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from capn.api import checks
from capn.api import crd_rules as rules
from capn.api.checks import quantity_mib
from capn.api.meta import Model
from capn.api.rule import Rule, Unique

__all__ = [
    "RFC1123_LABEL", "VERSION_PATTERN", "DomainName", "DomainNames", "Infrastructure", "InfrastructureKind", "Labels",
    "Machine", "Quantity", "Taint", "Taints", "Version", "quantity_mib",
]  # fmt: skip

RFC1123_LABEL = f"^{checks.LABEL}$"
VERSION_PATTERN = f"^{checks.VERSION}$"

Quantity = Annotated[str, Field(max_length=16), rules.QUANTITY]
Version = Annotated[str, Field(max_length=16), rules.VERSION]
# Nodes have it as label, so it is no longer than that may be.
DomainName = Annotated[str, Field(max_length=63), rules.LABEL_NAME]
DomainNames = Annotated[list[DomainName], Field(max_length=32), Unique()]
LabelValue = Annotated[str, Field(max_length=63), rules.LABEL_VALUE]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64), BeforeValidator(rules.drop_nulls), *rules.LABEL_KEYS]


class InfrastructureKind(StrEnum):
    """Which provider makes the machines."""

    LIBVIRT = "libvirt"
    KUBEVIRT = "kubevirt"
    MEMORY = "memory"
    PARENT = "parent"


class Machine(Model):
    """Size and image of a virtual machine."""

    cpus: int = Field(default=2, ge=1, le=256, strict=True, description="Virtual CPUs.")
    memory: Annotated[Quantity, rules.MEMORY_RANGE] = Field(
        default="2560Mi",
        description="Memory, such as 2560Mi or 4Gi; kubeadm needs at least 1700Mi for a control plane.",
    )
    disk: Annotated[Quantity, rules.DISK_RANGE] = Field(
        default="10Gi", description="Size of the root disk, such as 10Gi; at least 4Gi."
    )
    image: Annotated[str, Field(max_length=253), rules.IMAGE_NAME] | None = Field(
        default=None,
        description="Name of a node image of the endpoint; by default the one for the Kubernetes version.",
    )

    def is_like(self, other: Machine) -> bool:
        """Whether it is the same size and image, however it is written: 4Gi is 4096Mi."""
        return self._measure() == other._measure()

    def _measure(self) -> tuple[int, int, int, str | None]:
        return self.cpus, quantity_mib(self.memory), quantity_mib(self.disk), self.image


class Infrastructure(Model):
    """Where machines run. Only a name: addresses and credentials of hypervisors are the administrator's settings."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.INFRASTRUCTURE_RULES

    kind: InfrastructureKind = Field(default=InfrastructureKind.LIBVIRT, description="Provider of the machines.")
    endpoint: Annotated[str, Field(max_length=63), rules.LABEL_NAME] = Field(
        default="default",
        description="Name of an endpoint that the administrator defined in the controller's settings.",
    )


class Taint(Model):
    """A taint that the node is registered with."""

    key: Annotated[str, Field(max_length=317), rules.TAINT_KEY] = Field(description="Key of the taint.")
    value: LabelValue = Field(default="", description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(description="What the taint does to pods.")


Taints = Annotated[list[Taint], Field(max_length=32), Unique(("key", "effect"))]
