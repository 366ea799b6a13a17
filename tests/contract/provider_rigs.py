"""What the provider contract needs of a provider beside the Protocol: to break things behind its back, and to look."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Protocol

import libvirt

from capn import names
from capn.api.kubeadm_arguments import ExtraArgsOnly, KubeadmArguments
from capn.api.resources import (
    NESTED_CLUSTER,
    NESTED_MACHINE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SECRET,
    SERVICE,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
)
from capn.build.cloudinit import BootstrapMode, UserDataInput, build_user_data
from capn.build.kubeadm import ClusterConfigInput, NodeInput, build_init_config
from capn.build.nesting import claims_namespace
from capn.build.pki import ClusterPki, generate_pki
from capn.build.stamps import LABEL_CLUSTER_ID
from capn.dev import processes
from capn.dev.hypervisor import Hypervisor
from capn.dev.parent_flags import API_SERVER
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.kube.http import HttpKubeClient, Observer
from capn.providers.base import ClusterRef, ClusterRequest, MachineRef, MachineRequest, Provider
from capn.providers.failure_domains import DomainProvider
from capn.providers.images import NodeImage
from capn.providers.kubevirt.provider import KubeVirtProvider
from capn.providers.libvirt.provider import LibvirtProvider
from capn.providers.memory import MemoryProvider
from capn.providers.memory_world import MemoryWorld
from capn.providers.parent.place import machine_name
from capn.providers.parent.provider import ParentProvider
from capn.settings import KubeVirtEndpoint, LibvirtEndpoint, MemoryEndpoint, ParentEndpoint, SecretKey
from tests.harness.cloning_driver import SOURCE, CloningDriver
from tests.harness.kubevirt_ground import Ground
from tests.harness.kubevirt_world import KubeVirtWorld
from tests.harness.scenario import NAMESPACE_NAME, Scenario

VERSION = "v1.99.0"
# In the bootstrap data of every machine here; it must turn up nowhere but in the seed.
CANARY = "canary-5f1d7c0e9b"
_KINDS = (VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE, POD, SERVICE, SECRET, PERSISTENT_VOLUME_CLAIM)
# Failure domains that the machines of a test are in, in turn; the fixture of a rig that has some sets them.
failure_domains: tuple[str, ...] = ("",)


def cluster_ref(name: str = "demo", *, uid: str | None = None) -> ClusterRef:
    return ClusterRef(namespace="tenant", name=name, uid=uid or f"cluster-uid-{name}")


def cluster_request(ref: ClusterRef, *, pod_cidr: str = "10.244.0.0/16") -> ClusterRequest:
    path = f"{ref.namespace}/{ref.name}"
    return ClusterRequest(ref=ref, path=path, version=VERSION, pod_cidr=pod_cidr, service_cidr="10.96.0.0/16")


def control_plane(cluster: ClusterRef, **changes: object) -> MachineRequest:
    name = names.control_plane_machine(cluster.name, 0)
    return machine_request(cluster, name, role=names.ROLE_CONTROL_PLANE, ordinal=0, **changes)


def worker(cluster: ClusterRef, ordinal: int = 0, **changes: object) -> MachineRequest:
    name = names.worker_machine(cluster.name, "pool", ordinal)
    return machine_request(cluster, name, role=names.ROLE_WORKER, ordinal=ordinal, **changes)


def machine_request(cluster: ClusterRef, name: str, *, role: str, ordinal: int, **changes: object) -> MachineRequest:
    domain = failure_domains[ordinal % len(failure_domains)]
    ref = MachineRef(cluster=cluster, name=name, uid=f"uid-of-{cluster.uid}-{name}", failure_domain=domain)
    values: dict[str, Any] = {
        "ref": ref,
        "role": role,
        "ordinal": ordinal,
        "version": VERSION,
        "image": None,
        "cpus": 2,  # as many as admission asks of a control plane
        "memory_mib": 64,
        "disk_gib": 4,  # the smallest that admission lets through
        "bootstrap_data": user_data(ref),
    }
    return MachineRequest(**(values | changes))


@functools.cache
def pki() -> ClusterPki:
    return generate_pki(now=datetime.now(UTC), cluster="demo")


def user_data(ref: MachineRef) -> bytes:
    provider_id = names.build_provider_id(
        "memory", namespace=ref.cluster.namespace, cluster=ref.cluster.name, machine=ref.name, machine_uid=ref.uid
    )
    config = build_init_config(
        ClusterConfigInput(
            version=VERSION,
            cluster=ref.cluster.name,
            endpoint_host="192.0.2.10",
            endpoint_port=6443,
            pod_cidr="10.244.0.0/16",
            service_cidr="10.96.0.0/16",
            dns_domain="cluster.local",
            node=NodeInput(name=ref.name, provider_id=provider_id),
            token="first0.0123456789abcdef",
            arguments=KubeadmArguments(api_server=ExtraArgsOnly(extra_args={"canary": CANARY})),
        )
    )
    return build_user_data(
        UserDataInput(
            hostname=ref.name,
            mode=BootstrapMode.INIT,
            endpoint_host="192.0.2.10",
            endpoint_port=6443,
            service_cidr="10.96.0.0/16",
            kubeadm_config=config,
            pki=pki(),
        )
    )


class Rig(Protocol):
    """A provider and hands behind its back."""

    # What a child must not overlap, as a CIDR that does.
    collides: str
    # Whether a VM that ended can be started again with its disk.
    disk_survives: bool
    # Whether the provider itself knows how much memory the hosts have.
    knows_memory: bool
    # Whether `plan_machine` knows what the hypervisor would refuse; where not, the machine's Problem says it.
    plans: bool
    # Whether a VM that ended is brought back without being asked, while its disk or its bootstrap data is there.
    restarts: bool
    # Whether the guests here shut down when they are asked to.
    hears: bool

    @property
    def provider(self) -> Provider:
        """The provider under test."""
        ...

    async def reopen(self) -> Provider:
        """Another provider on the same hypervisor, as a restarted controller has."""
        ...

    async def stop_vm(self, ref: MachineRef) -> None:
        """Power off."""
        ...

    async def lose_vm(self, ref: MachineRef) -> None:
        """Remove VM and disk."""
        ...

    async def blink(self) -> None:
        """Take the hypervisor's daemon away for a moment."""
        ...

    async def inventory(self) -> tuple[object, ...]:
        """All that exists, by kind, comparable; nothing but empty parts when nothing is left."""
        ...

    async def close(self) -> None:
        """Close every provider."""
        ...


class SimulatedHost:
    """What the memory provider can do."""

    collides = "10.0.0.0/8"
    disk_survives = True
    knows_memory = True
    plans = True
    restarts = False
    hears = True


@dataclass
class MemoryRig(SimulatedHost):
    provider: MemoryProvider = field(
        default_factory=lambda: MemoryProvider(MemoryEndpoint(versions=(VERSION,), memory_mib=16 * 1024))
    )

    async def reopen(self) -> Provider:
        return MemoryProvider(MemoryEndpoint(versions=(VERSION,)), world=self.provider.world)

    async def stop_vm(self, ref: MachineRef) -> None:
        self.provider.crash(ref)

    async def lose_vm(self, ref: MachineRef) -> None:
        self.provider.remove(ref)

    async def blink(self) -> None:
        self.provider.set_down(True)
        self.provider.set_down(False)

    async def inventory(self) -> tuple[object, ...]:
        world = self.provider.world
        return sorted(world.clusters), sorted((uid, machine.state) for uid, machine in world.machines.items())

    async def close(self) -> None:
        await self.provider.close()


class DomainRig(SimulatedHost):
    """Two failure domains of one endpoint: two simulated hosts whose machines share a network."""

    domains = ("rack-a", "rack-b")

    def __init__(self) -> None:
        self.world = MemoryWorld(lambda: datetime.now(UTC))
        self.hosts = self._open_hosts()
        self.provider = DomainProvider(self.hosts)

    def _open_hosts(self) -> dict[str, MemoryProvider]:
        endpoint = MemoryEndpoint(versions=(VERSION,), memory_mib=16 * 1024)
        return {name: MemoryProvider(endpoint, world=self.world, host=name) for name in self.domains}

    async def reopen(self) -> Provider:
        return DomainProvider(self._open_hosts())

    async def stop_vm(self, ref: MachineRef) -> None:
        self._host(ref).crash(ref)

    async def lose_vm(self, ref: MachineRef) -> None:
        self._host(ref).remove(ref)

    def _host(self, ref: MachineRef) -> MemoryProvider:
        """Where the VM really is, whatever the reference says."""
        return self.hosts[self.world.machines[ref.uid].host]

    async def blink(self) -> None:
        for host in self.hosts.values():
            host.set_down(True)
            host.set_down(False)

    async def inventory(self) -> tuple[object, ...]:
        machines = [(uid, machine.host, machine.state) for uid, machine in self.world.machines.items()]
        return sorted((uid, sorted(cluster.hosts)) for uid, cluster in self.world.clusters.items()), sorted(machines)

    async def close(self) -> None:
        await self.provider.close()


class ParentRig:
    """The provider on a whole capn: its claims are satisfied by the real controllers and the memory provider."""

    collides = "198.18.0.0/15"
    disk_survives = True
    knows_memory = False
    plans = False
    restarts = True
    hears = True

    def __init__(self, parent: Scenario, claims: str) -> None:
        self.parent, self.claims = parent, claims
        self.provider = self._open()

    @classmethod
    async def open(cls) -> ParentRig:
        """A parent that has just started."""
        parent = Scenario(
            MemoryEndpoint(
                versions=(VERSION, "v1.37.2"), memory_mib=16 * 1024, reserved_cidrs=(IPv4Network("198.18.0.0/16"),)
            )
        )
        await parent.start()
        await parent.nest()
        cluster = await parent.cluster()
        assert cluster is not None
        return cls(parent, claims_namespace("c1", cluster["metadata"]["uid"]))

    def _open(self) -> ParentProvider:
        async def connect(_told: Observer) -> KubeClient:
            return self.parent.api

        endpoint = ParentEndpoint(
            kubeconfig=SecretKey(namespace="capn-system", name="parent"),
            namespace=self.claims,
            path=f"{NAMESPACE_NAME}/c1",
            infrastructure_kind="memory",
        )
        return ParentProvider(endpoint, connect)

    async def reopen(self) -> Provider:
        return self._open()

    async def stop_vm(self, ref: MachineRef) -> None:
        self.parent.provider.crash(await self._find(ref))

    async def lose_vm(self, ref: MachineRef) -> None:
        self.parent.provider.remove(await self._find(ref))

    async def _find(self, ref: MachineRef) -> MachineRef:
        """The machine as the parent's hypervisor has it."""
        claim = await self.parent.api.get(NESTED_MACHINE, machine_name(ref), self.claims)
        assert claim is not None
        uid = claim["metadata"]["uid"]
        await self.parent.until(lambda: uid in self.parent.world.machines)
        return self.parent.world.machines[uid].ref

    async def blink(self) -> None:
        """The parent's controllers die and start again, and its API server's watches break."""
        await self.parent.restart()
        self.parent.api.drop_watches()

    async def inventory(self) -> tuple[object, ...]:
        """What the parent's hypervisor has for claims; the cluster that claims is there too."""
        world = self.parent.world
        clusters = sorted(uid for uid, cluster in world.clusters.items() if cluster.ref.namespace == self.claims)
        machines = world.machines.items()
        return clusters, sorted((uid, vm.state) for uid, vm in machines if vm.ref.cluster.namespace == self.claims)

    async def close(self) -> None:
        await self.provider.close()
        await self.parent.delete()
        await self.parent.gone()
        left = [
            item["metadata"]["name"]
            for resource in (NESTED_CLUSTER, NESTED_MACHINE, SECRET)
            for item in (await self.parent.api.list(resource)).items
        ]
        await self.parent.kill()
        await self.parent.provider.close()
        assert left == [], left


class SimulatedKubeVirtRig:
    """The provider on the double of a cluster with KubeVirt."""

    collides = "10.0.0.0/8"
    knows_memory = False
    plans = True
    restarts = False
    hears = True

    def __init__(
        self, world: KubeVirtWorld, endpoint: KubeVirtEndpoint | None = None, *, disk_survives: bool = False
    ) -> None:
        self.world = world
        self.disk_survives = disk_survives
        self.endpoint = endpoint or KubeVirtEndpoint(versions=(VERSION,))
        self.provider = self._open()

    def _open(self) -> KubeVirtProvider:
        async def connect(_told: Observer) -> KubeVirtWorld:
            return self.world

        return KubeVirtProvider(self.endpoint, connect)

    async def reopen(self) -> Provider:
        return self._open()

    async def stop_vm(self, ref: MachineRef) -> None:
        await self.world.stop(ref.name, ref.cluster.namespace)

    async def lose_vm(self, ref: MachineRef) -> None:
        await self.world.delete(VIRTUAL_MACHINE, ref.name, ref.cluster.namespace)

    async def blink(self) -> None:
        self.world.drop_watches()

    async def inventory(self) -> tuple[object, ...]:
        return await list_kubevirt(self.world)

    async def close(self) -> None:
        await self.provider.close()


def build_disk(driver: CloningDriver | None) -> dict[str, Any]:
    """Settings for disks that are claims, or none."""
    return {"root_disk": "persistentVolumeClaim", "volume_source": SOURCE} if driver else {}


class KubeVirtRig:
    """The provider on real KubeVirt, by an account that has the rights of config/kubevirt and no others."""

    collides = "198.18.0.0/15"
    knows_memory = False
    plans = True
    restarts = False
    hears = True  # KubeVirt itself cuts the power of one that does not

    def __init__(
        self, ground: Ground, account: HttpKubeClient, admin: HttpKubeClient, driver: CloningDriver | None = None
    ) -> None:
        self.ground = ground
        self.admin = admin
        self.account = account
        self.driver = driver
        self.disk_survives = driver is not None
        self.endpoint = KubeVirtEndpoint(
            versions=(VERSION,), image_pull_policy="Never", kernel_args="console=ttyS0", grace_s=0, **build_disk(driver)
        )
        self.provider = self._open()

    @classmethod
    async def open(cls, ground: Ground, *, volumes: bool = False) -> KubeVirtRig:
        """Connect as the controller and as the administrator; `volumes`: disks are claims, not containerDisks."""
        account = await connect_kubeconfig(ground.make_account("contract", volumes=volumes))
        admin = await connect_kubeconfig(ground.parent.kubeconfig)
        driver = await CloningDriver.start(admin, ground.directory / "volumes") if volumes else None
        return cls(ground, account, admin, driver)

    def _open(self) -> KubeVirtProvider:
        async def connect(_told: Observer) -> HttpKubeClient:
            return self.account

        return KubeVirtProvider(self.endpoint, connect)

    async def reopen(self) -> Provider:
        return self._open()

    async def stop_vm(self, ref: MachineRef) -> None:
        """Kill the VM's QEMU."""
        uuid = names.build_domain_uuid(ref.uid).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    arguments = (entry / "cmdline").read_bytes()
                    if b"qemu-system" in arguments and uuid in arguments:
                        os.kill(int(entry.name), signal.SIGKILL)

    async def lose_vm(self, ref: MachineRef) -> None:
        await self.admin.delete(VIRTUAL_MACHINE, ref.name, ref.cluster.namespace)

    async def blink(self) -> None:
        """Kill the API server; it and its neighbours come back as they were."""
        parent = self.ground.parent
        await processes.kill(parent.layout.run, API_SERVER)
        await parent.up(print)

    async def inventory(self) -> tuple[object, ...]:
        found: list[list[object]] = []
        for resource in _KINDS:
            items = (await self.admin.list(resource, namespace="tenant", label_selector=LABEL_CLUSTER_ID)).items
            found.append([(item["metadata"]["name"], item["metadata"]["uid"]) for item in items])
        return tuple(found)

    async def close(self) -> None:
        await self.provider.close()
        if self.driver is not None:
            await self.driver.stop()
        await self.account.close()
        await self.admin.close()


async def list_kubevirt(client: KubeClient) -> tuple[list[object], ...]:
    """Names, UIDs and specs of all objects of this provider, by kind."""
    found: list[list[object]] = []
    for resource in _KINDS:
        items = (await client.list(resource, namespace="tenant", label_selector=f"{LABEL_CLUSTER_ID}")).items
        found.append([(item["metadata"]["name"], item["metadata"]["uid"], item.get("spec")) for item in items])
    return tuple(found)


class OneImage:
    """An image source with the tiny guest."""

    def __init__(self, image: NodeImage) -> None:
        self.image = image

    def find(self, name: str, /) -> NodeImage | None:
        return self.image if name == self.image.version else None


class LibvirtRig:
    collides = "10.0.0.0/8"
    disk_survives = True
    knows_memory = True
    plans = True
    restarts = False
    hears = False

    def __init__(self, hypervisor: Hypervisor, images: OneImage, endpoint: LibvirtEndpoint | None = None) -> None:
        self.hypervisor = hypervisor
        self.images = images
        self.endpoint = endpoint or hypervisor.endpoint()
        self.provider = LibvirtProvider(self.endpoint, images)
        self._opened: list[Provider] = [self.provider]

    async def reopen(self) -> Provider:
        other = LibvirtProvider(self.endpoint, self.images)
        self._opened.append(other)
        return other

    async def stop_vm(self, ref: MachineRef) -> None:
        with self.connect() as conn:
            conn.lookupByUUIDString(names.build_domain_uuid(ref.uid)).destroy()

    async def lose_vm(self, ref: MachineRef) -> None:
        with self.connect() as conn:
            domain = conn.lookupByUUIDString(names.build_domain_uuid(ref.uid))
            if domain.isActive():
                domain.destroy()
            domain.undefine()
            pool = conn.storagePoolLookupByName(self.endpoint.pool)
            for volume in pool.listAllVolumes():
                if names.build_domain_uuid(ref.uid) in volume.name():
                    volume.delete()

    async def blink(self) -> None:
        """Kill libvirtd and wait until its successor has taken over the machines.

        It does so beside its first answers (qemuProcessReconnect). Who ends a machine meanwhile is told that it does
        not run, and no event comes: libvirt has it fail then ("shutting down, reason=daemon").
        """
        await asyncio.to_thread(self.hypervisor.restart_daemon)
        with self.connect() as conn:
            for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                domain.memoryStats()  # a job, so it comes after the takeover's

    async def inventory(self) -> tuple[object, ...]:
        with self.connect() as conn:
            domains = sorted((domain.name(), domain.state(), domain.XMLDesc()) for domain in conn.listAllDomains())
            networks = sorted((network.name(), network.XMLDesc()) for network in conn.listAllNetworks())
            return domains, networks, self.volumes(conn)

    def volumes(self, conn: libvirt.virConnect) -> list[str]:
        """Volumes of machines; images stay."""
        return sorted(
            volume.name()
            for pool in conn.listAllStoragePools()
            for volume in pool.listAllVolumes()
            if not volume.name().startswith("capn-node-")
        )

    @contextlib.contextmanager
    def connect(self) -> Iterator[Any]:
        conn = libvirt.open(self.hypervisor.uri)
        try:
            yield conn
        finally:
            conn.close()

    def command_lines(self) -> str:
        """Command lines and environments of every QEMU on this machine."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if b"qemu-system" in (entry / "cmdline").read_bytes():
                        found += [(entry / name).read_bytes() for name in ("cmdline", "environ")]
        return b"\n".join(found).decode(errors="replace")

    async def close(self) -> None:
        for provider in self._opened:
            await provider.close()
