"""Phase Upgraded: what has to be done in the child so that control planes, then workers, may go to another version.

In order: nothing is begun before all control planes are Ready, the image is there and etcd is whole; kube-proxy and
CoreDNS are made ready for nodes of the new version; kubeadm's record says the new version, and from then on control
planes of it are made (`control_planes.py`), then workers (`workers.py`); when no machine of another version is left,
kube-proxy and CoreDNS are kubeadm's again. All of it is seen from what exists (`capn.build.upgrade_stage`), so that it
goes on from wherever a controller died. Must not: make or delete machines.
"""

from __future__ import annotations

from dataclasses import replace

from capn import names
from capn.api.conditions import ClusterCondition, find
from capn.api.resources import DAEMON_SET, DEPLOYMENT, NESTED_CLUSTER
from capn.build import coredns, kube_proxy, kubeadm_record
from capn.build.health import is_ready
from capn.build.owners import build_subject
from capn.build.upgrade_stage import Stage, UpgradeState, compute_oldest, compute_plane_version, read_state
from capn.controllers.cluster import preflight
from capn.controllers.cluster.components import record_version
from capn.controllers.cluster.placement import build_question
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.errors import CapnError
from capn.kube.client import KubeClient

# While pods change in the child, which no watch of ours tells.
POLL_S = 5.0
IMAGE_POLL_S = 60.0


async def reconcile_upgrade(scope: ClusterScope) -> Wait | None:
    """Take the next step in the child; None when there is no upgrade, or it is done."""
    spec = scope.cluster.spec
    recorded = None if scope.kubeadm_config is None else kubeadm_record.read_version(scope.kubeadm_config)
    state = scope.upgrade = read_state(spec.version, recorded, scope.control_planes(), scope.workers())
    known = find(scope.cluster.status.conditions, ClusterCondition.UPGRADED)
    # Nothing is known of a cluster that is new, or whose status was lost: what an upgrade may have left is put right.
    is_unknown = scope.cluster.status.version is None
    is_unfinished = not state.is_settled or (known is not None and known.status != "True")
    if not is_unfinished and not is_unknown:
        return None
    child = scope.require_child()
    if state.is_due and (obstacle := await _find_obstacle(scope, state)) is not None:
        await _go_on_as_before(scope, state, child.client)
        return obstacle
    waits = await _reconcile_proxy(child.client, state)
    scope.dns_waits = await _reconcile_dns(child.client, state, waits=is_unfinished)
    if not state.has_begun:
        await _begin(scope, state)
        state = scope.upgrade = replace(state, recorded=state.version)
    if not state.is_settled:
        after_s = POLL_S if scope.dns_waits else None
        return Wait(state.stage.value, state.describe(), after_s, blocks=False)
    if waits or scope.dns_waits:
        return Wait(Stage.ADDONS.value, "; ".join(filter(None, (waits, scope.dns_waits))), POLL_S, blocks=False)
    return None


async def _find_obstacle(scope: ClusterScope, state: UpgradeState) -> Wait | None:
    """Why nothing is begun yet. All of it may pass by itself, so the cluster goes on as it is meanwhile."""
    planes, replicas = scope.control_planes(), scope.cluster.spec.control_plane.replicas
    unready = [machine.metadata.name for machine in planes if not is_ready(machine)]
    if unready:
        message = f"{state.version} waits until all control planes are Ready: {', '.join(unready)} is not"
        return Wait("UpgradeWaiting", message, blocks=False)
    if len(planes) != replicas:
        message = f"{state.version} waits until there are {replicas} control planes: {len(planes)} are there"
        return Wait("UpgradeWaiting", message, blocks=False)
    if (missing := await _find_missing_image(scope, state)) is not None:
        return missing
    said = await preflight.find_unready_components(scope, planes) or await preflight.find_ill_members(scope)
    if said is None:
        return None
    return Wait(said.reason, f"{state.version} waits: {said.message}", preflight.POLL_S, blocks=False)


async def _go_on_as_before(scope: ClusterScope, state: UpgradeState, client: KubeClient) -> None:
    """While another version waits in mid-upgrade, control planes go to the one before: so do kube-proxy and CoreDNS."""
    if state.is_half_way:
        before = replace(state, version=compute_plane_version(state))
        await _reconcile_proxy(client, before)
        scope.dns_waits = await _reconcile_dns(client, before, waits=True)


async def _find_missing_image(scope: ClusterScope, state: UpgradeState) -> Wait | None:
    """Whether the provider has no node image of the version; what else it has against a machine, that one says."""
    spec, roles = scope.cluster.spec, [(names.ROLE_CONTROL_PLANE, scope.cluster.spec.control_plane.machine)]
    roles += [(names.ROLE_WORKER, pool.machine) for pool in spec.workers]
    for role, size in roles:
        try:
            question = build_question(scope, role=role, size=size or spec.machine, version=state.version)
            await scope.provider.plan_machine(question)
        except CapnError as error:
            if error.reason == "ImageNotFound":
                return Wait(error.reason, str(error), IMAGE_POLL_S, blocks=False)
    return None


async def _reconcile_proxy(client: KubeClient, state: UpgradeState) -> str:
    """Each node has a kube-proxy whose image it has. What is waited for, or an empty text."""
    main = await client.get(DAEMON_SET, kube_proxy.NAME, kube_proxy.NAMESPACE)
    extras = await client.list(DAEMON_SET, namespace=kube_proxy.NAMESPACE, label_selector=kube_proxy.EXTRA_SELECTOR)
    step = kube_proxy.compute_proxy_step(
        main, extras.items, planes=state.planes, workers=state.workers, version=state.version
    )
    for made in step.create:
        await client.apply(DAEMON_SET, made)
    if step.patch is not None:
        await client.merge_patch(DAEMON_SET, kube_proxy.NAME, kube_proxy.NAMESPACE, step.patch)
    for name in step.delete:
        await client.delete(DAEMON_SET, name, kube_proxy.NAMESPACE)
    return step.waits


async def _reconcile_dns(client: KubeClient, state: UpgradeState, *, waits: bool) -> str | None:
    """CoreDNS goes where its image is. How far a change is, or None when it is done or nothing was to change."""
    live = await client.get(DEPLOYMENT, coredns.NAME, coredns.NAMESPACE)
    patch = coredns.compute_dns_patch(live, versions=(*state.planes, *state.workers), version=state.version)
    if patch is not None:
        live = await client.merge_patch(DEPLOYMENT, coredns.NAME, coredns.NAMESPACE, patch)
    return coredns.describe_rollout(live) if waits or patch is not None else None


async def _begin(scope: ClusterScope, state: UpgradeState) -> None:
    """The last preparation: from now on control planes join with the wanted version."""
    await record_version(scope, state.version)
    before = compute_oldest(state.planes)
    if before != state.version:
        _tell(scope, "UpgradeStarted", f"control planes go from {before} to {state.version}, one by one")
    elif state.recorded is not None:
        _tell(scope, "UpgradeTakenBack", f"no control plane had joined with {state.recorded}: all stay {before}")


def _tell(scope: ClusterScope, reason: str, message: str) -> None:
    scope.deps.recorder.event(build_subject(NESTED_CLUSTER, scope.cluster.metadata), "Normal", reason, message)
