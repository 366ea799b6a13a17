"""The plan of one NestedCluster: what an apply would change, and who would refuse it.

Role: pure. Inputs: the object as it would be after the apply, as it is, and what stands around it; output: a
`ClusterPlan`. The rules are those of `capn.api` and of the controllers themselves. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from capn import names
from capn.api.cluster import NestedCluster, PowerState
from capn.api.machine import NestedMachine
from capn.api.transitions import find_refused
from capn.build.fixed_endpoint import describe_staying
from capn.controllers.cluster.infrastructure import refuse_unsupported_changes
from capn.errors import CapnError, InvalidSpecError
from capn.plan.machines import compute_needs_after, compute_needs_now, decide
from capn.plan.model import Action, ClusterPlan, FieldChange, Judge, MachineChange, Refusal, Verdict
from capn.plan.surroundings import Surroundings, compute_budget, find_overlaps


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """`wanted` is the whole object after the apply; `answer` what the API server's dry run said, if it was asked."""

    wanted: Mapping[str, Any]
    around: Surroundings = field(default_factory=Surroundings)
    answer: CapnError | None = None


@dataclass(frozen=True, slots=True)
class _Planned:
    """A cluster with its machines, as the controllers' own checks want to see it."""

    cluster: NestedCluster
    machines: Sequence[NestedMachine]

    def control_planes(self) -> list[NestedMachine]:
        """By ordinal."""
        found = [machine for machine in self.machines if machine.spec.role == names.ROLE_CONTROL_PLANE]
        return sorted(found, key=lambda machine: machine.spec.ordinal)

    def workers(self) -> list[NestedMachine]:
        """By name."""
        found = [machine for machine in self.machines if machine.spec.role == names.ROLE_WORKER]
        return sorted(found, key=lambda machine: machine.metadata.name)


def compute_plan(request: PlanRequest) -> ClusterPlan:
    """What an apply would do; a manifest that is refused changes nothing."""
    meta, around = request.wanted["metadata"], request.around
    namespace, name = str(meta.get("namespace", "")), str(meta.get("name", ""))
    live = around.find(namespace, name)
    machines = around.machines_of(live) if live is not None else []
    now = compute_needs_now(machines)
    refusals = _read_answer(request.answer)
    try:
        wanted = NestedCluster.model_validate(request.wanted)
    except ValidationError as error:
        refusals = [*_read_validation(error), *refusals]
        return ClusterPlan(namespace, name, Verdict.REFUSED, refusals=_distinct(refusals), now=now, after=now)
    if live is not None:
        broken = [Refusal(one.field, one.message, Judge.RULE) for one in find_refused(live.spec, wanted.spec)]
        wanted = _as_running(wanted, live)
        refusals = [*broken, *refusals, *_ask_controller(_Planned(wanted, machines))]
    if refusals:
        return ClusterPlan(namespace, name, Verdict.REFUSED, refusals=_distinct(refusals), now=now, after=now)
    fields = compare_specs({} if live is None else live.spec.to_json(), wanted.spec.to_json())
    changes = decide(wanted, machines)
    verdict = _judge(live, fields, changes)
    return ClusterPlan(
        namespace=namespace,
        name=name,
        verdict=verdict,
        fields=() if live is None else tuple(fields),
        machines=tuple(changes),
        now=now,
        after=compute_needs_after(wanted, machines),
        budget=tuple(compute_budget(wanted, around)),
        notes=(*_find_delays(live, wanted, changes), *_find_staying(changes), *find_overlaps(wanted, around)),
    )


def compare_specs(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "spec") -> list[FieldChange]:
    """Leaf by leaf; pools are compared by their names, other lists as wholes."""
    found: list[FieldChange] = []
    for key in sorted({*old, *new}):
        before, after, where = old.get(key), new.get(key), f"{path}.{key}"
        if before == after:
            continue
        if _are_named(before) and _are_named(after):
            before, after = _by_name(before), _by_name(after)
            found += [_rename(change, where) for change in compare_specs(before, after, "")]
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            found += compare_specs(before, after, where)
        else:
            found.append(FieldChange(where, before, after))
    return found


def _are_named(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) and "name" in item for item in value)


def _by_name(items: Any) -> dict[str, Any]:  # noqa: ANN401 - looked at by `_are_named`
    return {str(item["name"]): item for item in items}


def _rename(change: FieldChange, where: str) -> FieldChange:
    """`.md.replicas` below a list of named items is `[md].replicas`."""
    name, dot, rest = change.field.removeprefix(".").partition(".")
    return FieldChange(f"{where}[{name}]{dot}{rest}", change.old, change.new)


def _judge(live: NestedCluster | None, fields: Sequence[FieldChange], changes: Sequence[MachineChange]) -> Verdict:
    if live is None:
        return Verdict.NEW
    moved = any(change.action is not Action.KEEP for change in changes)
    return Verdict.CHANGED if fields or moved else Verdict.UNCHANGED


def _find_delays(live: NestedCluster | None, wanted: NestedCluster, changes: Sequence[MachineChange]) -> list[str]:
    """Why a change would not be carried out at once."""
    if live is not None and live.metadata.deleting:
        return ["the cluster is being deleted: an apply changes nothing that lasts"]
    if all(change.action is Action.KEEP for change in changes):
        return []
    if wanted.spec.paused:
        return ["spec.paused is true: nothing is done before it is false"]
    if wanted.spec.power_state is PowerState.OFF:
        return ['spec.powerState is "Off": machines are made, replaced and removed when it is "On" again']
    return []


def _find_staying(changes: Sequence[MachineChange]) -> list[str]:
    """Which machines a change passes by."""
    return [
        f"{describe_staying(change.name)} ({', '.join(map(str, change.why))})"
        for change in changes
        if change.action is Action.KEEP and change.why
    ]


def _as_running(wanted: NestedCluster, live: NestedCluster) -> NestedCluster:
    """A manifest does not say what the status does, and some rules ask for it."""
    return wanted.model_copy(update={"status": live.status})


def _ask_controller(planned: _Planned) -> list[Refusal]:
    """What the controller would say to a spec that the API server takes."""
    if planned.cluster.spec.claim is not None:
        return []
    try:
        refuse_unsupported_changes(planned)
    except InvalidSpecError as error:
        return [Refusal(error.field, str(error).removeprefix(f"{error.field}: "), Judge.CONTROLLER)]
    return []


def _read_validation(error: ValidationError) -> list[Refusal]:
    found = []
    for problem in error.errors():
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        field = (path + str(problem.get("ctx", {}).get("field", ""))).removeprefix(".")
        found.append(Refusal(field, problem["msg"], Judge.RULE))
    return found


def _read_answer(answer: CapnError | None) -> list[Refusal]:
    """The API server's words; they name the field themselves."""
    return [] if answer is None else [Refusal("", str(answer), Judge.API_SERVER)]


def _distinct(refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
    return tuple(dict.fromkeys(refusals))
