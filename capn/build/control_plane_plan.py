"""Which one thing is to be done next with a cluster's control planes.

Role: pure. Inputs: the manifests that the spec asks for and the machines that exist; output: at most one operation, or
why none. Every operation waits until the one before it is over and all that stay are Ready, so that etcd never has two
changes of its membership under way. Must not: know etcd; whether a member may go is looked at when it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.api.kubeadm_arguments import KubeadmArguments
from capn.api.machine import NestedMachine
from capn.api.machine_template import Machine
from capn.build.failure_domains import is_outside
from capn.build.fixed_endpoint import has_to_stay
from capn.build.health import GONE, is_ready
from capn.build.upgrade_rules import has_joined
from capn.build.version_skew import parse_version


@dataclass(frozen=True, slots=True)
class ControlPlanePlan:
    """The next operation. `because` says what it is for, or what is waited for; empty when all is as it shall be."""

    create: Mapping[str, Any] | None = None
    delete: NestedMachine | None = None
    reason: str = ""
    because: str = ""


# Operations of a cluster that is well, or nothing to be done; the others heal, and wait for nobody who is ill.
_CALM = frozenset({"ScalingUp", "RollingOut", "ScalingDown", ""})


def compute_control_plane_plan(
    wanted: Sequence[Mapping[str, Any]],
    existing: Sequence[NestedMachine],
    *,
    allowed: Collection[str] = (),
    dying: Collection[str] = (),
    fixed: bool = False,
) -> ControlPlanePlan:
    """The next operation for control planes that were initialized.

    `wanted`: manifests by ordinal, one more than there shall be replicas, since a change goes by one more.
    `allowed`: the failure domains that the spec names; none: all of them. `dying`: names of those that the health
    check gives up, of `select_replaceable`. `fixed`: the first one has the endpoint, and stays whatever is asked for.
    """
    movable = [machine for machine in existing if not has_to_stay(machine, fixed=fixed)]
    going = [machine for machine in existing if machine.metadata.deleting]
    if going:
        return ControlPlanePlan(reason="RemovingControlPlane", because=f"{_list(going)} is being removed")
    taken_back = [machine for machine in existing if _is_taken_back(machine, wanted[0])]
    if taken_back and len(existing) > len(taken_back):
        because = f"{taken_back[0].metadata.name} has not joined, and what it was made with is not wanted any more"
        return ControlPlanePlan(delete=taken_back[0], reason="RemovingControlPlane", because=because)
    lost = [machine for machine in movable if machine.status.failure_reason in GONE]
    ill = [machine for machine in existing if machine.metadata.name in dying]
    failing = [*lost, *ill]  # of one kind or the other: neither waits for the other to be well
    if failing and _are_ready(existing, but=failing) and _keep_quorum(existing, lost, ill):
        why = "has lost its VM" if lost else "is unhealthy"
        because = f"{failing[0].metadata.name} {why}"
        return ControlPlanePlan(delete=failing[0], reason="ReplacingControlPlane", because=because)
    unready = [machine for machine in existing if not is_ready(machine)]
    if unready:
        return ControlPlanePlan(reason="WaitingForMachines", because=f"{_list(unready)} is not Ready")
    outdated = select_outdated(movable, wanted[0], allowed)
    return _change_count(wanted, existing, outdated=outdated, movable=movable)


def select_outdated(
    machines: Sequence[NestedMachine], manifest: Mapping[str, Any], allowed: Collection[str] = ()
) -> list[NestedMachine]:
    """Those that a machine would be made for that is as the spec asks for now."""
    return [machine for machine in machines if is_outdated(machine, manifest) or is_outside(machine, allowed)]


def select_replaceable(existing: Sequence[NestedMachine], *, fixed: bool) -> list[NestedMachine]:
    """Those that another machine can take the place of, if they are ill: the others go on without them.

    One that never joined has nothing that the others need. Those that have lost their VM are seen to without a health
    check. `fixed`: the first one has the endpoint's address, and stays.
    """
    joined = [machine for machine in existing if has_joined(machine)]
    spare = len(joined) - 1 > len(joined) // 2
    return [
        machine
        for machine in existing
        if machine.status.failure_reason not in GONE
        and not has_to_stay(machine, fixed=fixed)
        and (spare if has_joined(machine) else bool(joined))
    ]


def select_needed(
    plan: ControlPlanePlan,
    existing: Sequence[NestedMachine],
    manifest: Mapping[str, Any],
    allowed: Collection[str] = (),
) -> list[NestedMachine]:
    """Those whose programs have to be ready before `plan` is carried out, or, when it is empty, before all is well.

    Not the one that leaves. Not one that is replaced for a change either: the change may be what mends it. Not the only
    one of a cluster where nothing is to be done: its API answers.
    """
    if plan.reason not in _CALM or (not plan.reason and len(existing) == 1):
        return []
    outdated = select_outdated(existing, manifest, allowed)
    return [machine for machine in existing if machine is not plan.delete and machine not in outdated]


def _change_count(
    wanted: Sequence[Mapping[str, Any]],
    existing: Sequence[NestedMachine],
    *,
    outdated: Sequence[NestedMachine],
    movable: Sequence[NestedMachine],
) -> ControlPlanePlan:
    """What to do when all that exist are Ready."""
    replicas = len(wanted) - 1
    if len(existing) < replicas:
        because = f"{len(existing)} of {replicas} are there"
        return ControlPlanePlan(create=_fill(wanted, existing), reason="ScalingUp", because=because)
    if outdated and len(existing) == replicas:
        because = _describe_progress(existing, outdated, wanted[0])
        return ControlPlanePlan(create=_fill(wanted, existing), reason="RollingOut", because=because)
    if len(existing) > replicas:
        leaving = choose_leaving(movable, outdated)
        return ControlPlanePlan(
            delete=leaving, reason="ScalingDown", because=f"{leaving.metadata.name} is one more than are wanted"
        )
    return ControlPlanePlan()


def _describe_progress(
    existing: Sequence[NestedMachine], outdated: Sequence[NestedMachine], manifest: Mapping[str, Any]
) -> str:
    version = manifest["spec"]["version"]
    having = sum(machine.spec.version == version for machine in existing)
    if having < len(existing):
        return f"{having} of {len(existing)} have {version}"
    return f"{len(existing) - len(outdated)} of {len(existing)} are as the spec asks for now"


def _is_taken_back(machine: NestedMachine, manifest: Mapping[str, Any]) -> bool:
    """Whether it was made for an upgrade, or with arguments, that were taken back or mended before it joined."""
    spec = manifest["spec"]
    is_ahead = parse_version(machine.spec.version) > parse_version(spec["version"])
    return not has_joined(machine) and (is_ahead or _is_run_otherwise(machine, manifest))


def is_outdated(machine: NestedMachine, manifest: Mapping[str, Any]) -> bool:
    """Whether the machine has another version, size or arguments of its components than the spec asks for now."""
    spec = manifest["spec"]
    is_other = machine.spec.version != spec["version"]
    is_other |= not machine.spec.machine.is_like(Machine.model_validate(spec["machine"]))
    return is_other or _is_run_otherwise(machine, manifest)


def is_stillborn(machine: NestedMachine) -> bool:
    """Whether it has come to nothing, and holds nothing: its guest says so, or it never had a VM.

    Only what the machine's own status says for sure; a status that was lost says nothing.
    """
    if machine.status.node_ref is not None or machine.status.failure_reason is None:
        return False
    bootstrap = machine.status.bootstrap
    return machine.status.provider_id is None or (bootstrap is not None and bootstrap.failed is True)


def _is_run_otherwise(machine: NestedMachine, manifest: Mapping[str, Any]) -> bool:
    """Whether its components have other arguments; of a machine of an earlier release nobody knows."""
    mine = machine.spec.kubeadm
    return mine is not None and not mine.is_like(KubeadmArguments.model_validate(manifest["spec"]["kubeadm"]))


def choose_leaving(existing: Sequence[NestedMachine], outdated: Sequence[NestedMachine]) -> NestedMachine:
    """The one to remove: marked by a person, else outdated, else in the fullest domain, else of the highest ordinal."""
    filling = Counter(machine.spec.failure_domain for machine in existing)

    def rank(machine: NestedMachine) -> tuple[bool, bool, int, int]:
        marked = names.ANNOTATION_DELETE_MACHINE in machine.metadata.annotations
        return marked, machine in outdated, filling[machine.spec.failure_domain], machine.spec.ordinal

    return max(existing, key=rank)


def _fill(wanted: Sequence[Mapping[str, Any]], existing: Sequence[NestedMachine]) -> Mapping[str, Any]:
    """The first manifest whose ordinal is free."""
    taken = {machine.spec.ordinal for machine in existing}
    return next(manifest for manifest in wanted if manifest["spec"]["ordinal"] not in taken)


def _keep_quorum(
    existing: Sequence[NestedMachine], lost: Sequence[NestedMachine], ill: Sequence[NestedMachine]
) -> bool:
    """Whether most would be left; one that is ill and has not joined is nobody's loss."""
    newcomers = [machine for machine in ill if not has_joined(machine)]
    count = len(existing) - len(newcomers)
    return count - len(lost) - (len(ill) - len(newcomers)) > count // 2


def _are_ready(existing: Sequence[NestedMachine], *, but: Sequence[NestedMachine]) -> bool:
    return all(is_ready(machine) for machine in existing if machine not in but)


def _list(machines: Sequence[NestedMachine]) -> str:
    return ", ".join(sorted(machine.metadata.name for machine in machines))
