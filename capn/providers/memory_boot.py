"""What a simulated guest does once its VM runs: kubeadm's visible effects on the child, and the console's reports.

Role: one short task a boot. Inputs: a machine with its seed; outputs: objects in the child's API, reports. Must not:
make a node without what a real one needs: a configuration, a live token to join with, a control plane that answers.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any

from capn import names
from capn.api.resources import CONFIG_MAP, NODE, SECRET
from capn.build import kubeadm_record, tokens
from capn.build.report import ReportState
from capn.build.tokens import TOKEN_VALID, build_token_secret, token_secret_name
from capn.errors import CapnError, ConflictError
from capn.kube.client import KubeClient
from capn.providers.memory_guest import (
    GuestFailedError,
    GuestPlan,
    build_node_status,
    build_record,
    read_record,
    read_user_data,
)
from capn.providers.memory_restore import act_as_kubelets, restore_etcd
from capn.providers.memory_static_pods import show_static_pods
from capn.providers.memory_world import MemoryWorld, SimulatedCluster, SimulatedMachine

Sleep = Callable[[float], Awaitable[None]]

_JOIN_ATTEMPTS = 20
_JOIN_RETRY_S = 0.5
_STAGES_INIT = ("boot", "kubeadm/etcd", "kubeadm/wait-control-plane")
_STAGES_JOIN = ("boot", "kubeadm/preflight", "kubeadm/kubelet-start")


async def boot(world: MemoryWorld, machine: SimulatedMachine, *, boot_s: float, sleep: Sleep) -> None:
    """Boot the machine: user-data, then init or join, then the last word repeated."""
    cluster = world.clusters[machine.ref.cluster.uid]
    try:
        plan = _read(machine)
        for stage in _STAGES_JOIN if plan.joins else _STAGES_INIT:
            machine.say(stage)
            if stage == "boot" and plan.restores:
                await restore_etcd(world, cluster, machine)
            await sleep(boot_s / len(_STAGES_INIT))
        _fail_if_told(world, machine)
        if plan.joins:
            await _join(world, cluster, machine, plan, plan.token, sleep)
        else:
            await _init(world, cluster, machine, plan)
        machine.say("done", ReportState.SUCCEEDED)
    except GuestFailedError as error:
        machine.say(error.stage, ReportState.FAILED, str(error))
        return
    if plan.restores:
        await act_as_kubelets(world, cluster)


def _fail_if_told(world: MemoryWorld, machine: SimulatedMachine) -> None:
    if (failure := world.failures.get(machine.ref.name)) is not None:
        raise GuestFailedError(*failure)


def _read(machine: SimulatedMachine) -> GuestPlan:
    try:
        return read_user_data(machine.seed or b"")
    except (CapnError, KeyError, TypeError, AttributeError) as error:
        raise GuestFailedError("cloud-init", f"error: user-data cannot be used: {error}") from error


async def _init(world: MemoryWorld, cluster: SimulatedCluster, machine: SimulatedMachine, plan: GuestPlan) -> None:
    if not plan.restores and not any(member.machine is machine for member in cluster.etcd.members):
        cluster.api.store.replace_state({}, bump=0)  # a new machine's disk is empty, whatever there was before
    kubeadm = cluster.api.as_manager("kubeadm")
    cluster.api.raw["/version"] = (200, f'{{"gitVersion": "{machine.request.version}"}}')
    told = {**plan.cluster, "kubernetesVersion": plan.cluster.get("kubernetesVersion", machine.request.version)}
    await _create(kubeadm, CONFIG_MAP, build_record(told))
    expires = world.now() + TOKEN_VALID
    token = build_token_secret(plan.token, expires=expires, description="", machine_uid=machine.ref.uid)
    await _create(kubeadm, SECRET, token)
    await _register(kubeadm, machine, plan, told, world.unready_pods)
    cluster.etcd.start_new(machine, plan.node_name)
    await cluster.publish_servers()
    cluster.initialized = True


async def _join(  # noqa: PLR0913, PLR0917 - one call site; the parts are unrelated
    world: MemoryWorld,
    cluster: SimulatedCluster,
    machine: SimulatedMachine,
    plan: GuestPlan,
    token: str,
    sleep: Sleep,
) -> None:
    for _attempt in range(_JOIN_ATTEMPTS):
        if world.child_lives(cluster.ref.uid):
            secret = await cluster.api.get(SECRET, token_secret_name(token), tokens.NAMESPACE)
            if secret is not None and _alive(secret, token, world.now()):
                told = read_record(await cluster.api.get(CONFIG_MAP, kubeadm_record.NAME, kubeadm_record.NAMESPACE))
                _check_version(cluster, machine, told.get("kubernetesVersion", ""))
                if machine.ref.name not in world.silent_nodes:
                    await _register(cluster.api.as_manager("kubelet"), machine, plan, told, world.unready_pods)
                if machine.request.role == names.ROLE_CONTROL_PLANE:
                    await _join_etcd(cluster, machine, plan, sleep)
                return
            machine.say("kubeadm/join", tail="error: the bootstrap token is not valid (yet)")
        await sleep(_JOIN_RETRY_S)
    raise GuestFailedError(
        "kubeadm/join",
        "error execution phase preflight: couldn't validate the identity of the API Server: the bootstrap token is"
        " invalid or has expired",
    )


def _check_version(cluster: SimulatedCluster, machine: SimulatedMachine, recorded: str) -> None:
    """What a real join comes to where kubeadm's record says another version than the node image has.

    A control plane's static pods get the images that the record names, and the node holds those of its own version
    only. A kubelet may not be newer than its control plane.
    """
    own = machine.request.version
    if machine.request.role == names.ROLE_CONTROL_PLANE:
        if recorded != own:
            raise GuestFailedError(
                "kubeadm/preflight",
                f"[ERROR ImagePull]: failed to pull image kube-apiserver:{recorded}: this node has {own}",
            )
        cluster.api.raw["/version"] = (200, f'{{"gitVersion": "{own}"}}')
    elif _minor(own) > _minor(recorded):
        raise GuestFailedError(
            "kubeadm/preflight", f"the kubelet version is higher than the control plane version: {own}, {recorded}"
        )


def _minor(version: str) -> int:
    return int(version.split(".")[1])


async def _join_etcd(cluster: SimulatedCluster, machine: SimulatedMachine, plan: GuestPlan, sleep: Sleep) -> None:
    """As kubeadm: a learner first, then its vote; a machine that dies in between leaves the learner behind."""
    machine.say("kubeadm/etcd")
    member = cluster.etcd.add_learner(machine, plan.node_name)
    for _attempt in range(_JOIN_ATTEMPTS):
        await sleep(_JOIN_RETRY_S)
        if cluster.etcd.promote(member):
            await cluster.publish_servers()
            return
    raise GuestFailedError("kubeadm/etcd", "error: etcdserver: can only promote a learner member which is in sync")


async def _register(
    client: KubeClient, machine: SimulatedMachine, plan: GuestPlan, told: dict[str, Any], unready: Collection[str]
) -> None:
    """What the kubelet registers: the node and, on a control plane, its static pods, which go with it."""
    await _create(client, NODE, build_node(machine, plan))
    node = await client.get(NODE, plan.node_name)
    if node is not None and machine.request.role == names.ROLE_CONTROL_PLANE:
        await show_static_pods(client, node, told, unready=unready)


def _alive(secret: dict[str, Any], token: str, now: datetime) -> bool:
    """Whether the child would accept the token now."""
    try:
        data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        live = datetime.fromisoformat(data["expiration"]) > now
    except (KeyError, TypeError, ValueError):
        return False
    return live and f"{data.get('token-id')}.{data.get('token-secret')}" == token


def build_node(machine: SimulatedMachine, plan: GuestPlan) -> dict[str, Any]:
    """Build the node that the machine's kubelet registers."""
    control_plane = machine.request.role == names.ROLE_CONTROL_PLANE
    labels = {**plan.labels, "kubernetes.io/hostname": plan.node_name, "kubernetes.io/os": "linux"}
    if control_plane:
        labels["node-role.kubernetes.io/control-plane"] = ""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": plan.node_name, "labels": labels},
        "spec": {"providerID": plan.provider_id, "taints": list(plan.taints)},
        "status": build_node_status(machine.address, machine.request.version),
    }


async def _create(client: KubeClient, resource: Any, obj: dict[str, Any]) -> None:  # noqa: ANN401
    with contextlib.suppress(ConflictError):  # a guest that boots again finds what it made before
        await client.create(resource, obj)


def start(world: MemoryWorld, machine: SimulatedMachine, *, boot_s: float, sleep: Sleep) -> None:
    """Begin to boot; `stop` ends it."""
    machine.guest = asyncio.create_task(
        boot(world, machine, boot_s=boot_s, sleep=sleep), name=f"guest/{machine.ref.name}"
    )


def stop(machine: SimulatedMachine) -> None:
    """End the guest, as pulling the plug does."""
    if machine.guest is not None:
        machine.guest.cancel()
        machine.guest = None
