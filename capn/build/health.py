"""Whether a machine is unhealthy, and from when on it may be replaced.

Role: pure. Inputs: a NestedMachine with its status, the cluster's health check; output: a `Finding` or None. Times are
those at which we saw a condition turn: a node's own come from the child, which nobody has to believe. Must not: read
the clock, or count what is merely not known (a child or hypervisor that does not answer).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from capn.api.conditions import MachineCondition, find
from capn.api.machine import NestedMachine
from capn.api.meta import Condition
from capn.api.pools import HealthCheck

# Of a VM that does not exist any more: its machine will never be Ready again.
GONE = frozenset({"MachineLost", "MachineVanished"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong. `due`: when it may be replaced; `counts`: whether it is unhealthy already before that.

    `by_node`: seen in the child, so that it can be looked at once more there. `never_ready`: not since its VM began.
    """

    message: str
    due: datetime
    counts: bool = True
    by_node: bool = False
    never_ready: bool = False


def is_ready(machine: NestedMachine) -> bool:
    """Whether the machine's Ready condition is True and nobody is deleting it."""
    ready = find(machine.status.conditions, MachineCondition.READY)
    return ready is not None and ready.status == "True" and not machine.metadata.deleting


def compute_finding(machine: NestedMachine, check: HealthCheck) -> Finding | None:
    """What is wrong with the machine; None when nothing is, or when it is a person's to mend."""
    status = machine.status
    running = find(status.conditions, MachineCondition.INFRASTRUCTURE_READY)
    booted = find(status.conditions, MachineCondition.BOOTSTRAP_SUCCEEDED)
    if running is None or booted is None:
        return None
    if status.failure_reason in GONE:
        return Finding("its VM is gone", _since(running))
    if running.status != "True":
        return None  # no room, no image, no answer: another machine would fare no better
    if status.failure_reason and booted.status == "False":
        return Finding(f"its bootstrap failed ({status.failure_reason})", _since(booted), never_ready=True)
    if status.failure_reason:
        return None
    return _judge_node(machine, running, booted, check)


def _judge_node(machine: NestedMachine, running: Condition, booted: Condition, check: HealthCheck) -> Finding | None:
    healthy = find(machine.status.conditions, MachineCondition.NODE_HEALTHY)
    ready = find(machine.status.conditions, MachineCondition.READY)
    if healthy is None or ready is None or healthy.status == "True":
        return None
    if booted.status == "True" and healthy.status == "Unknown":
        return None  # the child does not answer
    if _since(ready) <= _since(running):  # it has not been Ready since its VM began to run
        due = _since(running) + timedelta(seconds=check.node_startup_timeout_seconds)
        limit = f"{check.node_startup_timeout_seconds} s after its VM began to run"
        return Finding(f"its node was not Ready {limit}", due, counts=False, by_node=True, never_ready=True)
    due = _since(healthy) + timedelta(seconds=check.unhealthy_timeout_seconds)
    return Finding(f"its node was not Ready for {check.unhealthy_timeout_seconds} s", due, by_node=True)


def _since(condition: Condition) -> datetime:
    return datetime.fromisoformat(condition.last_transition_time)
