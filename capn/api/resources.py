"""The kinds of Kubernetes objects that capn touches, as the client addresses them.

Role: pure constants. Must not: do I/O or know a client library.
"""

from __future__ import annotations

from dataclasses import dataclass

from capn import names


@dataclass(frozen=True, slots=True)
class Resource:
    """Where an API server serves a kind: `group` is empty for core/v1."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The `apiVersion` of objects of this kind."""
        return f"{self.group}/{self.version}" if self.group else self.version


NESTED_CLUSTER = Resource(names.GROUP, names.VERSION, "nestedclusters", "NestedCluster")
NESTED_MACHINE = Resource(names.GROUP, names.VERSION, "nestedmachines", "NestedMachine")
SECRET = Resource("", "v1", "secrets", "Secret")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
NODE = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
POD = Resource("", "v1", "pods", "Pod")
SERVICE = Resource("", "v1", "services", "Service")
PERSISTENT_VOLUME_CLAIM = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SERVICE_ACCOUNT = Resource("", "v1", "serviceaccounts", "ServiceAccount")
RESOURCE_QUOTA = Resource("", "v1", "resourcequotas", "ResourceQuota")
ROLE_BINDING = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
ROLE = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
EVENT = Resource("events.k8s.io", "v1", "events", "Event")
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
DAEMON_SET = Resource("apps", "v1", "daemonsets", "DaemonSet")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
POD_DISRUPTION_BUDGET = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
SERVICE_CIDR = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
VIRTUAL_MACHINE = Resource("kubevirt.io", "v1", "virtualmachines", "VirtualMachine")
VIRTUAL_MACHINE_INSTANCE = Resource("kubevirt.io", "v1", "virtualmachineinstances", "VirtualMachineInstance")
DATA_VOLUME = Resource("cdi.kubevirt.io", "v1beta1", "datavolumes", "DataVolume")
ENDPOINT_SLICE = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
STORAGE_CLASS = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
CLUSTER_ROLE = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
CRD = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)

BY_KIND = {
    (resource.api_version, resource.kind): resource
    for resource in (
        NESTED_CLUSTER, NESTED_MACHINE, SECRET, CONFIG_MAP, NODE, NAMESPACE, POD, SERVICE, SERVICE_ACCOUNT, EVENT,
        LEASE, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE, SERVICE_CIDR, DAEMON_SET, DEPLOYMENT, CLUSTER_ROLE,
        CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, RESOURCE_QUOTA, CRD, PERSISTENT_VOLUME_CLAIM,
        DATA_VOLUME, STORAGE_CLASS, POD_DISRUPTION_BUDGET, ENDPOINT_SLICE,
    )
}  # fmt: skip
