"""The KubeVirt provider: machines are VirtualMachines that the cluster's own scheduler places.

Role: implements `capn.providers.base.Provider` by Kubernetes objects of the cluster that runs the VMs, the controller's
own or another. It asks that API itself, never a cache, and waits for nothing: what is on its way is CREATING. Inputs:
the administrator's endpoint settings and a way to connect. Must not: write any object of capn's own kinds, or hold
state that a restart loses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from capn import names
from capn.api.resources import SERVICE, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from capn.build.claim_report import ClaimReport
from capn.build.kubeconfig import parse_kubeconfig
from capn.build.kubevirt_objects import has_seed
from capn.build.stamps import LABEL_CLUSTER_ID
from capn.errors import TransientError
from capn.kube.child import connect_child
from capn.kube.client import KubeClient
from capn.kube.http import Observer
from capn.providers.adopt import delete_owned
from capn.providers.base import (
    ClusterRef,
    ClusterRequest,
    MachineRef,
    MachineRequest,
    MachineState,
    ObservedCluster,
    ObservedMachine,
)
from capn.providers.checks import build_image_not_found, image_name
from capn.providers.connect import Connection
from capn.providers.kubevirt import endpoint as api_endpoint
from capn.providers.kubevirt import machines
from capn.providers.kubevirt.console import KubeVirtClient, list_pods, read_console
from capn.providers.kubevirt.place import Place
from capn.providers.kubevirt.views import compute_state, find_problem, read_essence
from capn.providers.object_changes import ObjectChanges
from capn.providers.stamps import read_machine_ref
from capn.settings import KubeVirtEndpoint

Connect = Callable[[Observer], Awaitable[KubeVirtClient]]


class KubeVirtProvider:
    """Machines of one cluster with KubeVirt. `owns_client`: what `connect` gives is closed with the provider."""

    kind = "kubevirt"
    keeps_addresses = True

    def __init__(self, endpoint: KubeVirtEndpoint, connect: Connect, *, owns_client: bool = False) -> None:
        self._endpoint = endpoint
        self._place = Place(endpoint.namespace)
        self._connection = Connection(connect, owned=owns_client)

    async def observe_cluster(self, ref: ClusterRef) -> ObservedCluster | None:
        """Where the cluster's API answers, or None."""
        service = await api_endpoint.find_service(await self._client(), self._place, ref)
        return None if service is None else api_endpoint.compute_endpoint(service, self._endpoint)

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        """The Service in front of the control planes. InvalidSpecError (CIDRCollision) for addresses in use."""
        service = await api_endpoint.ensure_service(await self._client(), self._place, self._endpoint, request)
        return api_endpoint.compute_endpoint(service, self._endpoint)

    async def tell_cluster(self, ref: ClusterRef, report: ClaimReport, *, paused: bool) -> None:
        """Nobody else makes the machines."""

    async def delete_cluster(self, ref: ClusterRef) -> bool:
        """Remove the Service, and before that any machine of the cluster of which something is still there.

        A machine's Service is made before its VM and removed after it, so it tells of seeds and volumes of a VM that
        is gone; a list of VMs alone would forget them.
        """
        client, namespace = await self._client(), self._place.of(ref)
        selector = f"{LABEL_CLUSTER_ID}={names.build_network_uuid(ref.uid)}"
        vms = (await client.list(VIRTUAL_MACHINE, namespace=namespace, label_selector=selector)).items
        services = (await client.list(SERVICE, namespace=namespace, label_selector=selector)).items
        found = {machine for obj in (*vms, *services) if (machine := read_machine_ref(obj)) is not None}
        refs = [machine for machine in found if machine.cluster.uid == ref.uid]
        if not all([await machines.delete_vm(client, self._place, machine) for machine in refs]):
            return False
        return await delete_owned(client, SERVICE, self._place.api_service(ref), namespace, ref.uid)

    async def ensure_address(self, ref: MachineRef) -> str | None:
        """The address of the machine's Service."""
        return await machines.ensure_node_service(await self._client(), self._place, ref)

    async def observe_machine(self, ref: MachineRef) -> ObservedMachine | None:
        """The VM, or None."""
        client = await self._client()
        vm = await machines.find_vm(client, self._place, ref)
        if vm is None:
            return None
        return await self._observe(client, ref, vm, await machines.find_address(client, self._place, ref))

    async def plan_machine(self, request: MachineRequest) -> None:
        """Refuse an image that the settings do not list; room on the hosts is the scheduler's to find."""
        if self._endpoint.versions and image_name(request) not in self._endpoint.versions:
            raise build_image_not_found(image_name(request))

    async def ensure_machine(self, request: MachineRequest) -> ObservedMachine:
        """Make what is missing of the machine; KubeVirt starts it."""
        client, ref = await self._client(), request.ref
        if await api_endpoint.find_service(client, self._place, ref.cluster) is None:
            raise TransientError("the cluster's network endpoint is not there yet", reason="WaitingForNetwork")
        address = await machines.ensure_node_service(client, self._place, ref)
        vm: dict[str, Any] | None = await machines.find_vm(client, self._place, ref)
        if vm is None:
            vm = await machines.make_vm(client, self._place, self._endpoint, request)
        else:
            vm = await machines.revive_vm(client, request, vm)
        if vm is None:
            raise TransientError("the VM has ended before its bootstrap; making it anew", reason="MachineStarting")
        return await self._observe(client, ref, vm, address)

    async def release_bootstrap_data(self, ref: MachineRef) -> None:
        """Take the seed out of the machine and empty its Secret."""
        await machines.release_seed(await self._client(), self._place, ref)

    async def stop_machine(self, ref: MachineRef, *, force: bool) -> bool:  # noqa: ARG002 - KubeVirt forces it itself
        """Halt the VM: KubeVirt asks the guest, and cuts its power after the endpoint's `grace_s`."""
        return await machines.halt_vm(await self._client(), self._place, ref)

    async def delete_machine(self, ref: MachineRef) -> bool:
        """Remove the VM with its seed and its address."""
        return await machines.delete_vm(await self._client(), self._place, ref)

    async def console(self, ref: MachineRef) -> AsyncIterator[bytes]:
        """The serial console's bytes."""
        async for chunk in read_console(await self._client(), self._place, ref):
            yield chunk

    async def changes(self) -> AsyncIterator[MachineRef]:
        """Machines whose VM changed."""
        changes = ObjectChanges(self._client, VIRTUAL_MACHINE, self._endpoint.namespace, read_machine_ref, read_essence)
        async for ref in changes.follow():
            yield ref

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:  # noqa: ARG002 - the Protocol's
        """A client for the child's API at its Service's address."""
        return await connect_child(parse_kubeconfig(kubeconfig))

    async def close(self) -> None:
        """End the connection if it is our own; machines go on."""
        await self._connection.close()

    async def _client(self) -> KubeVirtClient:
        return await self._connection.get()

    async def _observe(
        self, client: KubeVirtClient, ref: MachineRef, vm: dict[str, Any], address: str | None
    ) -> ObservedMachine:
        """What the VM is; instance and pods are asked only while it does not run."""
        state, problem = compute_state(vm), None
        if state is not MachineState.RUNNING:
            namespace = self._place.of(ref.cluster)
            instance = await client.get(VIRTUAL_MACHINE_INSTANCE, self._place.machine(ref), namespace)
            problem = find_problem(vm, instance, await list_pods(client, namespace, ref))
        cluster = ref.cluster
        provider_id = names.build_provider_id(
            self.kind, namespace=cluster.namespace, cluster=cluster.name, machine=ref.name, machine_uid=ref.uid
        )
        return ObservedMachine(
            provider_id=provider_id,
            state=state,
            addresses=(address,) if address else (),
            seed_attached=has_seed(vm),
            problem=problem,
        )
