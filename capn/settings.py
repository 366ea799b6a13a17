"""The administrator's settings: endpoints, limits, where things are.

Role: typed settings from a YAML file and `CAPN_*` environment variables; read once by the composition root and passed
down. What users may name in a NestedCluster is only an endpoint's NAME; its address and credentials stay here.
Must not: be read anywhere but in the composition roots (`capn.cli`, `capn.dev`), except for `cache_dir`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from ipaddress import IPv4Network
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from capn import __version__, names
from capn.errors import InvalidSpecError


def cache_dir() -> Path:
    """Where what was built or downloaded is kept between runs: $CAPN_CACHE, or capn/ in the user's cache directory."""
    if explicit := os.environ.get("CAPN_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "capn"


# Size of the disk in the container image of a node. It cannot be enlarged where it runs, so the image brings the room
# (the qcow2 grows with what is written). One that is copied into volumes can be smaller: they have at least its size.
# capn's own container image, which node images hold.
OWN_IMAGE = f"capn.dev/capn:{__version__}"
IMAGE_GIB = 64


def debian_mirror() -> str | None:
    """The mirror that Debian packages come from, $CAPN_DEBIAN_MIRROR; None: Debian's own."""
    return os.environ.get("CAPN_DEBIAN_MIRROR") or None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_DOMAIN_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MAX_DOMAINS = 32


class _Divisible(_Strict):
    """An endpoint that may have failure domains, which are endpoints themselves."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over any input
        """Give each domain what the endpoint says for all of them."""
        if not isinstance(data, dict) or not isinstance(domains := data.get("domains"), dict):
            return data
        common = {key: value for key, value in data.items() if key != "domains"}
        merged: dict[str, Any] = {}
        for name, own in domains.items():
            if isinstance(own, dict) and "domains" in own:
                raise ValueError(f"domains.{name}.domains: a failure domain has none of its own: take it away")
            merged[name] = common | (own or {}) if own is None or isinstance(own, dict) else own
        return data | {"domains": merged}


def _check_names(domains: Collection[str]) -> None:
    """ValueError for names that nodes could not have as labels."""
    if len(domains) > _MAX_DOMAINS:
        raise ValueError(f"domains: at most {_MAX_DOMAINS} are possible")
    for name in domains:
        if not _DOMAIN_NAME.fullmatch(name):
            raise ValueError(
                f"domains.{name}: name it with at most 63 lower case letters, digits and '-', a letter or digit at"
                " both ends: nodes get it as label"
            )


# The endpoint is the eleventh address of a cluster's network, its machines have those after it (build/libvirt_xml.py).
_NARROWEST_PREFIX = 28


def _refuse_narrow(pool: IPv4Network) -> IPv4Network:
    """ValueError for a pool that has no room for one cluster's addresses."""
    if pool.prefixlen > _NARROWEST_PREFIX:
        raise ValueError(
            f"{pool} has no room for a cluster: give it a /24 for each cluster, such as 10.89.0.0/16; the least is a"
            f" /{_NARROWEST_PREFIX}, for one cluster of four machines"
        )
    return pool


class LibvirtEndpoint(_Divisible):
    """One libvirt connection, or several: failure domains whose machines share a network."""

    kind: Literal["libvirt"] = "libvirt"
    domains: dict[str, LibvirtEndpoint] = Field(
        default_factory=dict,
        description="Failure domains by name: hypervisors that share `network`. Each has a `uri` and `addresses` of its"
        " own; what else it does not say is as the endpoint has it.",
    )
    uri: str = Field(default="qemu:///system", description="libvirt URI; remote ones by qemu+ssh or qemu+tls.")
    accel: Literal["kvm", "emulate"] = Field(default="kvm", description="KVM, or software emulation (slow).")
    pool: str = Field(default="capn", description="Storage pool (type dir) for images, disks and seeds.")
    pool_path: str = Field(default="/var/lib/libvirt/capn", description="Where that pool is on the hypervisor.")
    network_pool: Annotated[IPv4Network, AfterValidator(_refuse_narrow)] = Field(
        default=IPv4Network("10.89.0.0/16"), description="Each cluster gets a /24 of this as its own NAT network."
    )
    network: str | None = Field(default=None, description="Existing libvirt network that clusters share instead.")
    addresses: IPv4Network | None = Field(
        default=None, description="The part of `network` that machines get their addresses of; none: all of it."
    )
    virtual_endpoint: bool = Field(
        default=True,
        description="New clusters' control planes hold the endpoint's address among themselves (ADR 20), so that each"
        " of them can be replaced; false: the first one has it, and stays.",
    )
    reserved_cidrs: tuple[IPv4Network, ...] = Field(
        default=(), description="Networks that no cluster may overlap: the parent's pods, Services and nodes."
    )
    unsafe_disk_cache: bool = Field(default=False, description="cache=unsafe: fast, loses data when the host dies.")

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        if self.addresses is not None and self.network is None:
            raise ValueError("addresses is a part of a shared network: name that as network, or leave addresses out")
        return self

    @model_validator(mode="after")
    def _check_domains(self) -> Self:
        _check_names(self.domains)
        if self.domains and "uri" in self.model_fields_set:
            raise ValueError("uri and domains exclude each other: give each domain its own uri")
        for name, domain in self.domains.items():
            self._check_domain(name, domain)
        for (one, first), (other, second) in combinations(self.domains.items(), 2):
            if first.uri == second.uri:
                raise ValueError(f"domains.{other}.uri is that of {one}: each domain is a hypervisor of its own")
            if first.addresses and second.addresses and first.addresses.overlaps(second.addresses):
                raise ValueError(
                    f"domains.{other}.addresses overlap those of {one}: two machines would get one address; choose"
                    " parts of the network that have none in common"
                )
        return self

    @staticmethod
    def _check_domain(name: str, domain: LibvirtEndpoint) -> None:
        if "uri" not in domain.model_fields_set:
            raise ValueError(f"domains.{name}.uri is missing: each domain is a hypervisor of its own")
        if domain.network is None:
            raise ValueError(
                f"domains.{name}.network is missing: the machines of a cluster need one network (the same layer 2) on"
                " all hypervisors; make one that has none an endpoint of its own"
            )
        if domain.addresses is None:
            raise ValueError(
                f"domains.{name}.addresses is missing: no hypervisor knows which addresses another has given; name the"
                " part of the network that its machines get, such as 10.0.0.64/26"
            )


class SecretKey(_Strict):
    """One key of a Secret in the cluster that the controller watches."""

    namespace: str
    name: str
    key: str = "value"


class KubeVirtDomain(_Strict):
    """One failure domain of a cluster with KubeVirt."""

    node_selector: dict[str, str] = Field(
        min_length=1, description="Its hosts, by labels, beside those that the endpoint asks for."
    )


class KubeVirtEndpoint(_Strict):
    """One cluster with KubeVirt: the one that the controller watches, or another."""

    kind: Literal["kubevirt"] = "kubevirt"
    kubeconfig: SecretKey | None = Field(
        default=None, description="Kubeconfig of the cluster that runs the VMs; none: the one that is watched."
    )
    namespace: str | None = Field(
        default=None, description="Namespace for all VMs of the endpoint; none: that of each NestedCluster."
    )
    image: str = Field(
        default="capn.dev/node:{name}",
        description="Image with disk, kernel and initrd of a node (`capn image containerdisk`); {name} is replaced by"
        " spec.machine.image or the Kubernetes version.",
    )
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="When hosts pull that image."
    )
    image_pull_secret: str | None = Field(default=None, description="Secret beside the VM with the registry's login.")
    versions: tuple[str, ...] = Field(
        default=(), description="Versions and image names that there are; empty: whatever is asked for is pulled."
    )
    kernel_args: str = Field(
        default="root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet systemd.show_status=false",
        description="The guest's kernel command line; under software emulation add tsc=reliable.",
    )
    root_disk: Literal["auto", "containerDisk", "dataVolume", "persistentVolumeClaim"] = Field(
        default="auto",
        description="containerDisk: on the host, ends with the VM; dataVolume: a volume that CDI fills from the image;"
        " persistentVolumeClaim: a volume that the storage driver clones from volume_source; auto: dataVolume where CDI"
        " and a StorageClass are, else containerDisk. Machines that exist keep what they have.",
    )
    storage_class: str | None = Field(default=None, description="StorageClass of dataVolume disks; none: the default.")
    image_gib: int = Field(
        default=IMAGE_GIB,
        ge=1,
        description="Size of the image's disk (`capn image containerdisk --disk-gib`): a dataVolume is not smaller.",
    )
    volume_source: str | None = Field(
        default=None,
        description="PersistentVolumeClaim beside the VMs with a node's disk, to be cloned; {name} as in image.",
    )
    eviction_strategy: Literal["None", "LiveMigrate", "LiveMigrateIfPossible", "External"] = Field(
        default="LiveMigrateIfPossible", description="What a drain of the host does to a VM."
    )
    grace_s: int = Field(
        default=30, ge=0, le=3600, description="Time that a guest has to shut down when its VM is removed or evicted."
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Hosts that may run VMs, by labels.")
    domains: dict[str, KubeVirtDomain] = Field(
        default_factory=dict,
        description="Failure domains by name; none: the scheduler alone chooses among all hosts.",
    )
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Type of the Service in front of a child's API servers."
    )
    endpoint_host: str | None = Field(
        default=None, description="Name or address that leads to that Service; needed for NodePort."
    )
    reserved_cidrs: tuple[IPv4Network, ...] = Field(
        default=(), description="Networks that no child may overlap: the parent's pods and hosts."
    )

    @model_validator(mode="after")
    def _check_node_port(self) -> Self:
        if self.service_type == "NodePort" and not self.endpoint_host:
            raise ValueError("endpoint_host must name a host (or what leads to one) when service_type is NodePort")
        return self

    @model_validator(mode="after")
    def _check_volume_source(self) -> Self:
        if self.root_disk == "persistentVolumeClaim" and not self.volume_source:
            raise ValueError("volume_source must name the claim to clone when root_disk is persistentVolumeClaim")
        return self

    @model_validator(mode="after")
    def _check_domains(self) -> Self:
        _check_names(self.domains)
        for (one, first), (other, second) in combinations(self.domains.items(), 2):
            if first.node_selector == second.node_selector:
                raise ValueError(f"domains.{other}.node_selector is that of {one}: name other hosts")
        return self


class ParentEndpoint(_Strict):
    """The cluster that this cluster is a child of: it makes the machines, by whatever it has."""

    kind: Literal["parent"] = "parent"
    kubeconfig: SecretKey = Field(description="Kubeconfig that may make, see and delete claims, and nothing else.")
    namespace: str = Field(description="Namespace of the claims in the parent.")
    path: str = Field(description="This child as its parent knows it: namespace/name.")
    infrastructure_kind: str = Field(default="libvirt", description="Provider of the parent that makes the machines.")
    infrastructure_endpoint: str = Field(default="default", description="Its endpoint in the parent's settings.")


class GateSettings(_Strict):
    """One port that leads to the API server of every child, for those who have no route to the child's network."""

    host: str = Field(min_length=1, max_length=253, description="Name or address of the port, as machines reach it.")
    port: int = Field(default=8443, ge=1, le=65535, description="The port, as machines reach it.")
    bind: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 - machines come from outside
    bind_port: int | None = Field(default=None, ge=1, le=65535, description="Port to listen on; default: port.")
    connections: int = Field(default=2048, ge=1, le=65536, description="Connections at once.")


class NestingSettings(_Strict):
    """What children with `spec.nesting` are told of this cluster."""

    server: str = Field(
        pattern=r"^https://[^/\s]+$", description="This cluster's API server as machines of children reach it."
    )
    server_name: str | None = Field(
        default=None, max_length=253, description="Name in its certificate, where that is not the host of `server`."
    )
    image: str = Field(default=OWN_IMAGE, description="capn's image, which their node image holds.")
    token_hours: int = Field(default=168, ge=1, le=8760, description="Life of a child's token; renewed at half of it.")


class MemoryEndpoint(_Divisible):
    """Simulated machines and child APIs, for scale and fault tests."""

    kind: Literal["memory"] = "memory"
    domains: dict[str, MemoryEndpoint] = Field(
        default_factory=dict, description="Failure domains by name: simulated hosts that share a network."
    )
    boot_s: float = Field(default=0.0, ge=0, description="Time from VM start to a Ready node.")
    versions: tuple[str, ...] = Field(default=(), description="Versions with an image; empty: every version.")
    memory_mib: int = Field(default=1 << 40, gt=0, description="Memory of the simulated host.")
    reserved_cidrs: tuple[IPv4Network, ...] = Field(default=(), description="Networks that no child may overlap.")

    @model_validator(mode="after")
    def _check_domains(self) -> Self:
        _check_names(self.domains)
        return self


Endpoint = Annotated[LibvirtEndpoint | KubeVirtEndpoint | ParentEndpoint | MemoryEndpoint, Field(discriminator="kind")]


class DirectoryStore(_Strict):
    """Snapshots in a directory that the controller sees; in a pod: a volume that is mounted there."""

    kind: Literal["directory"] = "directory"
    path: Path = Field(description="The directory; it must exist, so that an unmounted volume is noticed.")


class S3Store(_Strict):
    """Snapshots in a bucket of an S3-compatible store. Encryption at rest is the store's."""

    kind: Literal["s3"] = "s3"
    endpoint: str = Field(
        pattern=r"^https?://[^/\s]+/?$", description="The store's address, such as https://s3.example.org."
    )
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="The bucket, which must exist.")
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]{1,64}$", description="Region that signatures name.")
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9/._-]{0,256}$", description="Put before every object's name.")
    access_key: SecretKey = Field(description="Where the access key is.")
    secret_key: SecretKey = Field(description="Where its secret is.")
    ca_file: Path | None = Field(default=None, description="CA certificates (PEM) of the store; none: the system's.")


BackupStore = Annotated[DirectoryStore | S3Store, Field(discriminator="kind")]


def _default_endpoints() -> dict[str, dict[str, Endpoint]]:
    return {"libvirt": {"default": LibvirtEndpoint()}}


class Settings(BaseSettings):
    """Everything that the controller can be told."""

    model_config = SettingsConfigDict(env_prefix="CAPN_", env_nested_delimiter="__", extra="ignore")

    endpoints: dict[str, dict[str, Endpoint]] = Field(
        default_factory=_default_endpoints,
        description="Endpoints by kind, then by the name that users give.",
    )
    image_dir: Path | None = Field(
        default=None, description="Node images to upload; default: images/node in the cache."
    )
    namespace: str | None = Field(default=None, description="The one namespace to watch; none: all.")
    workers: int = Field(default=8, ge=1, le=256, description="Objects of one kind reconciled at once.")
    nesting: NestingSettings | None = Field(default=None, description="Lets clusters have clusters of their own.")
    gate: GateSettings | None = Field(default=None, description="Lets children's API servers be reached by one port.")
    backup_stores: dict[str, BackupStore] = Field(
        default_factory=dict, description="Where snapshots of children's etcd may go, by the name that users give."
    )
    leader_elect: bool = Field(default=True, description="Hold a Lease, so that one controller is active.")
    lease_namespace: str = Field(default=names.SYSTEM_NAMESPACE, description="Where that Lease is.")
    lease_duration_s: float = Field(
        default=15.0,
        ge=3,
        le=3600,
        description="So long others wait for a leader that went silent; it ends itself after two thirds of that.",
    )
    lease_identity: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="Name in the Lease, of no other process that may run at the same time, such as the pod's; it leads"
        " at once after a restart. None: a new name at each start.",
    )
    bind: str = Field(default="127.0.0.1", description="Address of /healthz, /readyz and /metrics.")
    port: int = Field(default=8085, ge=0, le=65535, description="Its port; 0 takes a free one.")
    log_format: Literal["console", "json"] = Field(default="console", description="Form of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    bootstrap_timeout_s: float = Field(
        default=1800.0, gt=0, description="A machine that has not joined by then failed."
    )
    shutdown_timeout_s: float = Field(
        default=180.0, gt=0, description="A guest that has not shut down by then loses its power."
    )


def load_settings(path: Path | None) -> Settings:
    """Settings from a YAML file (or only the environment). InvalidSpecError names the field and the file."""
    data: object = {}
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise InvalidSpecError("--settings", f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise InvalidSpecError("--settings", f"{path} must hold a mapping of settings")
    if unknown := set(data) - set(Settings.model_fields):
        raise InvalidSpecError(min(unknown), f"unknown setting in {path}; known: {', '.join(Settings.model_fields)}")
    try:
        return Settings(**data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidSpecError(field or "settings", f"{first['msg']} (in {path or 'the environment'})") from error
