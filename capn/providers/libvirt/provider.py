"""The libvirt provider: one endpoint, asynchronous face of the blocking modules beside it.

Role: implements `capn.providers.base.Provider`. Every call is idempotent; each runs in a thread, alone for its
machine or cluster. Inputs: the administrator's endpoint settings and a source of node images. Must not: hold state
that a restart loses and correctness needs (`_known` only names machines in events).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from capn import names
from capn.build.claim_report import ClaimReport
from capn.build.cloudinit import build_meta_data
from capn.build.kubeadm import API_PORT
from capn.build.kubeconfig import parse_kubeconfig
from capn.kube.child import connect_child
from capn.kube.client import KubeClient
from capn.providers.base import (
    ClusterRef,
    ClusterRequest,
    MachineRef,
    MachineRequest,
    ObservedCluster,
    ObservedMachine,
)
from capn.providers.checks import build_image_not_found, check_cidrs, check_disk, image_name
from capn.providers.images import ImageSource, NodeImage
from capn.providers.libvirt import domains, image_store, machines, networks, volumes
from capn.providers.libvirt.connection import LibvirtConnection, Session
from capn.providers.libvirt.console import read_console
from capn.providers.libvirt.events import ChangeFeed
from capn.providers.libvirt.image_store import Progress, StoredImage
from capn.settings import LibvirtEndpoint

# Making a VM: volumes, definition and start; seconds, but a busy host with emulated guests is slow at everything.
_MACHINE_TIMEOUT_S = 180.0
_UPLOAD_TIMEOUT_S = 1800.0


class LibvirtProvider:
    """Machines of one libvirt endpoint."""

    kind = "libvirt"
    keeps_addresses = False

    def __init__(self, endpoint: LibvirtEndpoint, images: ImageSource) -> None:
        self._endpoint = endpoint
        self._images = images
        self._connection = LibvirtConnection(endpoint.uri)
        self._known: dict[str, MachineRef] = {}
        self._uploads: dict[str, asyncio.Task[StoredImage]] = {}

    async def observe_cluster(self, ref: ClusterRef) -> ObservedCluster | None:
        """What exists for the cluster, or None."""
        network = await self._connection.run(lambda session: networks.find_network(session, self._endpoint, ref))
        return None if network is None else _observe(network)

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        """The cluster's network. InvalidSpecError (CIDRCollision) when the child's addresses overlap others."""
        networks.check_request(self._endpoint, request)

        def work(session: Session) -> networks.ClusterNetwork:
            network = networks.ensure_network(session, self._endpoint, request)
            check_cidrs(request, [("the cluster's machine network", network.subnet)])
            return network

        return _observe(await self._connection.run(work, key=f"network/{request.ref.uid}"))

    async def tell_cluster(self, ref: ClusterRef, report: ClaimReport, *, paused: bool) -> None:
        """Nobody else makes the machines."""

    async def delete_cluster(self, ref: ClusterRef) -> bool:
        """Remove the cluster's network, and before that any VM of the cluster that is still there."""

        def work(session: Session) -> bool:
            for machine in domains.list_owned(session, ref):
                machines.delete_machine(session, self._endpoint, machine)
            networks.delete_network(session, self._endpoint, ref)
            return True

        return await self._connection.run(work, key=f"network/{ref.uid}", timeout_s=_MACHINE_TIMEOUT_S)

    async def ensure_address(self, ref: MachineRef) -> str | None:  # noqa: ARG002 - the Protocol's
        """None: the machine's card has the address that leads to it."""
        return None

    async def observe_machine(self, ref: MachineRef) -> ObservedMachine | None:
        """The VM, or None."""
        self._remember(ref)
        return await self._connection.run(lambda session: machines.observe_machine(session, ref))

    async def plan_machine(self, request: MachineRequest) -> None:
        """Refuse an unknown image, a disk smaller than it, or more memory than the host has."""
        local = self._images.find(image_name(request))
        if local is not None:
            check_disk(request, local.minimum_disk_bytes)
        else:
            check_disk(request, (await self._ensure_image(request)).minimum_disk_bytes)
        await self._connection.run(lambda session: machines.check_capacity(session, request))

    async def ensure_machine(self, request: MachineRequest) -> ObservedMachine:
        """Make what is missing of the machine and start it."""
        ref = request.ref
        self._remember(ref)
        running = await self._connection.run(
            lambda session: machines.revive_machine(session, self._endpoint, ref), key=ref.uid
        )
        if running is not None:
            return running
        image = await self._ensure_image(request)
        check_disk(request, image.minimum_disk_bytes)
        meta_data = build_meta_data(ref.uid, ref.name)
        plan = machines.MachinePlan(request=request, image=image, meta_data=meta_data)
        return await self._connection.run(
            lambda session: self._make(session, plan), key=ref.uid, timeout_s=_MACHINE_TIMEOUT_S
        )

    async def release_bootstrap_data(self, ref: MachineRef) -> None:
        """Take the seed out of the machine and delete it."""
        await self._connection.run(
            lambda session: machines.release_bootstrap_data(session, self._endpoint, ref), key=ref.uid
        )

    async def stop_machine(self, ref: MachineRef, *, force: bool) -> bool:
        """Press the VM's power button, or cut its power."""
        self._remember(ref)
        return await self._connection.run(lambda session: machines.stop_machine(session, ref, force=force), key=ref.uid)

    async def delete_machine(self, ref: MachineRef) -> bool:
        """Remove the VM, its volumes and its address."""
        done = await self._connection.run(
            lambda session: machines.delete_machine(session, self._endpoint, ref),
            key=ref.uid,
            timeout_s=_MACHINE_TIMEOUT_S,
        )
        self._known.pop(names.build_domain_uuid(ref.uid), None)
        return done

    def console(self, ref: MachineRef) -> AsyncIterator[bytes]:
        """The serial console's bytes from now on."""
        return read_console(self._connection, ref)

    def changes(self) -> AsyncIterator[MachineRef]:
        """Machines whose VM changed."""
        return ChangeFeed(self._connection, self._known).changes()

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:  # noqa: ARG002 - the Protocol's
        """A client for the child's API at its address in the cluster's network."""
        return await connect_child(parse_kubeconfig(kubeconfig))

    async def push_image(self, name: str, progress: Progress | None = None) -> str:
        """Upload the image for a version unless it is there; its name in the pool. InvalidSpecError without one."""
        image = self._images.find(name)
        if image is None:
            raise build_image_not_found(name)
        return (await self._upload(image, progress)).name

    async def list_images(self) -> list[str]:
        """Names of the complete images in the endpoint's pool."""

        def work(session: Session) -> list[str]:
            pool = volumes.find_pool(session, self._endpoint)
            return [] if pool is None else image_store.list_images(pool)

        return await self._connection.run(work)

    async def close(self) -> None:
        """End uploads, connection and threads; machines go on."""
        uploads = list(self._uploads.values())
        for task in uploads:
            task.cancel()
        await asyncio.gather(*uploads, return_exceptions=True)
        await self._connection.close()

    def _remember(self, ref: MachineRef) -> None:
        self._known[names.build_domain_uuid(ref.uid)] = ref

    def _make(self, session: Session, plan: machines.MachinePlan) -> ObservedMachine:
        return machines.ensure_machine(session, self._endpoint, plan)

    async def _ensure_image(self, request: MachineRequest) -> StoredImage:
        """The request's image in the pool: what is there already, or else the local one, uploaded."""
        name = image_name(request)
        local = self._images.find(name)
        if local is not None:
            return await self._upload(local, None)

        def work(session: Session) -> StoredImage | None:
            pool = volumes.find_pool(session, self._endpoint)
            return None if pool is None else image_store.find_stored(session, pool, name)

        stored = await self._connection.run(work)
        if stored is None:
            raise build_image_not_found(name)
        return stored

    async def _upload(self, image: NodeImage, progress: Progress | None) -> StoredImage:
        """One upload an image at a time; callers that come meanwhile wait for the same one."""
        name = image_store.stored_name(image)
        task = self._uploads.get(name)
        if task is None:
            task = asyncio.create_task(self._upload_once(image, progress), name=f"upload/{name}")
            self._uploads[name] = task
            task.add_done_callback(lambda _done: self._uploads.pop(name, None))
        return await asyncio.shield(task)

    async def _upload_once(self, image: NodeImage, progress: Progress | None) -> StoredImage:
        def work(session: Session) -> StoredImage:
            pool = volumes.ensure_pool(session, self._endpoint)
            return image_store.upload_image(session, pool, image, progress)

        key = f"image/{image_store.stored_name(image)}"
        return await self._connection.run(work, key=key, timeout_s=_UPLOAD_TIMEOUT_S)


def _observe(network: networks.ClusterNetwork) -> ObservedCluster:
    return ObservedCluster(
        endpoint_host=network.endpoint,
        endpoint_port=API_PORT,
        machine_cidr=str(network.subnet),
        virtual=network.virtual,
    )
