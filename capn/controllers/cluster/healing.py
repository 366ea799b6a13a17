"""What the phases of control planes and of workers share to heal: a verdict is kept, carried out and told.

Inputs: a verdict of `capn.build.remediation`. Must not: choose who is replaced.
"""

from __future__ import annotations

from capn.api.conditions import ClusterCondition, find, find_condition
from capn.api.resources import NESTED_CLUSTER, NODE
from capn.build.owners import build_subject
from capn.build.remediation import CONTROL_PLANES, Patient, Verdict
from capn.build.said import Said
from capn.controllers.cluster.machines import delete_machines
from capn.controllers.cluster.scope import ClusterScope

# Those that somebody should hear of who looks at no condition.
_TOLD = frozenset({"RemediationExhausted", "RemediationBlocked", "RolloutStopped", "RolloutBlocked"})


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
    tell(scope, Said(reason="Remediated", message=message[:1024]))


def tell_gravest(scope: ClusterScope, condition: ClusterCondition, said: Said) -> None:
    """An event when a condition begins to say what a person has to hear of."""
    before = find(scope.cluster.status.conditions, condition)
    if said.reason in _TOLD and (before is None or before.reason != said.reason):
        tell(scope, said)


def tell(scope: ClusterScope, said: Said) -> None:
    """A warning event of the cluster."""
    obj = build_subject(NESTED_CLUSTER, scope.cluster.metadata)
    scope.deps.recorder.event(obj, "Warning", said.reason, said.message)
