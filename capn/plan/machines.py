"""Which machines a cluster would have, and what that takes: decided by what the controllers decide by.

Role: pure. Inputs: the cluster as it would be, its machines as they are. `list_wanted` is the one place that asks the
builders; everything else here compares and counts. Must not: choose a machine by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from capn.api.cluster import NestedCluster, PowerState
from capn.api.kubeadm_arguments import KubeadmArguments
from capn.api.machine import NestedMachine, NestedMachineSpec
from capn.api.machine_template import Machine, quantity_mib
from capn.build.failure_domains import find_allowed, is_outside
from capn.build.fixed_endpoint import has_to_stay, is_known_fixed
from capn.build.machines import desired_machines
from capn.plan.model import Action, FieldChange, MachineChange, Needs

# What a node takes on without a new VM.
_IN_PLACE = frozenset({"labels", "taints"})
_QUANTITIES = ("memory", "disk")


def list_wanted(cluster: NestedCluster) -> dict[str, NestedMachineSpec]:
    """The machines that the controllers would have, by name."""
    return {
        manifest["metadata"]["name"]: NestedMachineSpec.model_validate(manifest["spec"])
        for manifest in desired_machines(cluster)
    }


def decide(cluster: NestedCluster, machines: Sequence[NestedMachine]) -> list[MachineChange]:
    """One entry a machine that is there or will be, by the name that the controllers give it; none of a claim.

    One that is kept and has a `why` should be another one, and has to stay as it is. `cluster` has the status.
    """
    if cluster.spec.claim is not None:
        return [MachineChange(machine.metadata.name, Action.KEEP) for machine in machines]
    existing = {machine.metadata.name: machine for machine in machines if not machine.metadata.deleting}
    pools = {pool.name: pool for pool in cluster.spec.workers}
    found = []
    for name, wanted in list_wanted(cluster).items():
        live = existing.pop(name, None)
        _field, allowed = find_allowed(cluster, pools.get(wanted.pool or ""))
        found.append(MachineChange(name, Action.ADD) if live is None else _decide_one(cluster, live, wanted, allowed))
    return found + [MachineChange(name, Action.REMOVE) for name in sorted(existing)]


def _decide_one(
    cluster: NestedCluster, live: NestedMachine, wanted: NestedMachineSpec, allowed: Sequence[str]
) -> MachineChange:
    change = compare(live, wanted, allowed)
    stays = has_to_stay(live, fixed=is_known_fixed(cluster))
    return replace(change, action=Action.KEEP) if stays and change.action is Action.REPLACE else change


def compare(live: NestedMachine, wanted: NestedMachineSpec, allowed: Sequence[str] = ()) -> MachineChange:
    """What becomes of a machine whose spec would be another one. `allowed`: the failure domains that are named for it.

    In which of them a machine is made is chosen only then.
    """
    name, before, after = live.metadata.name, _flatten(live.spec), _flatten(wanted)
    if live.spec.kubeadm is not None and wanted.kubeadm is not None:
        before |= _flatten_arguments(live.spec.kubeadm)
        after |= _flatten_arguments(wanted.kubeadm)
    if is_outside(live, allowed):
        before["failureDomain"], after["failureDomain"] = live.spec.failure_domain, " or ".join(allowed)
    why = tuple(
        FieldChange(field, before.get(field), after.get(field))
        for field in sorted({*before, *after})
        if before.get(field) != after.get(field)
    )
    if not why:
        return MachineChange(name, Action.KEEP)
    in_place = all(change.field.partition(".")[0] in _IN_PLACE for change in why)
    return MachineChange(name, Action.UPDATE if in_place else Action.REPLACE, why)


def _flatten(spec: NestedMachineSpec) -> dict[str, object]:
    """Field by field, quantities as numbers: 4Gi is 4096Mi. Where bootstrap data is says nothing."""
    found: dict[str, object] = {"version": spec.version, "role": spec.role, "pool": spec.pool}
    found |= {f"infrastructure.{key}": value for key, value in spec.infrastructure.to_json().items()}
    size = spec.machine.to_json()
    found |= {f"machine.{key}": value for key, value in size.items() if key not in _QUANTITIES}
    found |= {f"machine.{key}": f"{quantity_mib(size[key])}Mi" for key in _QUANTITIES}
    found |= {f"labels.{key}": value for key, value in spec.labels.items()}
    found |= {f"taints.{taint.key}:{taint.effect}": taint.value for taint in spec.taints}
    return {key: value for key, value in found.items() if value is not None}


def _flatten_arguments(arguments: KubeadmArguments) -> dict[str, object]:
    return {f"controlPlane.{path}": value for path, value in arguments.flatten().items()}


def compute_needs_now(machines: Iterable[NestedMachine]) -> Needs:
    """What the machines take that are there; one that is off takes its disk."""
    return sum((_measure(machine.spec.machine, runs=machine.status.phase != "Off") for machine in machines), Needs())


def compute_needs_after(cluster: NestedCluster, machines: Sequence[NestedMachine]) -> Needs:
    """What the machines take that there will be, once the cluster is in the power state that it asks for."""
    if cluster.spec.claim is not None:
        return compute_needs_now(machines)
    runs = cluster.spec.power_state is PowerState.ON
    fixed = is_known_fixed(cluster)
    kept = {machine.metadata.name: machine.spec.machine for machine in machines if has_to_stay(machine, fixed=fixed)}
    sizes = {name: spec.machine for name, spec in list_wanted(cluster).items()} | kept
    return sum((_measure(size, runs=runs) for size in sizes.values()), Needs())


def _measure(size: Machine, *, runs: bool) -> Needs:
    return Needs(
        machines=1,
        cpus=size.cpus if runs else 0,
        memory_mib=quantity_mib(size.memory) if runs else 0,
        disk_mib=quantity_mib(size.disk),
    )
