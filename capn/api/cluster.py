"""`NestedCluster` (nc): one child cluster.

Role: the pure model; the CRD and docs/api.md are generated from it (`capn.api.crd`). Rules are in `capn.api.crd_rules`,
each as CEL and as Python. Must not: do I/O.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from capn.api import crd_rules as rules
from capn.api.addons import Addon, AddonStatus
from capn.api.kubeadm_arguments import KubeadmArguments
from capn.api.machine_template import (
    DomainName,
    DomainNames,
    Infrastructure,
    Labels,
    Machine,
    Quantity,
    Taints,
    Version,
)
from capn.api.meta import Conditions, Model, ObjectMeta, RuledModel
from capn.api.pools import HealthCheck, Remediation, Rollout
from capn.api.restore import RestoreFrom, RestoreStatus
from capn.api.rule import Rule, Unique

Cidr = Annotated[str, Field(max_length=43), *rules.CIDR_RULES]


class Isolation(StrEnum):
    """How far a child is kept apart. Only VM exists now; the others are reserved names."""

    VM = "VM"
    NAMESPACE = "Namespace"
    VIRTUAL_CONTROL_PLANE = "VirtualControlPlane"
    HOSTED_CONTROL_PLANE = "HostedControlPlane"


class Cni(StrEnum):
    """Network add-on that capn installs in the child."""

    FLANNEL = "Flannel"
    NONE = "None"


class DeletionPolicy(StrEnum):
    """What happens to the machines when the NestedCluster is deleted."""

    DELETE = "Delete"
    ORPHAN = "Orphan"


class PowerState(StrEnum):
    """Whether the machines run. YAML reads both words as booleans when they are not in quotes."""

    ON = "On"
    OFF = "Off"


class Network(Model):
    """Addresses inside the child."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.NETWORK_RULES

    pod_cidr: Annotated[Cidr, rules.POD_CIDR_SIZE, rules.POD_CIDR_FIXED] = Field(
        default="10.244.0.0/16",
        alias="podCIDR",
        description="Addresses of the child's pods (IPv4); each node takes a /24.",
    )
    service_cidr: Annotated[Cidr, rules.SERVICE_CIDR_SIZE, rules.SERVICE_CIDR_FIXED] = Field(
        default="10.96.0.0/16", alias="serviceCIDR", description="Addresses of the child's Services (IPv4)."
    )
    dns_domain: Annotated[str, Field(max_length=253), rules.DNS_DOMAIN, rules.DNS_DOMAIN_FIXED] = Field(
        default="cluster.local", description="DNS domain of the child's Services."
    )
    cni: Annotated[Cni, rules.CNI_FIXED] = Field(
        default=Cni.FLANNEL, description="Network add-on that capn installs; None leaves it to you."
    )


class ControlPlane(KubeadmArguments):
    """The child's control plane (stacked etcd)."""

    replicas: Annotated[Literal[1, 3, 5, 7], BeforeValidator(rules.refuse_boolean), rules.ODD_REPLICAS] = Field(
        default=1, description="Number of control-plane machines; odd, for etcd's quorum."
    )
    machine: Machine | None = Field(
        default=None, description="Size of these machines, instead of all of spec.machine; by default spec.machine."
    )
    failure_domains: DomainNames = Field(
        default_factory=list,
        description="Failure domains of the endpoint that these machines are spread over; none named: all of them.",
    )

    @property
    def arguments(self) -> KubeadmArguments:
        """What kubeadm is told of the components, apart from the machines."""
        return KubeadmArguments.model_validate({name: getattr(self, name) for name in KubeadmArguments.model_fields})


class Autoscaling(Model):
    """Bounds in which a scaler sets a pool's size, by the annotation replicas.capn.dev/<pool> of the NestedCluster."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.AUTOSCALING_RULES

    min: int = Field(ge=0, le=1000, strict=True, description="Fewest machines.")
    max: int = Field(ge=0, le=1000, strict=True, description="Most machines.")


class WorkerPool(Model):
    """Worker machines of one kind."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.WORKER_POOL_RULES

    name: Annotated[str, Field(max_length=24), rules.LABEL_NAME, rules.POOL_NAME] = Field(
        description="Name of the pool; unique."
    )
    replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        strict=True,
        description="Number of machines; where autoscaling is set, the number to begin with.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None,
        description="Lets a scaler set the number of machines, by the annotation replicas.capn.dev/<pool>; none: only"
        " replicas counts.",
    )
    machine: Machine | None = Field(
        default=None, description="Size of these machines, instead of all of spec.machine; by default spec.machine."
    )
    failure_domains: DomainNames = Field(
        default_factory=list,
        description="Failure domains of the endpoint that these machines are spread over; none named: all of them.",
    )
    labels: Labels = Field(default_factory=dict, description="Labels of the nodes.")
    taints: Taints = Field(default_factory=list, description="Taints of the nodes.")
    rollout: Rollout | None = Field(
        default=None, description="How machines are replaced when a change needs new ones; by default one by one."
    )


class Drain(Model):
    """How a node is emptied before its machine goes, in a cluster that lives on."""

    timeout_seconds: int = Field(
        default=600,
        ge=1,
        le=86400,
        strict=True,
        description="How long pods may take to leave, PodDisruptionBudgets and all; then the machine is deleted all"
        " the same. There is no value for ever: one budget that allows nothing would keep a machine for good.",
    )


class Claim(Model):
    """Who asks for machines here. Only they, their network and the endpoint are made; the rest is the asker's."""

    path: Annotated[str, Field(min_length=1, max_length=512), rules.CLAIM_PATH] = Field(
        description="The cluster that asks, seen from the child that it is in: namespace/name, one pair a level."
    )


class NestingBudget(Model):
    """What the clusters in this one may take of the parent in all, at every depth; what is not named has no limit."""

    clusters: int | None = Field(default=None, ge=0, le=100000, strict=True, description="Clusters.")
    machines: int | None = Field(default=None, ge=0, le=100000, strict=True, description="Machines.")
    cpus: int | None = Field(default=None, ge=0, le=1000000, strict=True, description="CPUs of all machines.")
    memory: Quantity | None = Field(default=None, description="Memory of all machines, such as 64Gi.")
    disk: Quantity | None = Field(default=None, description="Root disks of all machines, such as 500Gi.")


class Nesting(Model):
    """Clusters inside this cluster: capn is installed in it and claims their machines here."""

    enabled: bool = Field(default=False, strict=True, description="True installs capn in this cluster.")
    max_depth: int = Field(
        default=1, ge=1, le=16, strict=True, description="Levels of clusters below this one; 1: no cluster in those."
    )
    budget: NestingBudget = Field(default_factory=NestingBudget, description="Upper limits, kept by this parent.")


class Backup(Model):
    """Snapshots of the child's etcd. The PKI is not in them: it is in the cluster's Secrets, which you back up too."""

    store: Annotated[str, Field(max_length=63), rules.LABEL_NAME] = Field(
        description="Where they go: one of the administrator's stores (backup_stores)."
    )
    schedule: Annotated[str, Field(max_length=128), rules.SCHEDULE] | None = Field(
        default=None,
        description="When: five cron fields in UTC, such as 0 3 * * *; none: only when asked for, by the annotation"
        " capn.dev/backup-now with a value that is new.",
    )
    keep: int = Field(default=7, ge=1, le=1000, strict=True, description="How many of this cluster are kept.")


class NestedClusterSpec(Model):
    """What the user wants; the version alone is enough."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.CLUSTER_SPEC_RULES

    version: Annotated[Version, *rules.VERSION_UPGRADES] = Field(description="Kubernetes version, such as v1.37.2.")
    isolation: Annotated[Isolation, rules.ISOLATION_IS_VM, rules.ISOLATION_FIXED] = Field(
        default=Isolation.VM, description="How far the child is kept apart from its parent; only VM works for now."
    )
    paused: bool = Field(
        default=False, strict=True, description="True stops every write for this cluster until it is false again."
    )
    power_state: Annotated[PowerState, BeforeValidator(rules.refuse_unquoted_power)] = Field(
        default=PowerState.ON,
        description='Whether the machines run. "Off" (in quotes, or YAML reads a boolean) shuts them down, workers'
        ' first, and keeps disks, addresses and certificates; "On" brings them back.',
    )
    network: Network = Field(default_factory=Network, description="Addresses inside the child.")
    control_plane: ControlPlane = Field(default_factory=ControlPlane, description="The control plane.")
    workers: Annotated[list[WorkerPool], Field(max_length=32), Unique(("name",))] = Field(
        default_factory=list, description="Pools of worker machines."
    )
    machine: Machine = Field(default_factory=Machine, description="Default size of every machine.")
    drain: Drain = Field(default_factory=Drain, description="How pods leave a node before its machine is deleted.")
    health_check: HealthCheck | None = Field(
        default=None,
        description="When machines count as unhealthy and are replaced; by default as named below.",
    )
    infrastructure: Infrastructure = Field(default_factory=Infrastructure, description="Where the machines run.")
    addons: Annotated[list[Addon], Field(max_length=32), Unique(("name",))] = Field(
        default_factory=list, description="Manifests that capn applies to this cluster and keeps there."
    )
    nesting: Nesting | None = Field(default=None, description="Clusters inside this cluster; none by default.")
    backup: Backup | None = Field(default=None, description="Snapshots of etcd; none by default.")
    restore_from: RestoreFrom | None = Field(
        default=None, description="The snapshot that the cluster begins with; by default it begins empty."
    )
    claim: Claim | None = Field(
        default=None,
        description="Set by a child that runs clusters of its own: this cluster's control plane is managed there.",
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.DELETE, description="Delete the machines with the cluster, or leave (Orphan) them."
    )

    @property
    def nests(self) -> bool:
        """Whether the cluster may have clusters of its own."""
        return self.nesting is not None and self.nesting.enabled


class Endpoint(Model):
    """Where the child's API server answers."""

    host: str = Field(max_length=253, description="Name or address.")
    port: int = Field(ge=1, le=65535, description="Port.")
    virtual: bool | None = Field(
        default=None, description="True: the control planes hold this address among themselves, one at a time."
    )


class Access(Model):
    """A way to the child's API server for those who have no route to its endpoint."""

    host: str = Field(max_length=253, description="Name or address.")
    port: int = Field(ge=1, le=65535, description="Port.")
    server_name: str = Field(max_length=253, description="TLS server name (tls-server-name of a kubeconfig).")


class MachineCounts(Model):
    """How many machines there are."""

    desired: int = Field(default=0, description="Machines that the spec asks for.")
    created: int = Field(default=0, description="NestedMachines that exist.")
    ready: int = Field(default=0, description="Machines whose node is Ready.")
    updated: int | None = Field(default=None, description="Machines that are as the spec has them now (of workers).")


class PoolCounts(MachineCounts):
    """How many machines of one worker pool there are."""

    name: str = Field(max_length=24, description="Name of the pool.")


class DomainStatus(Model):
    """One failure domain of the endpoint, as this cluster has it."""

    name: DomainName = Field(description="Name of the domain.")
    machines: int = Field(default=0, description="NestedMachines in it.")
    ready: int = Field(default=0, description="Those whose node is Ready.")
    available: bool = Field(description="Whether it takes machines now.")
    message: str = Field(default="", max_length=1024, description="Why not, for people.")


class WorstNested(Model):
    """The nested cluster that most needs a look."""

    path: str = Field(max_length=512, description="Which: namespace/name, one pair a level.")
    reason: str = Field(max_length=256, description="Why it is not Ready.")
    message: str = Field(default="", max_length=1024, description="The same for people.")


class NestedSummary(Model):
    """All clusters below this one, at every depth, as they report."""

    clusters: int = Field(default=0, description="Clusters.")
    ready_clusters: int = Field(default=0, description="Those that are Ready.")
    machines: int = Field(default=0, description="Machines that their specs ask for.")
    ready_machines: int = Field(default=0, description="Machines whose node is Ready.")
    depth: int = Field(default=0, description="Levels below this cluster.")
    worst: WorstNested | None = Field(default=None, description="One that failed, else one that is not Ready.")


class BackupRecord(Model):
    """A snapshot that was written, read back and found whole."""

    time: str = Field(max_length=32, description="When it was taken (RFC 3339, UTC).")
    name: str = Field(max_length=512, description="Its name in the store, without ending.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(max_length=64, description="SHA-256 of the file, in hex.")


class BackupStatus(Model):
    """What became of backups."""

    last_success: BackupRecord | None = Field(default=None, description="The newest snapshot.")
    failure_reason: str | None = Field(default=None, max_length=256, description="Why the last attempt failed.")
    failure_message: str | None = Field(default=None, max_length=4096, description="The same for people, with the fix.")
    last_request: str | None = Field(
        default=None, max_length=253, description="Value of the annotation capn.dev/backup-now that was served last."
    )


class NestedClusterStatus(Model):
    """What is."""

    observed_generation: int | None = Field(default=None, description="The generation that this status describes.")
    phase: str | None = Field(
        default=None,
        max_length=64,
        description="One word for people: Pending, Provisioning, Ready, Failed, Paused, Stopping, Off, Starting,"
        " Restoring, Deleting.",
    )
    endpoint: Endpoint | None = Field(default=None, description="Where the child's API server answers.")
    access: Access | None = Field(default=None, description="The way to it without a route to its network, if any.")
    version: str | None = Field(
        default=None, max_length=32, description="Kubernetes version that all control planes have."
    )
    machines: MachineCounts | None = Field(default=None, description="Counts over all machines.")
    control_plane: MachineCounts | None = Field(default=None, description="Counts of control-plane machines.")
    workers: MachineCounts | None = Field(default=None, description="Counts of worker machines.")
    pools: Annotated[list[PoolCounts], Field(max_length=32), Unique(("name",))] = Field(
        default_factory=list, description="Counts of each worker pool, for scalers."
    )
    failure_domains: Annotated[list[DomainStatus], Field(max_length=64), Unique(("name",))] | None = Field(
        default=None, description="The endpoint's failure domains, where it has any, and those that machines name."
    )
    # As many as there may be pools, and the control planes.
    remediations: Annotated[list[Remediation], Field(max_length=33), Unique(("pool",))] | None = Field(
        default=None, description="Replacements of unhealthy machines, by pool; kept so that they end."
    )
    nested: NestedSummary | None = Field(default=None, description="The clusters below, where spec.nesting allows any.")
    backup: BackupStatus | None = Field(default=None, description="What became of backups.")
    restore: RestoreStatus | None = Field(default=None, description="The last restore, or the one that goes on.")
    addons: Annotated[list[AddonStatus], Field(max_length=64), Unique(("name",))] = Field(
        default_factory=list, description="What became of each add-on, those that are being removed included."
    )
    selector: str | None = Field(default=None, max_length=512, description="Label selector of the scaled machines.")
    failure_reason: str | None = Field(default=None, max_length=256, description="Why the cluster cannot get on.")
    failure_message: str | None = Field(default=None, max_length=8192, description="The same for people, with the fix.")
    conditions: Conditions = Field(default_factory=list, description="Observations, one a type.")


class NestedCluster(RuledModel):
    """A Kubernetes cluster inside this one, on machines of its own. The smallest manifest is spec.version alone."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.CLUSTER_RULES

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    metadata: ObjectMeta
    spec: NestedClusterSpec
    status: NestedClusterStatus = Field(default_factory=NestedClusterStatus)

    @property
    def path(self) -> str:
        """Which cluster this is, seen from the cluster that makes the machines: namespace/name, one pair a level."""
        return (
            self.spec.claim.path if self.spec.claim is not None else f"{self.metadata.namespace}/{self.metadata.name}"
        )
