"""What kubeadm is told of a control plane's components, beyond what capn itself tells it.

Role: the pure model, shared by a cluster, which asks for it, and a control-plane machine, which was made with it.
Must not: do I/O.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from capn.api import crd_rules as rules
from capn.api.meta import Model
from capn.api.rule import Unique

ArgValue = Annotated[str, Field(max_length=4096), rules.ARG_VALUE]
ExtraArgs = Annotated[dict[str, ArgValue], Field(max_length=64), BeforeValidator(rules.drop_nulls), rules.ARG_NAMES]
San = Annotated[str, Field(min_length=1, max_length=253), rules.SANS]


class ExtraArgsOnly(Model):
    """Extra command line arguments of one component."""

    extra_args: ExtraArgs = Field(default_factory=dict, description="Arguments without leading dashes, by name.")


class KubeadmArguments(Model):
    """Of all components of one control plane."""

    extra_sans: Annotated[list[San], Field(max_length=32), Unique()] = Field(
        default_factory=list,
        alias="extraSANs",
        description="More names and addresses in the API server's certificate.",
    )
    api_server: ExtraArgsOnly = Field(default_factory=ExtraArgsOnly, description="kubeadm: kube-apiserver.")
    controller_manager: ExtraArgsOnly = Field(
        default_factory=ExtraArgsOnly, description="kubeadm: kube-controller-manager."
    )
    scheduler: ExtraArgsOnly = Field(default_factory=ExtraArgsOnly, description="kubeadm: kube-scheduler.")
    etcd: ExtraArgsOnly = Field(default_factory=ExtraArgsOnly, description="kubeadm: etcd.")

    def is_like(self, other: KubeadmArguments) -> bool:
        """Whether the components are run alike; the order of names in the certificate says nothing."""
        return self.flatten() == other.flatten()

    def flatten(self) -> dict[str, str]:
        """Field by field, as paths below this object."""
        found = {"extraSANs": ", ".join(sorted(self.extra_sans))} if self.extra_sans else {}
        for component in ("api_server", "controller_manager", "scheduler", "etcd"):
            path = type(self).model_fields[component].alias or component
            found |= {f"{path}.extraArgs.{name}": value for name, value in getattr(self, component).extra_args.items()}
        return found
