"""What the phases of control planes and of workers share to heal: a verdict is asked for, kept, carried out and told.

Inputs: the scope and the machines of pools. Must not: choose who is replaced; `capn.build.remediation` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capn.api.conditions import ClusterCondition, find, find_condition
from capn.api.machine import NestedMachine
from capn.api.pools import HealthCheck
from capn.api.resources import NESTED_CLUSTER, NODE
from capn.build.owners import build_subject
from capn.build.remediation import CONTROL_PLANES, Patient, Verdict, compute_remediation
from capn.build.said import Said
from capn.controllers.cluster.machines import delete_machines
from capn.controllers.cluster.power import was_switched_off
from capn.controllers.cluster.scope import ClusterScope

# Those that somebody should hear of who looks at no condition.
_TOLD = frozenset({"RemediationExhausted", "RemediationBlocked", "RolloutStopped", "RolloutBlocked"})


def examine(scope: ClusterScope, pools: Mapping[str, Sequence[NestedMachine]], wanted: int) -> Verdict:
    """What the cluster's health check says of these machines now; `wanted` is how many there shall be in all."""
    return compute_remediation(
        # One that is only being started again after the cluster was off is not ill.
        {name: [machine for machine in found if not was_switched_off(machine)] for name, found in pools.items()},
        wanted,
        scope.cluster.spec.health_check or HealthCheck(),
        scope.cluster.status.remediations or (),
        scope.deps.now(),
    )


def keep_verdict(scope: ClusterScope, verdict: Verdict, *, planes: bool) -> None:
    """Keep what the status has to hold, beside what the other phase keeps; control planes come first."""
    before = scope.cluster.status.remediations or () if scope.remediations is None else scope.remediations
    others = [record for record in before if (record.pool == CONTROL_PLANES) is not planes]
    scope.remediations = [*verdict.records, *others] if planes else [*others, *verdict.records]
    scope.healing |= verdict.healing


async def replace(scope: ClusterScope, patient: Patient) -> None:
    """Delete a machine, if its node is not well again behind our cache's back; its place is filled later."""
    machine = patient.machine
    if patient.finding.by_node and scope.child is not None:
        node = await scope.child.client.get(NODE, machine.metadata.name)
        ready = None if node is None else find_condition(node, "Ready")
        if ready is not None and ready.get("status") == "True":
            return
    await delete_machines(scope, [machine])
    message = f"{machine.metadata.name} is replaced: {patient.finding.message}"
    if machine.status.failure_message:
        message += f": {machine.status.failure_message}"
    _tell(scope, Said(reason="Remediated", message=message[:1024]))


def tell_gravest(scope: ClusterScope, condition: ClusterCondition, said: Said) -> None:
    """An event when a condition begins to say what a person has to hear of."""
    before = find(scope.cluster.status.conditions, condition)
    if said.reason in _TOLD and (before is None or before.reason != said.reason):
        _tell(scope, said)


def _tell(scope: ClusterScope, said: Said) -> None:
    obj = build_subject(NESTED_CLUSTER, scope.cluster.metadata)
    scope.deps.recorder.event(obj, "Warning", said.reason, said.message)
