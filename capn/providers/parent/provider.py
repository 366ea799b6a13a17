"""The parent provider: a child's machines are claimed from the cluster that it is in, which may claim them in its turn.

Role: implements `capn.providers.base.Provider` by objects of capn's own kinds in a namespace of the parent (ADR 12).
So clusters nest while VMs stay flat: the first ancestor with a hypervisor makes them. Inputs: the endpoint's settings
and a way to connect. Must not: wait (what the parent has not done yet is CREATING or a TransientError), need any right
in the parent but on claims and their Secrets in that namespace, or hold state that a restart loses.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from capn import names
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, SECRET, Resource
from capn.build.claim_report import ClaimReport
from capn.build.claims import (
    ClaimedClusterInput,
    ClaimedMachineInput,
    build_claimed_cluster,
    build_claimed_data,
    build_claimed_machine,
)
from capn.build.kubeconfig import parse_kubeconfig
from capn.build.report import encode_report
from capn.build.stamps import LABEL_VM
from capn.errors import ApiStatusError, NotFoundError, PendingError, TransientError
from capn.kube.child import connect_child
from capn.kube.client import KubeClient
from capn.kube.http import Observer
from capn.providers.adopt import create_or_adopt, delete_owned
from capn.providers.base import (
    ClusterRef,
    ClusterRequest,
    MachineRef,
    MachineRequest,
    MachineState,
    ObservedCluster,
    ObservedMachine,
)
from capn.providers.checks import build_machine_vanished, check_cidrs
from capn.providers.connect import Connection
from capn.providers.object_changes import ObjectChanges, follow_both
from capn.providers.parent import views
from capn.providers.parent.place import cluster_name, data_name, machine_name
from capn.providers.stamps import build_cluster_stamp, build_stamp, is_owned, read_cluster_ref, read_machine_ref
from capn.settings import ParentEndpoint

Connect = Callable[[Observer], Awaitable[KubeClient]]


class ParentProvider:
    """Machines of one child, claimed from its parent."""

    kind = "parent"
    keeps_addresses = False

    def __init__(self, endpoint: ParentEndpoint, connect: Connect) -> None:
        self._endpoint = endpoint
        self._connection = Connection(connect)

    async def observe_cluster(self, ref: ClusterRef) -> ObservedCluster | None:
        """Where the claimed cluster's API will answer, or None."""
        claim = await self._find_cluster(ref)
        return None if claim is None else views.read_endpoint(claim)

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        """Claim network and endpoint. PendingError (WaitingForParent) until the parent has them."""
        check_cidrs(request, ())
        client, ref = await self._client(), request.ref
        claim = await self._find_cluster(ref)
        if claim is None:
            made = build_claimed_cluster(
                ClaimedClusterInput(
                    namespace=self._endpoint.namespace,
                    name=cluster_name(ref),
                    stamp=build_cluster_stamp(ref),
                    path=f"{self._endpoint.path}/{request.path}",
                    version=request.version,
                    infrastructure=self._infrastructure(),
                    pod_cidr=request.pod_cidr,
                    service_cidr=request.service_cidr,
                )
            )
            claim = await self._create(client, NESTED_CLUSTER, made, ref.uid)
        elif claim["spec"].get("version") != request.version and not claim["metadata"].get("deletionTimestamp"):
            # Nothing is made of it there; people and the levels above read it.
            meta, changed = claim["metadata"], {"version": request.version}
            patch = {"metadata": {"uid": meta["uid"]}, "spec": changed}
            with contextlib.suppress(ApiStatusError):  # an older parent may not take it
                claim = await client.merge_patch(NESTED_CLUSTER, meta["name"], meta["namespace"], patch) or claim
        if (endpoint := views.read_endpoint(claim)) is not None:
            return endpoint
        if (refusal := views.find_refusal(claim)) is not None:
            raise refusal
        raise PendingError("the parent has not made the cluster's network yet", reason="WaitingForParent")

    async def tell_cluster(self, ref: ClusterRef, report: ClaimReport, *, paused: bool) -> None:
        """Write the report on the claim, and pause it with its cluster; nothing is written that is there."""
        client, claim = await self._client(), await self._find_cluster(ref)
        if claim is None:
            return
        meta, text = claim["metadata"], report.encode()
        patch: dict[str, Any] = {}
        if (
            not meta.get("deletionTimestamp")
            and (meta.get("annotations") or {}).get(names.ANNOTATION_REPORTED, "{}") != text
        ):
            patch["metadata"] = {"annotations": {names.ANNOTATION_REPORTED: text}}
        if bool(claim["spec"].get("paused")) != paused:
            patch["spec"] = {"paused": paused}
        if patch:
            patch["metadata"] = patch.get("metadata", {}) | {"uid": meta["uid"]}
            await client.merge_patch(NESTED_CLUSTER, meta["name"], meta["namespace"], patch)

    async def delete_cluster(self, ref: ClusterRef) -> bool:
        """Give the claim back; the parent removes the machines that are left with it."""
        return await self._delete(NESTED_CLUSTER, cluster_name(ref), ref.uid)

    async def ensure_address(self, ref: MachineRef) -> str | None:  # noqa: ARG002 - the Protocol's
        """None: the machine's card has the address that leads to it."""
        return None

    async def observe_machine(self, ref: MachineRef) -> ObservedMachine | None:
        """The VM as the parent tells; None without a claim, or when the parent says that the VM is lost."""
        claim = await self._find_machine(ref)
        return None if claim is None or views.is_lost(claim) else _observe(ref, claim)

    async def plan_machine(self, request: MachineRequest) -> None:
        """Nothing: what the parent has no image or room for it says in the claim."""

    async def ensure_machine(self, request: MachineRequest) -> ObservedMachine:
        """Claim the machine: its bootstrap data first, so that the parent never waits for it."""
        client, ref = await self._client(), request.ref
        claim = await self._find_machine(ref)
        if claim is not None and views.is_lost(claim):
            raise build_machine_vanished()
        if claim is None:
            cluster = await self._find_cluster(ref.cluster)
            if cluster is None or views.read_endpoint(cluster) is None:
                raise PendingError("the parent has not made the cluster's network yet", reason="WaitingForNetwork")
            claim = await self._claim_machine(client, request, cluster)
        elif views.read_power_off(claim) is not None:
            claim = await self._mark_power(client, claim, None)
        return _observe(ref, claim)

    async def stop_machine(self, ref: MachineRef, *, force: bool) -> bool:
        """Mark the claim, which the parent obeys, and whoever makes the parent's machines for it."""
        client, claim = await self._client(), await self._find_machine(ref)
        if claim is None or views.is_lost(claim):
            return True
        said = views.read_power_off(claim)
        wanted = names.POWER_OFF_FORCED if force or said == names.POWER_OFF_FORCED else names.POWER_OFF_ASKED
        if said != wanted:
            claim = await self._mark_power(client, claim, wanted)
        if (refusal := views.find_stop_refusal(claim)) is not None:
            raise refusal
        return said is not None and views.compute_state(claim) is MachineState.STOPPED

    async def release_bootstrap_data(self, ref: MachineRef) -> None:
        """Tell the parent to take the seed out of the VM, and delete what was handed over."""
        client, claim = await self._client(), await self._find_machine(ref)
        if claim is None:
            return
        meta = claim["metadata"]
        if (meta.get("annotations") or {}).get(names.ANNOTATION_RELEASED) != "true":
            patch = {"metadata": {"annotations": {names.ANNOTATION_RELEASED: "true"}, "uid": meta["uid"]}}
            await client.merge_patch(NESTED_MACHINE, meta["name"], meta["namespace"], patch)
        await self._delete(SECRET, data_name(ref), ref.uid)

    async def delete_machine(self, ref: MachineRef) -> bool:
        """Give the claim back; True when the parent has removed the VM."""
        gone = await self._delete(NESTED_MACHINE, machine_name(ref), ref.uid)
        return await self._delete(SECRET, data_name(ref), ref.uid) and gone

    async def console(self, ref: MachineRef) -> AsyncIterator[bytes]:
        """The guest's reports, as the parent has understood them; ends with the VM."""
        client = await self._client()
        selector = f"{LABEL_VM}={names.build_domain_uuid(ref.uid)}"
        listed = await client.list(NESTED_MACHINE, namespace=self._endpoint.namespace, label_selector=selector)
        mine = [item for item in listed.items if is_owned(item, ref.uid)]
        if not mine:
            raise NotFoundError(f"{ref.name} has no claim")
        said = None
        claim, revision = mine[0], listed.resource_version
        while views.compute_state(claim) is MachineState.RUNNING:
            report = views.read_report(claim)
            if report is not None and (report.stage, report.state, report.tail) != said:
                said = (report.stage, report.state, report.tail)
                yield encode_report(report)
            following = await self._next_claim(client, selector, revision)
            if following is None:
                return
            claim = following
            revision = claim["metadata"]["resourceVersion"]

    async def changes(self) -> AsyncIterator[MachineRef | ClusterRef]:
        """Machines and clusters whose claim changed."""
        connect, namespace = self._client, self._endpoint.namespace
        machines = ObjectChanges(connect, NESTED_MACHINE, namespace, read_machine_ref, views.read_essence)
        clusters = ObjectChanges(connect, NESTED_CLUSTER, namespace, read_cluster_ref, views.read_cluster_essence)
        async for ref in follow_both(machines.follow(), clusters.follow()):
            yield ref

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:  # noqa: ARG002 - the Protocol's
        """A client for the grandchild's API at its endpoint."""
        return await connect_child(parse_kubeconfig(kubeconfig))

    async def close(self) -> None:
        """End the connection; machines go on."""
        await self._connection.close()

    async def _client(self) -> KubeClient:
        return await self._connection.get()

    def _infrastructure(self) -> dict[str, str]:
        return {"kind": self._endpoint.infrastructure_kind, "endpoint": self._endpoint.infrastructure_endpoint}

    async def _find_cluster(self, ref: ClusterRef) -> dict[str, Any] | None:
        claim = await (await self._client()).get(NESTED_CLUSTER, cluster_name(ref), self._endpoint.namespace)
        return claim if claim is not None and is_owned(claim, ref.uid) else None

    async def _find_machine(self, ref: MachineRef) -> dict[str, Any] | None:
        claim = await (await self._client()).get(NESTED_MACHINE, machine_name(ref), self._endpoint.namespace)
        return claim if claim is not None and is_owned(claim, ref.uid) else None

    async def _claim_machine(
        self, client: KubeClient, request: MachineRequest, cluster: dict[str, Any]
    ) -> dict[str, Any]:
        if request.bootstrap_data is None:
            raise build_machine_vanished()
        ref, stamp = request.ref, build_stamp(request.ref)
        data = build_claimed_data(data_name(ref), cluster, stamp, request.bootstrap_data)
        await self._create(client, SECRET, data, ref.uid)
        machine: dict[str, Any] = {
            "cpus": request.cpus,
            "memory": f"{request.memory_mib}Mi",
            "disk": f"{request.disk_gib}Gi",
        }
        claim = build_claimed_machine(
            ClaimedMachineInput(
                name=machine_name(ref),
                stamp=stamp,
                role=request.role,
                ordinal=request.ordinal,
                version=request.version,
                machine=machine | ({"image": request.image} if request.image else {}),
                infrastructure=self._infrastructure(),
                secret=data_name(ref),
                failure_domain=ref.failure_domain,
            ),
            cluster,
        )
        return await self._create(client, NESTED_MACHINE, claim, ref.uid)

    @staticmethod
    async def _mark_power(client: KubeClient, claim: dict[str, Any], value: str | None) -> dict[str, Any]:
        """Write on the claim whether its VM shall be off; the claim as it is then."""
        meta = claim["metadata"]
        patch = {"metadata": {"annotations": {names.ANNOTATION_POWER_OFF: value}, "uid": meta["uid"]}}
        written = await client.merge_patch(NESTED_MACHINE, meta["name"], meta["namespace"], patch)
        if written is None:
            raise TransientError(f"claim {meta['name']} is gone", reason="MachineStopping")
        return written

    @staticmethod
    async def _create(client: KubeClient, resource: Resource, obj: dict[str, Any], uid: str) -> dict[str, Any]:
        try:
            return await create_or_adopt(client, resource, obj, uid)
        except ApiStatusError as error:
            raise views.explain_refusal(error) from error

    async def _next_claim(self, client: KubeClient, selector: str, revision: str) -> dict[str, Any] | None:
        """The claim as it is after its next change; None when it is gone."""
        while True:
            async for event in client.watch(
                NESTED_MACHINE,
                resource_version=revision,
                namespace=self._endpoint.namespace,
                label_selector=selector,
            ):
                if event.type == "DELETED":
                    return None
                if event.type != "BOOKMARK":
                    return event.object
                revision = event.object["metadata"]["resourceVersion"]

    async def _delete(self, resource: Resource, name: str, uid: str) -> bool:
        return await delete_owned(await self._client(), resource, name, self._endpoint.namespace, uid)


def _observe(ref: MachineRef, claim: dict[str, Any]) -> ObservedMachine:
    cluster = ref.cluster
    provider_id = names.build_provider_id(
        "parent", namespace=cluster.namespace, cluster=cluster.name, machine=ref.name, machine_uid=ref.uid
    )
    return ObservedMachine(
        provider_id=provider_id,
        state=views.compute_state(claim),
        addresses=views.read_addresses(claim),
        seed_attached=views.has_seed(claim),
        problem=views.find_problem(claim),
    )
