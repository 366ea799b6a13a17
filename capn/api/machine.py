"""`NestedMachine` (nm): one machine of a child cluster, owned by its `NestedCluster`.

Role: the pure model. Must not: do I/O.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from capn.api import crd_rules as rules
from capn.api.kubeadm_arguments import KubeadmArguments
from capn.api.machine_template import DomainName, Infrastructure, Labels, Machine, Taints, Version
from capn.api.meta import Conditions, Model, ObjectMeta, RuledModel
from capn.api.rule import Rule


class BootstrapReference(Model):
    """Where the bootstrap data is."""

    data_secret_name: str | None = Field(
        default=None, max_length=253, description="Secret with key `value`: cloud-init user-data."
    )
    restore: str | None = Field(
        default=None,
        max_length=32,
        description="Of a control plane that begins with a snapshot: status.restore.startedAt of that restore.",
    )


class NestedMachineSpec(Model):
    """What the machine shall be. Made by the cluster's controller; machines are replaced, not changed."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.MACHINE_SPEC_RULES

    cluster_name: Annotated[str, Field(max_length=40), rules.LABEL_NAME] = Field(
        description="The NestedCluster's name."
    )
    role: Literal["control-plane", "worker"] = Field(description="Role in the child.")
    ordinal: int = Field(default=0, ge=0, le=9999, strict=True, description="Number within its role or pool.")
    pool: Annotated[str, Field(max_length=24), rules.LABEL_NAME, rules.POOL_NAME] | None = Field(
        default=None, description="Name of the worker pool."
    )
    version: Version = Field(description="Kubernetes version, such as v1.37.2.")
    machine: Machine = Field(default_factory=Machine, description="Size and image.")
    infrastructure: Infrastructure = Field(default_factory=Infrastructure, description="Where the machine runs.")
    failure_domain: DomainName | None = Field(
        default=None,
        description="Failure domain that was chosen when the machine was made; none: the endpoint had none then.",
    )
    labels: Labels = Field(default_factory=dict, description="Labels of the node.")
    taints: Taints = Field(default_factory=list, description="Taints of the node.")
    kubeadm: KubeadmArguments | None = Field(
        default=None,
        description="Of a control plane: what kubeadm was told of its components. None (a machine of an earlier release"
        " of capn): it is not known, and no change of it replaces the machine.",
    )
    bootstrap: BootstrapReference = Field(default_factory=BootstrapReference, description="The bootstrap data.")


class Address(Model):
    """One address of the machine."""

    type: Literal["InternalIP", "ExternalIP", "Hostname"] = Field(description="Kind of address.")
    address: str = Field(max_length=253, description="The address.")


class NodeReference(Model):
    """The node that this machine became in the child."""

    name: str = Field(max_length=253, description="Name of the node.")
    uid: str = Field(max_length=64, description="UID of the node.")


class BootstrapStatus(Model):
    """What the guest last said of its bootstrap (untrusted text, cleaned and cut)."""

    stage: str | None = Field(default=None, max_length=128, description="Current or last stage, such as kubeadm/etcd.")
    failed: bool | None = Field(default=None, description="True when the bootstrap ended with an error.")
    log_tail: str | None = Field(default=None, max_length=8192, description="On failure, the end of the log.")


class LeafCertificates(Model):
    """The certificates that kubeadm made on a control plane, as its guest says (untrusted text, cleaned and cut)."""

    end: str | None = Field(default=None, max_length=32, description="When the first of them ends (RFC 3339, UTC).")
    failure: str | None = Field(
        default=None, max_length=512, description="Why the last attempt to renew them failed; tried again each day."
    )


class NestedMachineStatus(Model):
    """What is."""

    observed_generation: int | None = Field(default=None, description="The generation that this status describes.")
    phase: str | None = Field(
        default=None,
        max_length=64,
        description="One word for people: Pending, Provisioning, Bootstrapping, Running, Failed, Stopping, Off,"
        " Deleting.",
    )
    provider_id: str | None = Field(
        default=None, max_length=512, alias="providerID", description="The machine's ID, as its node has it."
    )
    addresses: list[Address] = Field(default_factory=list, max_length=16, description="Addresses of the machine.")
    node_ref: NodeReference | None = Field(default=None, description="The node in the child.")
    bootstrap: BootstrapStatus | None = Field(default=None, description="Progress of the bootstrap.")
    certificates: LeafCertificates | None = Field(
        default=None, description="Of a control plane: kubeadm's certificates, which the machine renews by itself."
    )
    failure_reason: str | None = Field(default=None, max_length=256, description="Why the machine cannot get on.")
    failure_message: str | None = Field(default=None, max_length=8192, description="The same for people, with the fix.")
    conditions: Conditions = Field(default_factory=list, description="Observations, one a type.")


class NestedMachine(RuledModel):
    """One machine of a NestedCluster. Made and replaced by the cluster's controller, not by hand."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.MACHINE_RULES

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    metadata: ObjectMeta
    spec: NestedMachineSpec
    status: NestedMachineStatus = Field(default_factory=NestedMachineStatus)
