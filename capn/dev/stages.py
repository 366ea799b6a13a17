"""What changed since the last look at a cluster, as lines for people, and how long each stage took.

Role: pure bookkeeping over snapshots of the tree. Inputs: snapshots with the elapsed time. Must not: read the clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from capn.tree.model import ClusterNode, MachineNode

_LAST = "done"  # the guest's last word; what the machine then waits for says more


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of one machine (or of the cluster) and how long it was seen, in seconds."""

    subject: str
    stage: str
    seconds: float


@dataclass
class StageTracker:
    """Feed it snapshots in order; `observe` returns the lines that are news."""

    finished: list[StageTime] = field(default_factory=list)
    _current: dict[str, tuple[str, float]] = field(default_factory=dict)

    def observe(self, cluster: ClusterNode, elapsed_s: float) -> list[str]:
        """Lines for everything whose stage is another than at the last look."""
        news = []
        for subject, stage in _stages(cluster):
            before = self._current.get(subject)
            if before is not None and before[0] == stage:
                continue
            if before is not None:
                self.finished.append(StageTime(subject, before[0], elapsed_s - before[1]))
            self._current[subject] = (stage, elapsed_s)
            news.append(f"{subject:<24} {stage}")
        return news


def _stages(cluster: ClusterNode) -> list[tuple[str, str]]:
    machines = [(machine.name, _machine_stage(machine)) for machine in cluster.machines]
    return [(f"{cluster.namespace}/{cluster.name}", _join(cluster.phase, cluster.waiting)), *machines]


def _machine_stage(machine: MachineNode) -> str:
    if machine.ready:
        return "Ready"
    if machine.stage and machine.stage != _LAST and machine.phase in {"Bootstrapping", "Failed"}:
        return f"{machine.phase}: {machine.stage}"
    return _join(machine.phase, machine.waiting)


def _join(phase: str, waiting: str) -> str:
    return f"{phase}: {waiting}" if waiting and waiting != phase else phase


def sum_stages(stages: Iterable[StageTime]) -> list[StageTime]:
    """One entry a stage, in the order of its first time: a stage may be seen more than once."""
    sums: dict[tuple[str, str], float] = {}
    for stage in stages:
        key = (stage.subject, stage.stage)
        sums[key] = sums.get(key, 0.0) + stage.seconds
    return [StageTime(subject, name, seconds) for (subject, name), seconds in sums.items()]
