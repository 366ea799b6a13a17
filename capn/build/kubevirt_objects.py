"""KubeVirt's and Kubernetes' objects of a machine and of a cluster's endpoint.

Role: pure. Inputs: frozen values with every name decided; outputs: manifests that hold only what capn owns. Formats:
kubevirt.io/v1 VirtualMachine, core/v1 Service and Secret. Must not: put bootstrap data anywhere but in the seed's
Secret.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from capn import names
from capn.build.kubeadm import API_PORT
from capn.build.quantity import parse_quantity
from capn.build.stamps import LABEL_CLUSTER_ID, LABEL_VM, Stamp, build_labels, build_metadata

KUBEVIRT_API = "kubevirt.io/v1"
ROOT, SEED = "root", "seed"
# The run strategy of a VM that shall be off; its disk and all else stay.
HALTED = "Halted"
# Where a containerDisk of ours (`capn.image.containerdisk`) has them.
KERNEL_PATH, INITRD_PATH = "/boot/vmlinuz", "/boot/initrd.img"
# What the nodes of one child say to each other on their own addresses: API server, etcd, kubelet, flannel's VXLAN.
_NODE_PORTS: tuple[tuple[str, int, Literal["TCP", "UDP"]], ...] = (
    ("api", API_PORT, "TCP"),
    ("etcd-client", 2379, "TCP"),
    ("etcd-peer", 2380, "TCP"),
    ("kubelet", 10250, "TCP"),
    ("vxlan", 8472, "UDP"),
)
# The API server of an emulated machine may be slow to accept for a while without being gone.
_PROBE = {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 6}

RootDisk = Literal["containerDisk", "dataVolume", "persistentVolumeClaim"]


@dataclass(frozen=True, slots=True)
class VirtualMachineInput:
    """A machine's VM. `seed` is the Secret with the bootstrap data; None when the machine is past its bootstrap.

    `volume` is the name of the disk's volume where the disk is one: a new one for each machine, not for each name.
    """

    namespace: str
    name: str
    stamp: Stamp
    role: str
    cpus: int
    memory_mib: int
    disk_gib: int
    image: str
    volume: str
    pull_policy: str
    kernel_args: str
    root_disk: RootDisk
    seed: str | None
    storage_class: str | None = None
    eviction_strategy: str = "LiveMigrateIfPossible"
    grace_s: int = 30
    pull_secret: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a cluster's API servers are reached: by `host`, or (None) by the Service's own address.

    `cluster_ip` is the address that an earlier Service had; None: any.
    """

    service_type: str
    host: str | None = None
    cluster_ip: str | None = None


def build_seed_secret(namespace: str, name: str, stamp: Stamp, user_data: bytes) -> dict[str, Any]:
    """The Secret that KubeVirt makes the NoCloud disk from."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": build_metadata(namespace, name, stamp),
        "type": "Opaque",
        "data": {"userdata": base64.b64encode(user_data).decode()},
    }


def build_api_service(namespace: str, name: str, stamp: Stamp, exposure: Exposure) -> dict[str, Any]:
    """The Service in front of all API servers of a cluster that accept connections; it remembers the host."""
    selector = {
        LABEL_CLUSTER_ID: names.build_network_uuid(stamp.cluster_uid),
        names.LABEL_ROLE: names.ROLE_CONTROL_PLANE,
    }
    ports = [{"name": "api", "port": API_PORT, "targetPort": API_PORT, "protocol": "TCP"}]
    spec: dict[str, Any] = {"type": exposure.service_type, "selector": selector, "ports": ports}
    if exposure.cluster_ip is not None:
        spec["clusterIP"] = exposure.cluster_ip
    meta = build_metadata(namespace, name, stamp)
    meta["annotations"][names.ANNOTATION_ENDPOINT_HOST] = exposure.host or ""
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def build_node_service(namespace: str, name: str, stamp: Stamp) -> dict[str, Any]:
    """The Service whose address is a machine's node address: it stays while launcher pods come and go."""
    ports = [
        {"name": title, "port": port, "targetPort": port, "protocol": protocol} for title, port, protocol in _NODE_PORTS
    ]
    spec = {
        "type": "ClusterIP",
        "selector": {LABEL_VM: names.build_domain_uuid(stamp.machine_uid)},
        "ports": ports,
        # etcd must reach a new member before its API server accepts connections.
        "publishNotReadyAddresses": True,
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": build_metadata(namespace, name, stamp), "spec": spec}


def build_virtual_machine(vm: VirtualMachineInput) -> dict[str, Any]:
    """The VirtualMachine. A disk that ends with its launcher pod is run once; one that persists, always."""
    spec: dict[str, Any] = {
        "runStrategy": "Once" if vm.root_disk == "containerDisk" else "Always",
        "template": {
            "metadata": {"labels": build_labels(vm.stamp) | {names.LABEL_ROLE: vm.role}},
            "spec": _build_instance(vm),
        },
    }
    if vm.root_disk == "dataVolume":
        spec["dataVolumeTemplates"] = [_build_data_volume(vm)]
    meta = build_metadata(vm.namespace, vm.name, vm.stamp, **{names.LABEL_ROLE: vm.role})
    return {"apiVersion": KUBEVIRT_API, "kind": "VirtualMachine", "metadata": meta, "spec": spec}


def build_volume_claim(
    namespace: str, name: str, stamp: Stamp, source: Mapping[str, Any], *, disk_gib: int
) -> dict[str, Any]:
    """A claim that the storage driver fills with a clone of the claim `source`, as a server returned that one.

    What a clone must have in common with its source is taken from there. Not smaller than `disk_gib`, nor than the
    source (`size` there is a Kubernetes quantity, kept as it is when it is the larger one).
    """
    found = source["spec"]
    wanted, given = f"{disk_gib}Gi", str(found["resources"]["requests"]["storage"])
    size = wanted if parse_quantity(wanted) > parse_quantity(given) else given
    spec = {key: found[key] for key in ("accessModes", "volumeMode", "storageClassName") if key in found}
    spec["resources"] = {"requests": {"storage": size}}
    spec["dataSource"] = {"kind": "PersistentVolumeClaim", "name": source["metadata"]["name"]}
    meta = build_metadata(namespace, name, stamp)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def is_persistent(vm: Mapping[str, Any]) -> bool:
    """Whether the VirtualMachine's disk outlives its launcher pod, whatever the settings have become since."""
    return not any("containerDisk" in volume for volume in _read_volumes(vm))


def build_release_patch(vm: Mapping[str, Any]) -> dict[str, Any] | None:
    """The merge patch that takes the seed out of a VirtualMachine; None when it has none any more.

    A VM whose disk ends with its pod is not started anew from then on: it would be an empty machine of the same name.
    """
    if not has_seed(vm):
        return None
    volumes = [volume for volume in _read_volumes(vm) if volume["name"] != SEED]
    devices = vm["spec"]["template"]["spec"]["domain"]["devices"]
    disks = [disk for disk in devices.get("disks") or () if disk["name"] != SEED]
    template = {"spec": {"volumes": volumes, "domain": {"devices": {"disks": disks}}}}
    return {"spec": {"template": template, **({} if is_persistent(vm) else {"runStrategy": "Manual"})}}


def has_seed(vm: Mapping[str, Any]) -> bool:
    """Whether the VirtualMachine still refers to its bootstrap data."""
    return any(volume["name"] == SEED for volume in _read_volumes(vm))


def _read_volumes(vm: Mapping[str, Any]) -> list[dict[str, Any]]:
    return vm["spec"]["template"]["spec"].get("volumes") or []


def _build_instance(vm: VirtualMachineInput) -> dict[str, Any]:
    root: dict[str, Any] = {"name": ROOT}
    if vm.root_disk == "dataVolume":
        root["dataVolume"] = {"name": vm.volume}
    elif vm.root_disk == "persistentVolumeClaim":
        root["persistentVolumeClaim"] = {"claimName": vm.volume}
    else:
        root["containerDisk"] = {"image": vm.image, "imagePullPolicy": vm.pull_policy, **_pull_secret(vm)}
    volumes, disks = [root], [_disk(ROOT)]
    if vm.seed is not None:
        volumes.append({"name": SEED, "cloudInitNoCloud": {"secretRef": {"name": vm.seed}}})
        disks.append(_disk(SEED))
    instance: dict[str, Any] = {
        "domain": _build_domain(vm, disks),
        "evictionStrategy": vm.eviction_strategy,
        "terminationGracePeriodSeconds": vm.grace_s,
        "networks": [{"name": "default", "pod": {}}],
        "volumes": volumes,
    }
    if vm.node_selector:
        instance["nodeSelector"] = dict(vm.node_selector)
    if vm.role == names.ROLE_CONTROL_PLANE:
        instance["readinessProbe"] = {"tcpSocket": {"port": API_PORT}, **_PROBE}
        instance["affinity"] = _build_spread(vm.stamp)
    return instance


def _build_domain(vm: VirtualMachineInput, disks: list[dict[str, Any]]) -> dict[str, Any]:
    container = {
        "image": vm.image,
        "imagePullPolicy": vm.pull_policy,
        "kernelPath": KERNEL_PATH,
        "initrdPath": INITRD_PATH,
        **_pull_secret(vm),
    }
    return {
        "cpu": {"cores": vm.cpus},
        "memory": {"guest": f"{vm.memory_mib}Mi"},
        "firmware": {
            "uuid": names.build_domain_uuid(vm.stamp.machine_uid),
            "kernelBoot": {"kernelArgs": vm.kernel_args, "container": container},
        },
        "devices": {
            "disks": disks,
            "interfaces": [
                {"name": "default", "masquerade": {}, "macAddress": names.build_mac(vm.stamp.machine_uid)},
            ],
            "rng": {},
            # The bootstrap reports come this way; the cluster may have console logs off by default.
            "logSerialConsole": True,
            "autoattachGraphicsDevice": False,
            "autoattachMemBalloon": False,
        },
    }


def _disk(name: str) -> dict[str, Any]:
    return {"name": name, "disk": {"bus": "virtio"}}


def _pull_secret(vm: VirtualMachineInput) -> dict[str, str]:
    return {"imagePullSecret": vm.pull_secret} if vm.pull_secret else {}


def _build_data_volume(vm: VirtualMachineInput) -> dict[str, Any]:
    storage: dict[str, Any] = {"resources": {"requests": {"storage": f"{vm.disk_gib}Gi"}}}
    if vm.storage_class is not None:
        storage["storageClassName"] = vm.storage_class
    return {
        "metadata": {"name": vm.volume, "labels": build_labels(vm.stamp)},
        "spec": {"source": {"registry": {"url": f"docker://{vm.image}", "pullMethod": "node"}}, "storage": storage},
    }


def _build_spread(stamp: Stamp) -> dict[str, Any]:
    """Control planes of one cluster go to different hosts where there are enough."""
    selector = {
        "matchLabels": {
            LABEL_CLUSTER_ID: names.build_network_uuid(stamp.cluster_uid),
            names.LABEL_ROLE: names.ROLE_CONTROL_PLANE,
        }
    }
    term = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]
        }
    }
