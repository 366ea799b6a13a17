"""First step of a machine's deletion: its node takes no new pods, and those that it has move on.

Role: cordon, then evictions by the Eviction API, which keep to PodDisruptionBudgets and each pod's own grace. The clock
is the condition Deleting, so that a restart loses nothing. Inputs: the machine, its child's API. Must not: wait without
a limit, delete a pod against its budget, or touch the VM.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from capn import names
from capn.api.cluster import Drain
from capn.api.conditions import MachineCondition, find
from capn.api.resources import NESTED_MACHINE, NODE, POD
from capn.build.drain import describe_left, is_leaving, is_silent, must_leave, name_pod
from capn.build.owners import build_subject
from capn.controllers.machine.node import connect
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import ApiStatusError, CapnError, ConflictError, InvalidSpecError
from capn.kube.client import KubeClient
from capn.kube.errors import DisruptionBudgetError
from capn.providers.base import MachineState

log = structlog.get_logger(__name__)

POLL_S = 5.0
# What Deleting says before a drain and during it; another reason means that the drain is over.
_BEFORE = frozenset({None, "Draining", "Paused"})


async def drain_node(scope: MachineScope) -> Wait | None:
    """Wait while pods leave; done when none is left, when none will leave any more, or when the time is over."""
    if not outlived_by_child(scope):
        return None
    if await _is_pointless(scope):
        return None
    if _is_overdue(scope):
        said = find(scope.machine.status.conditions, MachineCondition.DELETING)
        _tell(scope, "DrainTimedOut", f"its time is over: {said.message if said is not None else ''}")
        return None
    uid = scope.machine.metadata.uid
    try:
        wait = await _empty_node(scope, (await connect(scope)).client)
    except CapnError as error:
        if scope.deps.patience.lasts(uid, scope.deps.now()):
            return Wait("Draining", f"the child does not let its node be drained: {error}", POLL_S)
        _tell(scope, "DrainSkipped", f"the child stays silent: {error}")
        return None
    scope.deps.patience.renew(uid)
    return wait


def outlived_by_child(scope: MachineScope) -> bool:
    """Whether the machine is a node of a child that lives on without it."""
    cluster = scope.cluster
    if cluster is None or cluster.metadata.deleting or scope.claimed or not scope.cluster_initialized:
        return False
    return scope.machine.status.node_ref is not None and not scope.stands_alone


async def _is_pointless(scope: MachineScope) -> bool:
    """Whether nothing would come of a drain, or somebody forbade it; that is told once."""
    try:
        observed = await scope.provider.observe_machine(scope.ref)
    except InvalidSpecError:
        return True  # nobody can be asked; the next step says what to do
    except CapnError as error:
        # The hypervisor is silent; the node may be well.
        log.debug("nothing is known of the VM", machine=scope.name, error=str(error))
    else:
        if observed is None:
            return True  # often because this deletion has removed it
        if observed.state in {MachineState.STOPPED, MachineState.CRASHED}:
            _tell(scope, "DrainSkipped", "its VM does not run")
            return True
    if scope.machine.metadata.annotations.get(names.ANNOTATION_SKIP_DRAIN) == "true":
        _tell(scope, "DrainSkipped", f"its annotation {names.ANNOTATION_SKIP_DRAIN} says so")
        return True
    return False


def _limit(scope: MachineScope) -> Drain:
    return scope.cluster.spec.drain if scope.cluster is not None else Drain()


def _is_overdue(scope: MachineScope) -> bool:
    """Counted from when this deletion was first seen, so that a controller that was down drains all the same."""
    begun = find(scope.machine.status.conditions, MachineCondition.DELETING)
    if begun is None or begun.reason == "Paused":
        return False
    passed = scope.deps.now() - datetime.fromisoformat(begun.last_transition_time)
    return passed >= timedelta(seconds=_limit(scope).timeout_seconds)


def _tell(scope: MachineScope, reason: str, message: str) -> None:
    """Say once why the drain ended early; the deletion goes on."""
    said = find(scope.machine.status.conditions, MachineCondition.DELETING)
    if (said.reason if said is not None else None) not in _BEFORE:
        return
    obj = build_subject(NESTED_MACHINE, scope.machine.metadata)
    scope.deps.recorder.event(obj, "Warning", reason, f"node {scope.name} is not drained: {message}"[:1000])
    log.warning("node not drained", node=scope.name, reason=reason, why=message)


async def _empty_node(scope: MachineScope, client: KubeClient) -> Wait | None:
    node = await client.get(NODE, scope.name)
    if node is None or (node.get("spec") or {}).get("providerID") != scope.provider_id:
        return None  # gone, or another machine's
    await _cordon(client, node)
    staying = await _list_staying(client, scope.name)
    refused = await _evict_all(client, staying)
    if len(refused) < len([pod for pod in staying if not is_leaving(pod)]):
        staying = await _list_staying(client, scope.name)  # some ended at once
    # A dead kubelet never tells that a pod has ended; one that may not go is still waited for.
    left = {name_pod(pod): "is ending" for pod in staying if not is_silent(node)} | refused
    if not left:
        return None
    hint = f"the machine is deleted all the same after {_limit(scope).timeout_seconds} s (spec.drain)"
    return Wait("Draining", f"{describe_left(scope.name, left)}; {hint}", POLL_S)


async def _cordon(client: KubeClient, node: dict[str, Any]) -> None:
    # Not by apply: the labels and taints that capn applies to the node would have to be in it.
    if not (node.get("spec") or {}).get("unschedulable"):
        meta = node["metadata"]
        await client.merge_patch(
            NODE, meta["name"], None, {"metadata": {"uid": meta["uid"]}, "spec": {"unschedulable": True}}
        )


async def _list_staying(client: KubeClient, node: str) -> list[dict[str, Any]]:
    found = await client.list(POD, field_selector=f"spec.nodeName={node}")
    return [pod for pod in found.items if must_leave(pod)]


async def _evict_all(client: KubeClient, pods: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Ask each pod to leave; those that may not, and why."""
    refused = {}
    for pod in pods:
        if is_leaving(pod):
            continue
        meta = pod["metadata"]
        try:
            await client.evict(meta["name"], meta["namespace"], uid=meta["uid"])
        except DisruptionBudgetError as error:
            refused[name_pod(pod)] = error.budget
        except ConflictError:
            continue  # another pod of its name by now; the next look finds it
        except ApiStatusError as error:
            refused[name_pod(pod)] = str(error)
    return refused
