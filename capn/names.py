"""Every name that capn gives: groups, labels, annotations, Secrets, machines, hypervisor objects.

Role: pure and deterministic, so that what exists can be found again after any crash. Inputs are names and UIDs, outputs
strings. Must not: hold random or time-dependent parts, or be parsed back (ownership is by UID stamps, never by name).
"""

from __future__ import annotations

import hashlib
import uuid

GROUP = "capn.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "capn"
FINALIZER = f"{GROUP}/finalizer"

LABEL_CLUSTER = f"{GROUP}/cluster"
LABEL_ROLE = f"{GROUP}/role"
LABEL_POOL = f"{GROUP}/pool"
# Cluster API's own label: existing tools find a cluster's Secrets by it.
LABEL_CAPI_CLUSTER = "cluster.x-k8s.io/cluster-name"
SECRET_TYPE_CAPI = "cluster.x-k8s.io/secret"  # noqa: S105 - a type's name, not a secret
ANNOTATION_OWNER_UID = f"{GROUP}/owner-uid"
# On a claimed machine, by the child that claimed it: its node has joined, the bootstrap data may go.
ANNOTATION_RELEASED = f"{GROUP}/bootstrap-released"
# On a machine, by whoever makes it (its cluster, or the child that claimed it): its VM shall be off.
ANNOTATION_POWER_OFF = f"{GROUP}/power-off"
# What it says: let the guest shut down, or cut its power.
POWER_OFF_ASKED, POWER_OFF_FORCED = "true", "force"
# On a NestedMachine, by people: the first to go when its pool shrinks; never replaced by the health check.
ANNOTATION_DELETE_MACHINE = f"{GROUP}/delete-machine"
ANNOTATION_SKIP_REMEDIATION = f"{GROUP}/skip-remediation"
# On a node in a child: which of its labels and taints came from the machine's spec, so that they can be taken off.
ANNOTATION_NODE_SETTINGS = f"{GROUP}/node-settings"
# On a control plane's node, by its guest (build/guest/certificates.sh): when the first of its certificates
# ends, and why the last attempt to renew them failed.
ANNOTATION_CERTIFICATES_END = f"{GROUP}/certificates-end"
ANNOTATION_CERTIFICATES_FAILURE = f"{GROUP}/certificates-failure"
# On the Service in front of a cluster's API servers: the host that leads to it, by the settings of when it was made;
# empty: the Service's own address. Certificates hold it, so settings that change later do not count.
ANNOTATION_ENDPOINT_HOST = f"{GROUP}/endpoint-host"
# Of bootstrap data that a child hands over: no other Secret is read for a claimed machine.
SECRET_TYPE_CLAIM = f"{GROUP}/claimed-bootstrap-data"

# On the namespace in which a child's claims are; the admission policy of config/nesting reads the annotations.
LABEL_CLAIMS = f"{GROUP}/claims"
ANNOTATION_PATH = f"{GROUP}/path"
ANNOTATION_MAX_PATH_PARTS = f"{GROUP}/max-path-parts"
ANNOTATION_INFRASTRUCTURE = f"{GROUP}/infrastructure"
# What has been applied: a digest of it, so that nothing is written again that is there.
ANNOTATION_APPLIED = f"{GROUP}/applied"
# On a claimed cluster, by the child that claimed it: how the cluster is.
ANNOTATION_REPORTED = f"{GROUP}/reported"
# On a machine, "true": its node is not drained when the machine is deleted.
ANNOTATION_SKIP_DRAIN = f"{GROUP}/skip-drain"
# On a cluster, by a scaler: how many machines an autoscaled pool shall have (`annotation_replicas`).
ANNOTATION_REPLICAS = f"replicas.{GROUP}/"
# On objects of a child: the add-on that they belong to; an object without it is not pruned.
ANNOTATION_ADDON = f"{GROUP}/addon"
# On a NestedCluster, by people: another value has the add-ons' content read at once.
ANNOTATION_REFRESH = f"{GROUP}/refresh-addons"
LABEL_ADDON_INVENTORY = f"{GROUP}/addon-inventory"
# Of Secrets that hold an add-on's manifests: no other Secret is copied to a child.
SECRET_TYPE_ADDON = f"{GROUP}/addon"
ANNOTATION_RENEW_AFTER = f"{GROUP}/renew-after"
# On a cluster, by its user: take a snapshot of etcd now; a value that is new asks once more.
ANNOTATION_BACKUP_NOW = f"{GROUP}/backup-now"
# On a cluster, by people, "true": nothing is restored without being asked when its control plane is lost.
ANNOTATION_SKIP_RESTORE = f"{GROUP}/skip-restore"
# On a node in a child, by its own kubelet: the Kubernetes version of its machine, and so of its container images.
LABEL_VERSION = f"{GROUP}/kubernetes-version"
# On a DaemonSet beside kubeadm's kube-proxy, and its pods, during an upgrade: the version of the nodes that it serves.
LABEL_KUBE_PROXY = f"{GROUP}/kube-proxy"
# On a node, by its own kubelet: the failure domain that its machine is in.
LABEL_ZONE = "topology.kubernetes.io/zone"
CHILD_ACCOUNT = "child"
CHILD_ROLE = "capn-child"
SYSTEM_NAMESPACE = "capn-system"
CONTROLLER = "capn-controller"

ROLE_CONTROL_PLANE = "control-plane"
ROLE_WORKER = "worker"

# Namespace of every UUIDv5 we derive. Fixed for ever: changing it would orphan each running domain.
_UUID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, GROUP)


def build_domain_uuid(machine_uid: str) -> str:
    """The hypervisor's UUID for the machine with this Kubernetes UID (UUIDv5, so one machine can have one VM only)."""
    return str(uuid.uuid5(_UUID_NAMESPACE, machine_uid))


def build_network_uuid(cluster_uid: str) -> str:
    """The hypervisor's UUID for the network of the cluster with this Kubernetes UID."""
    return str(uuid.uuid5(_UUID_NAMESPACE, f"network/{cluster_uid}"))


def build_provider_id(kind: str, *, namespace: str, cluster: str, machine: str, machine_uid: str) -> str:
    """The node's provider ID, unique over namespaces, clusters and rebuilt machines of one name."""
    return f"capn-{kind}://{namespace}/{cluster}/{machine}/{build_domain_uuid(machine_uid)}"


def build_mac(machine_uid: str) -> str:
    """A stable MAC address of the machine: QEMU's prefix 52:54:00 and 24 bits of the UID's hash."""
    digest = hashlib.sha256(machine_uid.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def build_gate_name(cluster_uid: str) -> str:
    """TLS server name by which the gate knows the cluster with this Kubernetes UID."""
    return f"{cluster_uid}.gate.{GROUP}"


def build_short_id(uid: str) -> str:
    """Ten hex digits that stand for a UID where a name is short (bridges, volumes)."""
    return hashlib.sha256(uid.encode()).hexdigest()[:10]


def build_marked_name(name: str, uid: str, *, limit: int, mark: int = 6) -> str:
    """A name of at most `limit` characters with a mark of the UID, for where names of several owners meet."""
    return f"{name[: limit - mark - 1].rstrip('-')}-{build_short_id(uid)[:mark]}"


def annotation_replicas(pool: str) -> str:
    """Key of the annotation by which a scaler says how many machines an autoscaled pool shall have."""
    return f"{ANNOTATION_REPLICAS}{pool}"


def secret_ca(cluster: str) -> str:
    """The cluster CA's Secret, as Cluster API names it."""
    return f"{cluster}-ca"


def secret_etcd(cluster: str) -> str:
    """The etcd CA's Secret."""
    return f"{cluster}-etcd"


def secret_proxy(cluster: str) -> str:
    """The front-proxy CA's Secret."""
    return f"{cluster}-proxy"


def secret_sa(cluster: str) -> str:
    """The service-account key pair's Secret."""
    return f"{cluster}-sa"


def secret_kubeconfig(cluster: str) -> str:
    """The administrator's kubeconfig Secret (key `value`)."""
    return f"{cluster}-kubeconfig"


def secret_bootstrap(machine: str) -> str:
    """The machine's bootstrap data Secret (keys `value`, `format`)."""
    return f"{machine}-bootstrap"


def addon_inventory(addon: str) -> str:
    """The ConfigMap in the child that lists what an add-on has there."""
    return f"capn-addon-{addon}"


def addon_manager(addon: str) -> str:
    """The field manager by which an add-on's objects are applied."""
    return f"capn-addon-{addon}"


def control_plane_machine(cluster: str, ordinal: int) -> str:
    """Name of the n-th control-plane machine, counted from 0; also its node's name."""
    return f"{cluster}-cp-{ordinal}"


# `<cluster>-<pool>-<ordinal>` has to stay a node's name: admission leaves room for three digits.
MAX_WORKER_ORDINAL = 999


def worker_machine(cluster: str, pool: str, ordinal: int) -> str:
    """Name of the n-th machine of a worker pool, counted from 0; also its node's name."""
    return f"{cluster}-{pool}-{ordinal}"
